// Command fetch asks fetchworker for things and prints the answers.
//
// It is the agents' client (package fetchworker) on a command line: it
// publishes requests, waits for their final answers and writes the bodies to
// standard output. Who runs it is an agent like any other.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"fetchworker/internal/terminal"
)

func main() {
	time.Local = time.UTC // what is stored, logged or shown says so, wherever the machine stands
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, errTold) {
		_ = terminal.Printf(os.Stderr, "fetch: %v\n", err) // nobody is left to tell
	}
	os.Exit(exitCode(err))
}

// What went wrong, for the exit code. errTold joins one that needs no more
// words.
var (
	errTold    = errors.New("told already")
	errFailed  = errors.New("the answer is a failure")
	errUsage   = errors.New("usage")
	errPending = errors.New("no final answer yet")
	errServer  = errors.New("no server")
)

// exitCode tells a script what happened: 0 an answer, 1 a failed answer or an
// error, 2 a mistake of usage, 3 no final answer yet, 4 no server.
func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		return 2
	case errors.Is(err, errPending):
		return 3
	case errors.Is(err, errServer):
		return 4
	default:
		return 1
	}
}
