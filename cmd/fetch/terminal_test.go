package main

import (
	"bytes"
	"io"
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
	if err := show(a, false, &piped, io.Discard); err != nil || piped.String() != body {
		t.Errorf("piped: %q, %v", piped.String(), err)
	}
	screen, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = screen.Close() }()
	if err := show(a, false, tty, io.Discard); err != nil {
		t.Fatal(err)
	}
	seen := make([]byte, 200)
	n, err := screen.Read(seen)
	_ = tty.Close()
	if want := `price\x1b]52;c;aGk=\x07` + "\r\n"; err != nil || string(seen[:n]) != want {
		t.Errorf("on a terminal: %q, %v", seen[:n], err)
	}
}
