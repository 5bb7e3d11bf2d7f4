package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// standIn is the provider that every contender calls. It writes one canned
// answer and costs as little as can be, so that the two cores are the
// contenders'. /calls tells how many it has had, and when; /down?on=1 makes
// it answer 503.
type standIn struct {
	delay  time.Duration
	answer []byte // header and body
	broken atomic.Bool

	mu    sync.Mutex
	times []time.Time // of calls, if they are to be told
	tell  bool
	calls atomic.Int64
}

func provider(ctx context.Context) error {
	size, _ := strconv.Atoi(os.Getenv("SIZE"))
	delay, _ := time.ParseDuration(os.Getenv("DELAY"))
	body := bodyOf(size)
	s := &standIn{delay: delay, tell: os.Getenv("TELL") != ""}
	s.answer = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := ready("http://" + l.Addr().String()); err != nil {
		return err
	}
	http.HandleFunc("/calls", s.told)
	http.HandleFunc("/down", func(_ http.ResponseWriter, r *http.Request) { s.broken.Store(r.URL.Query().Get("on") == "1") })
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("control", "http://"+control.Addr().String())
	go func() { _ = http.Serve(control, nil) }() //nolint:gosec // ends with the process
	go func() { <-ctx.Done(); _ = l.Close() }()
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		go s.serve(c)
	}
}

// bodyOf is a JSON object of about this many bytes, as a quote is: short
// members with numbers and texts.
func bodyOf(size int) []byte {
	b := []byte(`{"symbol":"AAPL","price":187.25`)
	for i := 0; len(b) < size-40; i++ {
		b = fmt.Appendf(b, `,"f%d":%d.%d,"t%d":"text \"%d\""`, i, i*7919%1000, i%100, i, i)
	}
	return append(b, '}')
}

var unavailable = []byte("HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")

func (s *standIn) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReaderSize(c, 4096)
	for {
		for { // one request: a head with no body
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(bytes.TrimRight(line, "\r\n")) == 0 {
				break
			}
		}
		s.calls.Add(1)
		if s.tell {
			s.mu.Lock()
			s.times = append(s.times, time.Now())
			s.mu.Unlock()
		}
		if s.delay > 0 {
			time.Sleep(s.delay)
		}
		answer := s.answer
		if s.broken.Load() {
			answer = unavailable
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// told writes the moments of all calls, in Unix microseconds, one a line.
func (s *standIn) told(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.tell {
		fmt.Fprintln(w, s.calls.Load())
		return
	}
	for _, t := range s.times {
		fmt.Fprintln(w, t.UnixMicro())
	}
}

// controlOf is where a stand-in takes orders.
func controlOf(p *process) string {
	said, _ := os.ReadFile(p.log)
	for line := range strings.Lines(string(said)) {
		if address, ok := strings.CutPrefix(line, "control "); ok {
			return strings.TrimSpace(address)
		}
	}
	return ""
}
