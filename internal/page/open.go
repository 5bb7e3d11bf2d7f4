package page

import (
	"context"
	"errors"
	"fmt"
	"net"

	"fetchworker/internal/operate"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// Options say where a page is shown, and to whom.
type Options struct {
	Addr, Token, User, By, Trace string
	Server                       string // where the command line finds the same fleet; what opens it is left out
	Log                          *zap.Logger
}

// Shown is a page that is being shown.
type Shown struct {
	addr  string
	stop  context.CancelFunc
	fleet *operate.Fleet
	ended chan error
}

// Show shows the page on an address, through a connection of the caller's,
// until it is closed.
func Show(ctx context.Context, nc *nats.Conn, o Options) (*Shown, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("FETCH_PAGE_ADDR: %w", err)
	}
	desk, err := operate.Open(ctx, nc)
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	fleet, err := desk.Fleet(ctx)
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	server, err := New(Config{Desk: desk, Fleet: fleet, User: o.User, By: o.By, Token: o.Token, Trace: o.Trace, Server: ServerOf(o.Server), Log: o.Log})
	if err != nil {
		fleet.Close()
		return nil, errors.Join(err, ln.Close())
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &Shown{addr: ln.Addr().String(), stop: stop, fleet: fleet, ended: make(chan error, 1)}
	go func() { s.ended <- server.Serve(serving, ln) }()
	return s, nil
}

// Addr is where it listens.
func (s *Shown) Addr() string { return s.addr }

// URL is where it is shown.
func (s *Shown) URL() string { return "http://" + s.addr }

// Ended gets what the page ended with.
func (s *Shown) Ended() <-chan error { return s.ended }

// Close ends it, and waits for what is under way to stop.
func (s *Shown) Close() error {
	s.stop()
	err := <-s.ended
	s.ended <- err // for whoever else asks
	s.fleet.Close()
	return err
}
