package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/natscontext"
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
	nc, user, err := a.dial(nats.Name("fetch"), nats.MaxReconnects(-1), nats.Timeout(5*time.Second),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // the client tells what was refused
	if err != nil {
		return nil, fmt.Errorf("%w: connect to NATS: %w (is the worker running? --server, NATS_URL or NATS_CONTEXT names its server)", errServer, err)
	}
	agent := a.agent
	if agent == "" {
		agent = user
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

func (a *address) dial(options ...nats.Option) (nc *nats.Conn, user string, err error) {
	creds := a.creds
	if creds == "" {
		creds = a.getenv("NATS_CREDS")
	}
	if creds != "" {
		options = append(options, nats.UserCredentials(creds))
	}
	server, named := a.server, a.context
	if server == "" && named == "" {
		server, named = a.getenv("NATS_URL"), a.getenv("NATS_CONTEXT")
	}
	if server == "" && named != "" {
		nc, settings, err := natscontext.Connect(named, options...)
		return nc, settings.User, err
	}
	if server == "" {
		server = nats.DefaultURL
	}
	nc, err = nats.Connect(server, options...)
	return nc, userOf(server), err
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
