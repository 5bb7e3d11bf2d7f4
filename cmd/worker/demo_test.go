package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// emptied makes the temporary folder one of the test's own, which must be
// empty again when the test ends.
func emptied(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	})
}

func TestTheDemoShowsWhatItPromises(t *testing.T) {
	emptied(t)
	// What is set for a real worker must not reach the demonstration.
	t.Setenv("NATS_URL", "nats://192.0.2.1:4222")
	t.Setenv("FMP_BASE_URL", "http://192.0.2.1")
	var out bytes.Buffer
	started := time.Now()
	if err := run(t.Context(), []string{"demo"}, os.Getenv, &out, io.Discard); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if took := time.Since(started); took > 45*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, s := range scenes {
		if !strings.Contains(out.String(), s.title) {
			t.Errorf("nothing of %q in\n%s", s.title, out.String())
		}
	}
}

func TestADemoThatDoesNotSeeWhatItPromisesFails(t *testing.T) {
	emptied(t)
	wrong := errors.New("polygon was called twice")
	var out bytes.Buffer
	err := show(t.Context(), &out, []scene{{"A claim that is not true", "", func(context.Context, *stage) error { return wrong }}})
	if !errors.Is(err, wrong) {
		t.Errorf("error %v", err)
	}
	for _, words := range []string{`"message":"serving"`, `"next":"fetch ops fmp --server nats://127.0.0.1:`} {
		if !strings.Contains(out.String(), words) {
			t.Errorf("%s: the worker's last words are missing:\n%s", words, out.String())
		}
	}
}

func TestTheBooksMustBalance(t *testing.T) {
	emptied(t)
	err := show(t.Context(), io.Discard, []scene{{"A request that nobody waited for", "", func(ctx context.Context, s *stage) error {
		_, err := s.ask(ctx, request{agent: "alice", provider: "polygon", operation: "previous_close", params: `{"symbol":"` + brokenSymbol + `"}`})
		return err
	}}})
	if err == nil || !strings.Contains(err.Error(), "0 final answers") {
		t.Errorf("error %v", err)
	}
}

func TestTheDemoCanBeInterrupted(t *testing.T) {
	emptied(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := show(ctx, io.Discard, []scene{{"Ctrl-C", "", func(ctx context.Context, s *stage) error {
		cancel()
		return s.until(ctx, time.Minute, "the end of days", func() (bool, error) { return false, nil })
	}}})
	if err == nil || err.Error() != "demo: interrupted" {
		t.Errorf("error %v", err)
	}
}

func TestTheDemoTakesNoArguments(t *testing.T) {
	if err := run(t.Context(), []string{"demo", "fast"}, os.Getenv, io.Discard, io.Discard); !errors.Is(err, errUsage) {
		t.Errorf("error %v", err)
	}
}

// With a page the demonstration goes on after its end, and shows it.
func TestTheDemonstrationStaysOnItsPage(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	told, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := stay(ctx, out, []scene{scenes[0], scenes[3]}, "127.0.0.1:0")
		_ = out.Close()
		ended <- err
	}()
	url := ""
	for lines := bufio.NewScanner(told); lines.Scan(); {
		if found := regexp.MustCompile(`The page stays at (\S+) until`).FindStringSubmatch(lines.Text()); found != nil {
			url = found[1]
			break
		}
	}
	go func() { _, _ = io.Copy(io.Discard, told) }()
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	var body []byte
	for range 100 {
		answer, err := client.Get(url + "/agents")
		if err != nil {
			t.Fatal(err)
		}
		body, err = io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err == nil && bytes.Contains(body, []byte("alice")) && bytes.Contains(body, []byte("transient-500")) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if !bytes.Contains(body, []byte("alice")) || !bytes.Contains(body, []byte("transient-500")) {
		t.Errorf("the page does not tell who asked and what failed: %s", body)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
