package record_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fetchworker/internal/broker"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A stream that met a full disk is told from one that has room without a
// write: when a publisher has met it, still when there is room again, and no
// more when the server was restarted.
func TestWhatMetAFullDiskIsStuck(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("none", disk, "tmpfs", 0, "size=24m"); err != nil {
		t.Skip("no disk can be mounted, as only root may: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	var server *broker.Embedded
	var nc *nats.Conn
	start := func() (jetstream.JetStream, *record.Log) {
		var err error
		if server, err = broker.Embed(broker.EmbedOptions{DataDir: disk, Sync: time.Minute}); err != nil {
			t.Fatal(err)
		}
		if nc, err = server.Connect(); err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return js, record.New(js, nil)
	}
	stop := func() { nc.Close(); server.Shutdown() }
	js, log := start()
	for _, name := range []string{"WORK", "OTHER"} {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}, Retention: jetstream.WorkQueuePolicy}); err != nil {
			t.Fatal(err)
		}
	}
	publish := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := js.Publish(ctx, "WORK.a", bytes.Repeat([]byte("x"), 16<<10))
		return err
	}
	stuck := func(name string, want bool) {
		t.Helper()
		why, err := log.Stuck(t.Context(), name, 1)
		if err != nil || (why != "") != want || want && !strings.Contains(why, "no space left") {
			t.Errorf("%s: %q %v", name, why, err)
		}
	}
	stuck("WORK", false) // that was never written to
	if err := publish(); err != nil {
		t.Fatal(err)
	}
	stuck("WORK", false)

	junk := filepath.Join(disk, "junk")
	file, err := os.Create(junk)
	if err != nil {
		t.Fatal(err)
	}
	for page := make([]byte, 4<<10); err == nil; {
		_, err = file.Write(page)
	}
	if _ = file.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	stuck("WORK", false) // nobody has met it
	for range 20 {
		if err = publish(); err != nil {
			break
		}
	}
	if err == nil {
		t.Fatal("a full disk takes all")
	}
	stuck("WORK", true)
	stuck("OTHER", false)
	if err := os.Remove(junk); err != nil {
		t.Fatal(err)
	}
	stuck("WORK", true)
	before, err := js.Stream(t.Context(), "WORK")
	if err != nil {
		t.Fatal(err)
	}
	stop()
	js, log = start()
	defer stop()
	stuck("WORK", false)
	after, err := js.Stream(t.Context(), "WORK")
	if err != nil {
		t.Fatal(err)
	}
	if was, is := before.CachedInfo().State, after.CachedInfo().State; was.LastSeq != is.LastSeq || was.Msgs != is.Msgs {
		t.Errorf("asking has changed the stream: %+v, %+v", was, is)
	}
	if err := publish(); err != nil {
		t.Error(err)
	}
}
