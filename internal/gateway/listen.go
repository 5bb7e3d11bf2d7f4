package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// idleTime is how long a connection without a request is kept.
	idleTime = 2 * time.Minute
	// headerBytes bounds the headers of a request, its path and query included.
	headerBytes = 32 << 10
	// mostConnections are open at a time; the next ones wait to be accepted.
	mostConnections = 8192
	// stopTime is how long a stop waits for what is being written.
	stopTime = 5 * time.Second
)

// patience is how long things may take before they are given up.
type patience struct {
	header time.Duration // a request's headers to come
	body   time.Duration // its body
	write  time.Duration // each piece of what is sent back to be taken
	slow   time.Duration // the same, before what comes after it is let go and read again when its turn comes
	store  time.Duration // the service to take a request, or to be read
}

var usual = patience{header: 5 * time.Second, body: 10 * time.Second, write: 20 * time.Second, slow: 2 * time.Second, store: 10 * time.Second}

// Listener is a gateway on an address.
type Listener struct {
	Addr   string // where it listens
	server *http.Server
	g      *Gateway
	done   chan error
	once   sync.Once
}

// ErrOpenToAll says that a gateway without tokens would serve strangers.
var ErrOpenToAll = errors.New("without FETCH_GATEWAY_TOKENS only a loopback address is served, such as 127.0.0.1:8081")

// Listen serves on an address until Close.
func (g *Gateway) Listen(addr string) (*Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", addr, err)
	}
	if g.config.Tokens == nil && !isLoopback(host) {
		return nil, fmt.Errorf("address %s: %w", addr, ErrOpenToAll)
	}
	ln, err := net.Listen("tcp", addr) //nolint:noctx // at start, for the life of the process
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l := &Listener{Addr: ln.Addr().String(), g: g, done: make(chan error, 1), server: &http.Server{
		Handler: g, MaxHeaderBytes: headerBytes, ReadHeaderTimeout: g.config.patience.header, IdleTimeout: idleTime,
	}}
	go func() { l.done <- l.server.Serve(&bounded{Listener: ln, room: make(chan struct{}, mostConnections)}) }()
	return l, nil
}

// Close stops taking requests, ends every wait with what is known, and lets
// what is being written be written, for five seconds. The requests go on: their
// answers are stored.
func (l *Listener) Close() (err error) {
	l.once.Do(func() {
		l.g.stop()
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		err = l.server.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = l.server.Close()
		}
		if served := <-l.done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
	})
	return err
}

// bounded accepts no more connections than it has room for. They stay what they
// are: net/http closes one half of a TCP connection first, so that who sends
// too much still reads why it was refused.
type bounded struct {
	net.Listener
	room chan struct{}
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	b.room <- struct{}{}
	nc, err := b.Listener.Accept()
	tcp, ok := nc.(*net.TCPConn)
	if err != nil || !ok {
		<-b.room
		return nc, err
	}
	return &held{tcp, sync.OnceFunc(func() { <-b.room })}, nil
}

// held is a connection that takes room.
type held struct {
	*net.TCPConn
	leave func()
}

// Close implements net.Conn.
func (h *held) Close() error {
	defer h.leave()
	return h.TCPConn.Close()
}

// isLoopback reports whether a host names this machine and nothing else.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
