package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/providers/providertest"
)

// TestADiskIsFullAndHasRoomAgain: another program fills the disk under the
// server while an agent asks, and later leaves room. What the runbook says of
// it is seen here.
func TestADiskIsFullAndHasRoomAgain(t *testing.T) {
	begin(t)
	if !full {
		t.Skip("a disk of its own, and a minute: with FETCH_CHAOS=full")
	}
	disk := smallDisk(t, "96m")
	port := brokertest.FreePort(t)
	server := &natsServer{name: "fetch", port: port, args: []string{serverRole, "../nats/server.conf", strconv.Itoa(port), "0", "", disk}}
	server.start(t)
	f := onServers(t, []*natsServer{server}, 1, "FETCH_STREAM_BYTES=requests=8MiB,results=8MiB,bodies=8MiB,cache=8MiB")
	f.upstream.Fallback = func(*http.Request) *providertest.Step {
		// Each answer begins a page of the disk that is not there yet.
		step := providertest.JSON(http.StatusOK, `[{"symbol":"AAPL","history":"`+strings.Repeat("x", 8<<10)+`"}]`)
		return &step
	}
	f.replayer()
	worker := f.worker("FETCH_HTTP_ADDR", "127.0.0.1:0")
	ready := "http://" + field(t, worker.says(t, `"serving"`), "http") + "/readyz"
	symbol := 0
	ask := func(within time.Duration) error {
		symbol++
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		agent, err := f.agent("alice")
		if err != nil {
			return err
		}
		id := fmt.Sprint("S", symbol)
		r := fetchworker.Request{Provider: "fmp", Operation: "quote", Agent: "alice", ID: id, Params: params("fmp", id)}
		receipt, err := agent.Submit(ctx, r)
		if err == nil {
			f.accepted = append(f.accepted, receipt.Identity)
		}
		return err
	}
	for range 20 {
		if err := ask(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	f.settled(time.Minute)

	junk := filepath.Join(disk, "junk")
	fillUp(t, junk)
	filled := time.Now()
	until(t, time.Minute, "a publisher is told nothing", func() bool { return ask(3*time.Second) != nil })
	until(t, time.Minute, "/readyz names the store", func() bool {
		status, text := get(t, ready)
		return status == http.StatusServiceUnavailable && strings.Contains(text, fetchworker.StreamResults)
	})
	t.Logf("not ready %v after the disk was full", time.Since(filled).Round(time.Second))
	calls := len(f.upstream.Calls())

	if err := os.Remove(junk); err != nil {
		t.Fatal(err)
	}
	until(t, time.Minute, "room alone does not help", func() bool {
		status, _ := get(t, ready)
		return status == http.StatusServiceUnavailable && ask(3*time.Second) != nil
	})
	if more := len(f.upstream.Calls()) - calls; more != 0 {
		t.Errorf("%d calls whose answers could not be stored", more)
	}

	server.kill()
	server.start(t)
	restarted := time.Now()
	until(t, time.Minute, "ready again", func() bool { status, _ := get(t, ready); return status == http.StatusOK })
	t.Logf("ready %v after the server's restart", time.Since(restarted).Round(100*time.Millisecond))
	for range 20 {
		if err := ask(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	f.settled(time.Minute)
	for _, id := range f.accepted {
		if n := len(f.calls(id.ID)); n != 1 {
			t.Errorf("%s: %d calls", id, n)
		}
	}
	t.Logf("%d accepted: %v", len(f.accepted), f.statuses())
}

// smallDisk is a folder with a disk of its own.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir, err := mountDisk(t, size)
	if err != nil {
		t.Skip("it needs a disk that can be filled: ", err)
	}
	return dir
}

func mountDisk(t *testing.T, size string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
		return dir, fmt.Errorf("no disk can be mounted, as only root may: %w", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, nil
}

// theDiskFills takes the room that is left on the server's disk. Room alone does
// not help: the server is restarted, as the doctor says.
func (h *shift) theDiskFills() {
	if h.noDisk != nil {
		h.t.Log("the disk is not filled: ", h.noDisk)
		return
	}
	h.everybody(func() {
		h.nothingStored(func() {
			junk := filepath.Join(h.data, "junk")
			fillUp(h.t, junk)
			h.unready(15*time.Second, "FETCH_")
			if code, words := h.run("replayer", "doctor"); code == 0 || !strings.Contains(words, "restart nats-server") {
				h.t.Errorf("the disk is full, and the doctor says %s", words)
			}
			if err := os.Remove(junk); err != nil {
				h.t.Fatal(err)
			}
			h.unready(15*time.Second, "FETCH_")
			h.server.kill()
			h.server.start(h.t)
		})
		h.well("the disk full")
	})
}

// fillUp writes a file until there is no room for more of it.
func fillUp(t *testing.T, name string) {
	t.Helper()
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for page := bytes.Repeat([]byte("x"), 4<<10); err == nil; {
		_, err = file.Write(page)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}
