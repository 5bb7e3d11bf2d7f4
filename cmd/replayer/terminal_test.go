package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/creack/pty"
)

// counter is a server with a number of letters on it.
func counter(t *testing.T, letters int) *brokertest.Broker {
	t.Helper()
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(b.Stop)
	log := record.New(b.JS, nil)
	for n := range letters {
		if err := dlq.Put(t.Context(), log, testLetter("q-"+strconv.Itoa(n))); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func testLetter(id string) dlq.Letter {
	now := time.Now().UTC()
	return dlq.Letter{
		Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: id},
		Lane:     fetchworker.LaneInteractive, Body: []byte(`{"params":{"symbol":"AAPL"}}`),
		Generation: 1, Calls: 4, Failures: 4, Class: wire.ClassTransient, Error: "timeout after 5s",
		RequestedAt: now.Add(-time.Hour), FailedAt: now.Add(-time.Minute), FirstFailedAt: now.Add(-time.Hour), NotBefore: now.Add(time.Hour),
	}
}

func command(t *testing.T, url string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "replayer", args...)
	cmd.Env = append(os.Environ(), "NATS_URL="+url, "USER=ann", "TERM=xterm", "NO_COLOR=", "GORACE="+atOnce)
	return cmd
}

// screen is a command on a terminal.
type console struct {
	t   *testing.T
	cmd *exec.Cmd
	tty *os.File

	mu   sync.Mutex
	seen bytes.Buffer
	end  chan struct{}
}

func onTerminal(t *testing.T, b *brokertest.Broker, args ...string) *console {
	t.Helper()
	c := &console{t: t, cmd: command(t, b.Server.URL(), args...), end: make(chan struct{})}
	var err error
	if c.tty, err = pty.StartWithSize(c.cmd, &pty.Winsize{Rows: 40, Cols: 120}); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.end)
		buffer := make([]byte, 4096)
		for {
			n, err := c.tty.Read(buffer)
			c.mu.Lock()
			c.seen.Write(buffer[:n])
			c.mu.Unlock()
			if err != nil { // EIO when the command has ended
				return
			}
		}
	}()
	return c
}

func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen.String()
}

func (c *console) await(want string) {
	c.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(c.text(), want) {
			return
		}
	}
	c.t.Fatalf("not seen: %q in %q", want, c.text())
}

func (c *console) send(keys string) {
	c.t.Helper()
	if _, err := io.WriteString(c.tty, keys); err != nil {
		c.t.Fatal(err)
	}
}

// exit waits for the end and returns the exit code.
func (c *console) exit() int {
	c.t.Helper()
	err := c.cmd.Wait()
	<-c.end // all that it said is read before the terminal goes
	_ = c.tty.Close()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return c.cmd.ProcessState.ExitCode()
}

func due(t *testing.T, b *brokertest.Broker) int {
	t.Helper()
	out, err := command(t, b.Server.URL(), "list", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(out), `"state":"due"`)
}

func TestAPersonConfirms(t *testing.T) {
	for name, c := range map[string]struct {
		letters  int
		question string
		keys     string
		code     int
		due      int
	}{
		"a few, no":          {3, "replay these 3 messages? [y/N]", "n\r", 1, 0},
		"a few, enter":       {3, "replay these 3 messages? [y/N]", "\r", 1, 0},
		"a few, yes":         {3, "replay these 3 messages? [y/N]", "y\r", 0, 3},
		"many, yes":          {101, "type 101 to replay these messages:", "y\r", 1, 0},
		"many, wrong number": {101, "type 101 to replay these messages:", "100\r", 1, 0},
		"many, the number":   {101, "type 101 to replay these messages:", "101\r", 0, 101},
		"a few, ctrl-c":      {3, "[y/N]", "\x03", 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := counter(t, c.letters)
			console := onTerminal(t, b, "replay", "--all")
			console.await(c.question)
			if !strings.Contains(console.text(), "timeout after #s") {
				t.Error("the plan does not come first")
			}
			console.send(c.keys)
			if code := console.exit(); code != c.code {
				t.Errorf("exit code %d, want %d: %s", code, c.code, console.text())
			}
			if got := due(t, b); got != c.due {
				t.Errorf("%d are due, want %d", got, c.due)
			}
			if c.code == 1 && !strings.Contains(console.text(), "nothing was changed") {
				t.Error(console.text())
			}
		})
	}
}

func TestProgressBarAndCtrlC(t *testing.T) {
	t.Parallel()
	b := counter(t, 40)
	console := onTerminal(t, b, "replay", "--all", "--yes", "--rate", "5/s")
	console.await("[██")
	console.await("of 40 (")
	console.await("/s, ")
	console.await(" left")
	console.send("\x03")
	if code := console.exit(); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	text := console.text()
	if !strings.Contains(text, "interrupted; run the same command again") || !strings.Contains(text, "of 40 in") {
		t.Errorf("%q", text)
	}
	first := due(t, b)
	if first == 0 || first == 40 {
		t.Errorf("%d are due after Ctrl-C", first)
	}
	// Again: the rest, and only that.
	console = onTerminal(t, b, "replay", "--all", "--yes")
	if code := console.exit(); code != exitDone {
		t.Errorf("exit code %d: %s", code, console.text())
	}
	if !strings.Contains(console.text(), "replayed "+strconv.Itoa(40-first)+" of "+strconv.Itoa(40-first)) || due(t, b) != 40 {
		t.Errorf("%q", console.text())
	}
}

func TestWatchRefreshesInPlace(t *testing.T) {
	t.Parallel()
	b := counter(t, 2)
	console := onTerminal(t, b, "status", "--watch", "--every", "200ms")
	console.await("letters   2")
	if err := dlq.Put(t.Context(), record.New(b.JS, nil), testLetter("one-more")); err != nil {
		t.Fatal(err)
	}
	console.await("letters   3")
	if !strings.Contains(console.text(), "\x1b[H\x1b[2J") {
		t.Error("it does not refresh in place")
	}
	if !strings.Contains(console.text(), "\x1b[31m") {
		t.Error("it has no colour")
	}
	console.send("\x03")
	if code := console.exit(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	console = onTerminal(t, b, "status", "--no-color")
	if console.exit(); strings.Contains(console.text(), "\x1b[") {
		t.Error("it has colour all the same")
	}
}
