package broker_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/broker"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestTwoServersNeverShareAFolder(t *testing.T) {
	dir := t.TempDir()
	first, err := broker.Embed(broker.EmbedOptions{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for _, same := range []string{dir, dir + "/", filepath.Join(dir, "x", "..")} {
		second, err := broker.Embed(broker.EmbedOptions{DataDir: same})
		if err == nil {
			second.Shutdown()
			t.Fatalf("%s: a second server runs", same)
		}
		if !errors.Is(err, broker.ErrFolderInUse) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "this process") {
			t.Errorf("%s: %v", same, err)
		}
	}
	first.Shutdown()
	again, err := broker.Embed(broker.EmbedOptions{DataDir: dir})
	if err != nil {
		t.Fatalf("after the first has left: %v", err)
	}
	again.Shutdown()
}

// A file that says nothing of use, or names a process that is gone, is not a
// lock: the kernel has the lock.
func TestALockFileAloneIsNoObstacle(t *testing.T) {
	for _, content := range []string{"", "999999\n", fmt.Sprint(os.Getppid()), "nonsense"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "fetchworker.lock"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := broker.Embed(broker.EmbedOptions{DataDir: dir})
		if err != nil {
			t.Fatalf("%q: %v", content, err)
		}
		e.Shutdown()
	}
}

func TestAFolderThatCannotBeUsedIsToldAtOnce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inTheWay := filepath.Join(dir, "data")
	if err := os.Mkdir(inTheWay, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inTheWay, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, path := range map[string]string{
		"a file": file, "below a file": filepath.Join(file, "data"), "a file where JetStream's folder belongs": inTheWay,
	} {
		core, logs := observer.New(zap.WarnLevel)
		started := time.Now()
		e, err := broker.Embed(broker.EmbedOptions{DataDir: path, Logger: zap.New(core)})
		if err == nil {
			e.Shutdown()
			t.Fatalf("%s: a server runs", what)
		}
		if took := time.Since(started); took > 5*time.Second || !strings.Contains(err.Error(), file) && !strings.Contains(err.Error(), inTheWay) {
			t.Errorf("%s: after %v: %v", what, took, err)
		}
		if path == inTheWay && logs.Len() == 0 {
			t.Error("the server's own word is not logged")
		}
	}
}
