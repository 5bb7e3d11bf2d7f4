package page_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/operate"
	"fetchworker/internal/page"

	"go.uber.org/zap/zaptest"
)

// pipes is a listener whose connections hold nothing: who reads slowly is felt.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// A table is whole, however long a browser takes for it, and says where it
// breaks off if the page ends meanwhile.
func TestATableIsWhole(t *testing.T) {
	for _, ends := range []bool{false, true} {
		t.Run(fmt.Sprint("the page ends: ", ends), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { slowTable(t, ends) })
		})
	}
}

func slowTable(t *testing.T, ends bool) {
	b := brokertest.Start(t)
	defer b.Stop()
	const letters = 1000
	for n := range letters {
		if _, err := b.JS.PublishMsg(t.Context(), letter("alice", fmt.Sprint("q-", n), strings.Repeat("x", 400)).DeadLetter()); err != nil {
			t.Fatal(err)
		}
	}
	desk, err := operate.Open(t.Context(), b.NC)
	if err != nil {
		t.Fatal(err)
	}
	fleet, err := desk.Fleet(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer fleet.Close()
	s, err := page.New(page.Config{Desk: desk, Fleet: fleet, By: "ann", Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	ln := &pipes{make(chan net.Conn), make(chan struct{})}
	serving, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(serving, ln) }()
	ours, theirs := net.Pipe()
	ln.conns <- theirs
	if _, err := fmt.Fprint(ours, "GET /letters.csv HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(ours), nil)
	if err != nil {
		t.Fatal(err)
	}
	rows, last := 0, ""
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); rows++ {
		last = lines.Text()
		switch {
		case !ends || rows < 100:
			time.Sleep(300 * time.Millisecond) // of which 20 s pass in a hundred rows
		case rows == 100:
			stop()
		}
	}
	if whole := rows == 1+letters && strings.Contains(last, ",q-999,"); whole == ends {
		t.Errorf("%d rows, the last %q", rows, last)
	}
	if ends && !strings.HasPrefix(last, "it breaks off here: ") {
		t.Errorf("the last row is %q", last)
	}
	stop()
	if err := <-served; err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
