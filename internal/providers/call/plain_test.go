package call_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/providers/call"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"
)

// script is a server in memory that says to each request what it is told to, over
// connections that are counted.
type script struct {
	says   func(conn net.Conn, n int) (goesOn bool) // to request n of all
	dials  atomic.Int32
	asked  atomic.Int32
	served sync.WaitGroup
	delay  func(n int32) time.Duration // of dial n
}

func (s *script) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	n := s.dials.Add(1)
	if s.delay != nil {
		if err := wait.For(ctx, s.delay(n)); err != nil {
			return nil, err
		}
	}
	ours, theirs := net.Pipe()
	s.served.Go(func() {
		defer func() { _ = theirs.Close() }()
		from := bufio.NewReader(theirs)
		for {
			req, err := http.ReadRequest(from)
			if err != nil {
				return
			}
			_ = req.Body.Close()
			if !s.says(theirs, int(s.asked.Add(1))) {
				return
			}
		}
	})
	return ours, nil
}

const plainOK = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]"

// Over which connection a call may follow another, by what the first was told.
func TestWhatAConnectionIsGoodFor(t *testing.T) {
	for what, c := range map[string]struct {
		said string
		ends bool // the server closes behind it
		uses int32
	}{
		"an answer of a told length":       {said: plainOK, uses: 1},
		"one in chunks":                    {said: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1]\r\n0\r\n\r\n", uses: 1},
		"one in chunks with a trailer":     {said: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n3\r\n[1]\r\n0\r\nX-A: 1\r\n\r\n", uses: 1},
		"what announces it":                {said: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + plainOK, uses: 1},
		"an answer without a body":         {said: "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", uses: 1},
		"an old server's that goes on":     {said: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n[1]", uses: 1},
		"an old server's":                  {said: "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n[1]", uses: 2},
		"the last":                         {said: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\n[1]", uses: 2},
		"one that lasts until the end":     {said: "HTTP/1.1 200 OK\r\n\r\n[1]", ends: true, uses: 2},
		"more than was asked for":          {said: plainOK + "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[2]", uses: 2},
		"a body that breaks off":           {said: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1]", ends: true, uses: 2},
		"a chunk that breaks off":          {said: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n[1]", ends: true, uses: 2},
		"a chunk that is none":             {said: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", uses: 2},
		"another protocol":                 {said: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", uses: 2},
		"what announces it for ever":       {said: strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 10_000), uses: 2},
		"a length that cannot be":          {said: "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n[1]", uses: 2},
		"no HTTP":                          {said: "220 mail ESMTP\r\n", uses: 2},
		"nothing, and the end":             {said: "", ends: true, uses: 2},
		"an error that nobody reads whole": {said: "HTTP/1.1 500 No\r\nContent-Length: 3000000\r\n\r\n" + strings.Repeat("x", 2_000_000), uses: 2},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{says: func(conn net.Conn, n int) bool {
					said := plainOK
					if n == 1 {
						said = c.said
					}
					_, _ = io.WriteString(conn, said) // it is closed where nobody reads on
					return n > 1 || !c.ends
				}}
				p, planned := callerBy(t, "http://api.example.com", s.dial, 5*time.Second)
				began := time.Now()
				first := p.Do(t.Context(), planned, call.Options{})
				if took := time.Since(began); took > 0 {
					t.Errorf("waited %v for more", took)
				}
				t.Logf("%s %d %s", first.Class, first.HTTPStatus, first.Detail)
				second := p.Do(t.Context(), planned, call.Options{})
				if second.Class != wire.ClassOK || string(second.Body) != "[1]" || s.dials.Load() != c.uses || s.asked.Load() != 2 {
					t.Errorf("the next call: %s %q %s; %d connections, want %d; %d asked", second.Class, second.Body, second.Detail, s.dials.Load(), c.uses, s.asked.Load())
				}
				p.Close()
				s.served.Wait() // every connection is closed
			})
		})
	}
}

// An idle connection is kept for half a minute, and one that its server has closed
// is not written to.
func TestAnIdleConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{says: func(conn net.Conn, _ int) bool { _, err := io.WriteString(conn, plainOK); return err == nil }}
		p, planned := callerBy(t, "http://api.example.com", s.dial, 5*time.Second)
		for i, c := range []struct {
			after time.Duration
			dials int32
		}{{0, 1}, {29 * time.Second, 1}, {29 * time.Second, 1}, {30*time.Second + 1, 2}, {time.Hour, 3}, {time.Second, 3}} {
			time.Sleep(c.after)
			if r := p.Do(t.Context(), planned, call.Options{}); r.Class != wire.ClassOK || s.dials.Load() != c.dials {
				t.Errorf("call %d after %v: %s %s; %d connections, want %d", i, c.after, r.Class, r.Detail, s.dials.Load(), c.dials)
			}
		}
		time.Sleep(time.Minute)
		s.served.Wait() // nobody asks, and all are closed
	})
	server, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	const calls = 20
	ended := make(chan struct{})
	var served sync.WaitGroup
	served.Go(func() {
		for range calls {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, plainOK)
			}
			_ = conn.Close()
			ended <- struct{}{}
		}
	})
	p, planned := caller(t, "http://"+server.Addr().String())
	for i := range calls {
		if r := p.Do(t.Context(), planned, call.Options{}); r.Class != wire.ClassOK {
			t.Errorf("call %d: %s %s", i, r.Class, r.Detail)
		}
		<-ended
	}
	served.Wait()
}

