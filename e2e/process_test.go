package e2e

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a program that runs, or has ended.
type process struct {
	name string
	cmd  *exec.Cmd
	log  output
	done chan struct{} // closed when it has ended
}

// launch starts a program with this environment only. It is killed when the
// test ends, at the latest; the end of its log is shown if the test failed.
func launch(t *testing.T, name, path string, env map[string]string, args ...string) *process {
	t.Helper()
	p := &process{name: name, cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	for key, value := range env {
		p.cmd.Env = append(p.cmd.Env, key+"="+value)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	endWithParent(p.cmd)
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // its state says how it ended
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		// The second is said by programs built with GOFLAGS=-race.
		for _, never := range []string{"panic: ", "DATA RACE"} {
			if line := p.log.find(never); line != "" {
				t.Errorf("%s: %s", name, line)
			}
		}
		if t.Failed() {
			t.Logf("the log of %s ends with\n%s", name, p.log.tail(20))
		}
	})
	return p
}

// kill ends a process as the kernel does it, and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may be gone already
	<-p.done
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("%v to %s: %v", s, p.name, err)
	}
}

// ended waits for the end and returns the exit code; -1: a signal ended it.
func (p *process) ended(t *testing.T, within time.Duration) int {
	t.Helper()
	until(t, within, p.name+" ends", p.gone)
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) gone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// says waits until the process has logged a line with this text, and returns
// the line.
func (p *process) says(t *testing.T, text string) (line string) {
	t.Helper()
	until(t, time.Minute, p.name+" says "+text, func() bool {
		if p.gone() {
			t.Fatalf("%s ended before it said %q: %v\n%s", p.name, text, p.cmd.ProcessState, p.log.tail(20))
		}
		line = p.log.find(text)
		return line != ""
	})
	return line
}

// field is a string field of a line that the logger wrote.
func field(t *testing.T, line, name string) string {
	t.Helper()
	_, after, _ := strings.Cut(line, `"`+name+`":"`)
	value, _, ok := strings.Cut(after, `"`)
	if !ok {
		t.Fatalf("no field %s in %s", name, line)
	}
	return value
}

// until polls, since what a process does has no other sign.
func until(t *testing.T, within time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// get is the status and the text of a page; 0 of one that nobody serves.
func get(t *testing.T, url string) (status int, text string) {
	t.Helper()
	res, err := http.Get(url) //nolint:forbidigo // loopback, in a test with a time limit
	if err != nil {
		return 0, ""
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, ""
	}
	return res.StatusCode, string(body)
}

// output is what a process has written so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

// find is the first complete line with this text, empty if there is none yet.
func (o *output) find(text string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for line := range strings.Lines(o.b.String()) {
		if strings.HasSuffix(line, "\n") && strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

func (o *output) tail(n int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	lines := strings.SplitAfter(o.b.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
