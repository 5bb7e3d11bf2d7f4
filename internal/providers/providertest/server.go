// Package providertest plays upstream APIs from recorded exchanges, for tests
// and for a demonstration without network and keys. A Server answers over a
// real loopback listener or over in-memory pipes, which work in a synctest
// bubble; what it answers can be scripted, and it remembers every call.
//
// It knows no rules of its own: what a provider's answers look like is in the
// exchanges.
package providertest

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"fetchworker/internal/providers"
	"fetchworker/internal/providers/call"
)

// Server plays one upstream API. Its methods are safe for concurrent use.
type Server struct {
	// Fallback, if set before the first call, answers what no exchange does.
	// It returns nil for a plain 404.
	Fallback func(*http.Request) *Step

	host      string
	exchanges []*call.Exchange
	listener  net.Listener
	pipes     chan net.Conn // nil on a real listener
	http      *http.Server
	closed    chan struct{}
	served    sync.WaitGroup

	mu      sync.Mutex
	script  []Step
	latency time.Duration
	key     string
	down    bool
	conns   map[net.Conn]struct{}
	calls   []Call
}

// Listen plays the exchanges on a port of 127.0.0.1.
func Listen(exchanges ...*call.Exchange) (*Server, error) {
	var config net.ListenConfig
	listener, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for a played provider: %w", err)
	}
	s := newServer(listener.Addr().String(), exchanges)
	s.listener = listener
	s.serve()
	return s, nil
}

// Pipe plays the exchanges on connections in memory, for http://<host> over
// the server's DialContext. In a bubble, call it inside.
func Pipe(host string, exchanges ...*call.Exchange) *Server {
	s := newServer(host, exchanges)
	s.pipes = make(chan net.Conn)
	s.listener = pipeListener{s}
	s.serve()
	return s
}

func newServer(host string, exchanges []*call.Exchange) *Server {
	return &Server{
		host: host, exchanges: exchanges,
		closed: make(chan struct{}), conns: map[net.Conn]struct{}{},
	}
}

func (s *Server) serve() {
	s.http = &http.Server{Handler: s, ConnState: s.track, ReadHeaderTimeout: time.Minute}
	s.served.Go(func() { _ = s.http.Serve(s.listener) }) // ends with Close
}

// URL is scheme and host, without a path.
func (s *Server) URL() string { return "http://" + s.host }

// Close ends the server and all its connections.
func (s *Server) Close() {
	close(s.closed)
	_ = s.http.Close()
	s.served.Wait()
}

// DialContext opens a connection to the server, whatever the address.
func (s *Server) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	if s.isDown() {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	if s.pipes == nil {
		return new(net.Dialer).DialContext(ctx, "tcp", s.host)
	}
	ours, theirs := net.Pipe()
	select {
	case s.pipes <- theirs:
		return ours, nil
	case <-s.closed:
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: ctx.Err()}
	}
}

// DialHosts is one dial function for several servers, by their hosts.
func DialHosts(servers ...*Server) providers.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host := strings.TrimSuffix(addr, ":80")
		for _, s := range servers {
			if s.host == host {
				return s.DialContext(ctx, network, addr)
			}
		}
		return nil, &net.OpError{Op: "dial", Net: network, Err: &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}}
	}
}

// ServeHTTP answers one call: by the script while it lasts, then by the
// exchange recorded for the same request, then by the Fallback.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.isDown() { // a connection that was open when the server went down
		panic(http.ErrAbortHandler)
	}
	step, wait, index := s.take(r)
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
		case <-s.closed:
		}
	}
	if step.Cut < 0 {
		panic(http.ErrAbortHandler)
	}
	s.answered(index, step.Status)
	for name, values := range step.Header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	if step.Cut > 0 {
		w.WriteHeader(step.Status)
		_, _ = w.Write(step.Body[:min(step.Cut, len(step.Body))])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	if strings.EqualFold(w.Header().Get("Content-Encoding"), "gzip") && !step.Raw {
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Del("Content-Length")
			w.WriteHeader(step.Status)
			zw, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // a level that exists
			_, _ = zw.Write(step.Body)                      // a client that went away is no fault of ours
			_ = zw.Close()
			return
		}
		w.Header().Del("Content-Encoding")
	}
	w.WriteHeader(step.Status)
	_, _ = w.Write(step.Body)
}

// take records the call and decides how it is answered.
func (s *Server) take(r *http.Request) (step Step, wait time.Duration, index int) {
	var sent []byte
	if r.Method == http.MethodPost {
		sent, _ = io.ReadAll(io.LimitReader(r.Body, 1<<20)) // what is cut short matches nothing
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	index = len(s.calls)
	s.calls = append(s.calls, Call{At: time.Now(), Method: r.Method, Sent: sent, Target: canonical(r.URL.RequestURI()), RawTarget: r.URL.RequestURI(), Header: r.Header.Clone()})

	switch {
	case len(s.script) > 0 && s.script[0].Status != 0:
		step, s.script = s.script[0], s.script[1:]
	case s.key != "" && !strings.Contains(r.URL.RawQuery+" "+fmt.Sprint(r.Header), s.key):
		step = s.named("error_bad_key")
	default:
		step = s.recorded(r, sent)
		if len(s.script) > 0 { // a step without status: the recording, but late or cut
			scripted := s.script[0]
			s.script = s.script[1:]
			step.Latency, step.Cut = scripted.Latency, scripted.Cut
		}
	}
	return step, s.latency + step.Latency, index
}

// recorded is the recorded success for the same request. An error comes only
// by a script, even one with status 200.
func (s *Server) recorded(r *http.Request, sent []byte) Step {
	target := canonical(r.URL.RequestURI())
	for _, e := range s.exchanges {
		if e.Status < 300 && !strings.HasPrefix(e.Name, "error_") && canonical(e.Target) == target && r.Method == cmp.Or(e.Method, http.MethodGet) && bytes.Equal(e.Sent, sent) {
			return Answer(e)
		}
	}
	if s.Fallback != nil {
		if step := s.Fallback(r); step != nil {
			return *step
		}
	}
	return Step{Status: http.StatusNotFound, Header: jsonType(), Body: []byte(`{"message":"nothing is recorded for this request"}`)}
}

// SetKey makes the server refuse calls that do not carry the key, in the way
// of its exchange error_bad_key. "" takes any.
func (s *Server) SetKey(key string) { s.with(func() { s.key = key }) }

// SetLatency delays every answer.
func (s *Server) SetLatency(d time.Duration) { s.with(func() { s.latency = d }) }

// SetDown takes the server off the network: connections are refused and
// those that are open break. No call is received, none is remembered.
func (s *Server) SetDown(down bool) {
	s.with(func() {
		s.down = down
		for conn := range s.conns {
			if down {
				_ = conn.Close()
			}
		}
	})
}

func (s *Server) with(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *Server) isDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// track keeps the open connections, and drops new ones while down.
func (s *Server) track(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.conns[conn] = struct{}{}
		if s.down {
			_ = conn.Close()
		}
	case http.StateClosed, http.StateHijacked:
		delete(s.conns, conn)
	case http.StateActive, http.StateIdle:
	}
}

// pipeListener hands a server the far ends of its pipes.
type pipeListener struct{ s *Server }

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.s.pipes:
		return conn, nil
	case <-l.s.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error   { return nil }
func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: l.s.host, Net: "pipe"} }