// Who dials takes what another call has ended with, if that comes first; there are
// no more connections than AtMost says; and who is told to end waits no longer.
func TestWhoGetsAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{
			says: func(conn net.Conn, _ int) bool {
				time.Sleep(time.Second)
				_, err := io.WriteString(conn, plainOK)
				return err == nil
			},
			delay: func(n int32) time.Duration { return time.Duration(n-1) * time.Hour },
		}
		p, planned := callerBy(t, "http://api.example.com", s.dial, time.Minute)
		p.AtMost(8) // and two more
		began := time.Now()
		var all sync.WaitGroup
		var ends [30]time.Duration
		for i := range ends {
			all.Go(func() {
				if r := p.Do(t.Context(), planned, call.Options{}); r.Class != wire.ClassOK {
					t.Errorf("call %d: %s %s", i, r.Class, r.Detail)
				}
				ends[i] = time.Since(began)
			})
		}
		synctest.Wait()
		if n := s.dials.Load(); n != 10 {
			t.Errorf("%d connections at once, want 10", n)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		all.Go(func() {
			if r := p.Do(ctx, planned, call.Options{}); r.Sent || !errors.Is(r.Err, errLapsed) {
				t.Errorf("ended while it waited: sent %v, %v", r.Sent, r.Err)
			}
		})
		synctest.Wait()
		cancel(errLapsed)
		all.Wait()
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("thirty calls of a second over the one connection that stood took %v: %v", took, ends)
		}
		p.Close()
		s.served.Wait()
	})
}

// A dial that fails is the failure of whoever dialled, and of nobody else.
func TestWhoseFailureADialIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		s := &script{says: func(conn net.Conn, _ int) bool { _, err := io.WriteString(conn, plainOK); return err == nil }}
		var dials atomic.Int32
		p, planned := callerBy(t, "http://api.example.com", func(ctx context.Context, network, addr string) (net.Conn, error) {
			if n := dials.Add(1); n <= 2 {
				time.Sleep(time.Second)
				return nil, refused
			}
			return s.dial(ctx, network, addr)
		}, time.Minute)
		p.AtMost(1) // and one more
		var failed, well atomic.Int32
		var all sync.WaitGroup
		for range 6 {
			all.Go(func() {
				switch r := p.Do(t.Context(), planned, call.Options{}); {
				case errors.Is(r.Err, refused) && !r.Sent:
					failed.Add(1)
				case r.Class == wire.ClassOK:
					well.Add(1)
				default:
					t.Errorf("%s %s", r.Class, r.Detail)
				}
			})
		}
		all.Wait()
		if failed.Load() != 2 || well.Load() != 4 {
			t.Errorf("%d failed, %d are well", failed.Load(), well.Load())
		}
		p.Close()
		s.served.Wait()
	})
}

// A call that is broken off, by its time-out or by its caller, before the answer's
// head or within its body, takes its connection along and nothing else.
func TestACallThatIsBrokenOff(t *testing.T) {
	for _, within := range []string{"", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1,"} {
		for _, cause := range []error{nil, errLapsed} {
			t.Run(fmt.Sprintf("%d bytes, %v", len(within), cause), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &script{says: func(conn net.Conn, n int) bool {
						if n != 2 {
							_, err := io.WriteString(conn, plainOK)
							return err == nil
						}
						_, _ = io.WriteString(conn, within)
						_, _ = conn.Read(make([]byte, 1)) // until it is closed
						return false
					}}
					p, planned := callerBy(t, "http://api.example.com", s.dial, 5*time.Second)
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					good := func() {
						t.Helper()
						if r := p.Do(t.Context(), planned, call.Options{}); r.Class != wire.ClassOK {
							t.Errorf("%s %s", r.Class, r.Detail)
						}
					}
					good()
					if cause != nil {
						time.AfterFunc(time.Second, func() { cancel(cause) })
					}
					began := time.Now()
					r := p.Do(ctx, planned, call.Options{})
					want, took := cause, time.Second
					if cause == nil {
						want, took = context.DeadlineExceeded, 5*time.Second
					}
					if !errors.Is(r.Err, want) || !r.Sent || time.Since(began) != took || (r.ErrorType == "timeout") != (cause == nil) {
						t.Errorf("after %v: %v, %s, sent %v", time.Since(began), r.Err, r.ErrorType, r.Sent)
					}
					good()
					if s.dials.Load() != 2 {
						t.Errorf("%d connections", s.dials.Load())
					}
					p.Close()
					s.served.Wait()
				})
			})
		}
	}
}
