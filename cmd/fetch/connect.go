package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/dial"

	"github.com/nats-io/nats.go"
)

// address is where the server is and who asks: flags, or what the environment
// says.
type address struct {
	server, creds, context, agent string
	getenv                        func(string) string
}

// link is a connection and the client on it.
type link struct {
	*fetchworker.Client
	nc *nats.Conn
}

func (l *link) close() {
	l.Close()
	l.nc.Close()
}

// connect joins the server as an agent: the one named, else the NATS user if
// that can be one, else cli.
func (a *address) connect() (*link, error) {
	where := a.where()
	options := []nats.Option{
		nats.Name("fetch"), nats.MaxReconnects(-1), nats.Timeout(5 * time.Second),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // the client tells what was refused
	}
	if err := where.Check(options); err != nil {
		return nil, fmt.Errorf("%w: %w (--server, NATS_URL or NATS_CONTEXT names the server)", errUsage, err)
	}
	nc, err := where.Dial(options)
	if err != nil {
		return nil, fmt.Errorf("%w: connect to NATS at %s: %w (is the worker running? --server, NATS_URL or NATS_CONTEXT names its server)", errServer, where, err)
	}
	agent := a.agent
	if agent == "" {
		agent = cmp.Or(nc.Opts.User, userOf(where.URL))
	}
	if agent == "" || a.agent == "" && !fetchworker.ValidToken(agent) {
		agent = "cli"
	}
	client, err := fetchworker.NewClient(nc, agent)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	return &link{client, nc}, nil
}

// where is the server to join: what a flag says before what the environment
// says, and an address before a context's.
func (a *address) where() dial.Address {
	where := dial.Address{URL: a.server, Context: a.context, Creds: cmp.Or(a.creds, a.getenv("NATS_CREDS"))}
	if !where.Remote() {
		where.URL, where.Context = a.getenv("NATS_URL"), a.getenv("NATS_CONTEXT")
	}
	if !where.Remote() {
		where.URL = nats.DefaultURL
	}
	return where
}

// userOf is the user that a server's address names. One without a password is
// no name but a token: a secret, which nobody else may see.
func userOf(server string) string {
	first, _, _ := strings.Cut(server, ",")
	u, err := url.Parse(first)
	if err != nil || u.User == nil {
		return ""
	}
	if _, named := u.User.Password(); !named {
		return ""
	}
	return u.User.Username()
}

// ended gives an error of the client the exit code it has.
func ended(err error) error {
	var wrong *fetchworker.RequestError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong):
		return fmt.Errorf("%w: %w", errUsage, err)
	case errors.Is(err, fetchworker.ErrNobodyServes), errors.Is(err, fetchworker.ErrClosed):
		return fmt.Errorf("%w: %w", errServer, err)
	default:
		return err
	}
}
