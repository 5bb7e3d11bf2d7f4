package main

import (
	"bytes"
	"io"
	"os"
	"testing"

	"fetchworker"

	"github.com/creack/pty"
)

// A provider's body on a terminal is shown, not obeyed; anywhere else it is
// the provider's bytes.
func TestATerminalDoesNotObeyABody(t *testing.T) {
	const body = "price\x1b]52;c;aGk=\x07\n"
	a := fetchworker.Answer{Status: fetchworker.StatusOK, Final: true, Body: []byte(body)}
	var piped bytes.Buffer
	c := &cli{address: address{getenv: func(string) string { return "" }}, out: &piped, errs: io.Discard}
	if err := c.show(a, 0); err != nil || piped.String() != body {
		t.Errorf("piped: %q, %v", piped.String(), err)
	}
	screen, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = screen.Close() }()
	c.out = tty
	if err := c.show(a, 0); err != nil {
		t.Fatal(err)
	}
	if seen, want := onScreen(screen, tty), `price\x1b]52;c;aGk=\x07`+"\r\n"; seen != want {
		t.Errorf("on a terminal: %q", seen)
	}
}

// onScreen is everything that was written to the terminal, which it closes: one
// read may see only what was written so far. A terminal whose other side is
// gone ends in an error (EIO on Linux), so that what was read is what counts.
func onScreen(screen, tty *os.File) string {
	_ = tty.Close()
	seen, _ := io.ReadAll(screen)
	return string(seen)
}

// JSON on a terminal is laid out and coloured, unless colours are unwanted;
// through a pipe it is the provider's to the byte.
func TestJSONOnATerminalIsLaidOut(t *testing.T) {
	for name, c := range map[string]struct{ noColour, want string }{
		"colours":    {"", "{\r\n  \x1b[34m\"a\"\x1b[0m: \x1b[32m\"x\\\"y\"\x1b[0m,\r\n  \x1b[34m\"b\"\x1b[0m: \x1b[33m-1.50\x1b[0m\r\n}\r\n"},
		"no colours": {"1", "{\r\n  \"a\": \"x\\\"y\",\r\n  \"b\": -1.50\r\n}\r\n"},
	} {
		screen, tty, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		run := &cli{address: address{getenv: func(string) string { return c.noColour }}, out: tty, errs: io.Discard}
		a := fetchworker.Answer{Status: fetchworker.StatusOK, Final: true, Body: []byte(`{"a":"x\"y","b":-1.50}`)}
		if err := run.show(a, 0); err != nil {
			t.Fatal(err)
		}
		seen := onScreen(screen, tty)
		_ = screen.Close()
		if seen != c.want {
			t.Errorf("%s: %q", name, seen)
		}
	}
}
