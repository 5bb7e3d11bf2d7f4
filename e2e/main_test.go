// Package e2e runs the real programs as processes of their own, kills them,
// freezes them and takes their server away, on the wall clock. What came of it
// is counted where it matters: at the provider, and in the streams.
//
// Each test has a short form, which "go test ./..." runs, and a full one that
// FETCH_CHAOS=full selects ("make chaos").
package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// full selects the forms that take minutes.
var full = os.Getenv("FETCH_CHAOS") == "full"

// pick is a number of the short form or of the full one.
func pick[T any](short, long T) T {
	if full {
		return long
	}
	return short
}

// programs is the directory with the built programs.
var programs string

func TestMain(m *testing.M) {
	// Not a test: a NATS server that a test started, and will kill.
	if len(os.Args) > 1 && os.Args[1] == serverRole {
		serveNATS(os.Args[2:])
	}
	// Nor this: those who stand at the HTTP door.
	if len(os.Args) > 1 && os.Args[1] == crowdRole {
		standAtTheDoor(os.Args[2:])
	}
	// Nor this: an agent that reads large answers.
	if len(os.Args) > 1 && os.Args[1] == readerRole {
		readLarge(os.Args[2:])
	}
	// Nor this: the least that can do a worker's job, to compare.
	if len(os.Args) > 1 && os.Args[1] == bareRole {
		bareLoop(os.Args[2:])
	}
	flag.Parse()
	if testing.Short() {
		m.Run() // every test skips itself
		return
	}
	dir, err := os.MkdirTemp("", "fetchworker-e2e-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	programs = dir
	if output, err := exec.Command("go", "build", "-o", dir, "fetchworker/cmd/worker", "fetchworker/cmd/replayer", "fetchworker/cmd/fetch", "fetchworker/cmd/gateway").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("go build: %v\n%s", err, output))
	}
	// The short forms wait for most of their time, and do so side by side. The
	// full ones measure, each with the machine to itself.
	if err := flag.Set("test.parallel", pick("8", "1")); err != nil {
		panic(err)
	}
	m.Run()
}

// begin is the first line of every test.
func begin(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs processes for tens of seconds")
	}
	t.Parallel()
}

func program(name string) string { return filepath.Join(programs, name) }
