package fetchworker

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Client publishes fetches for one agent and reads their answers. It works
// from an account of the agent's own, with nothing but the imports that
// nats/server.conf grants. It is safe for concurrent use.
//
// However many requests are outstanding, a client has one subscription: to
// the live answers of its agent. It stands from the first wait until Close.
type Client struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	agent    string
	owned    bool
	watcher  *watcher
	lazy     bool      // large bodies stay where they are
	bodies   *bodyRoom // of those being read
	receipts *receipts
}

// Lazily is the same client, whose answers come without their large bodies:
// of one that is not in its answer there is a Claim, and Parts reads it. So
// nobody needs to hold a body of any size at once.
func (c *Client) Lazily() *Client {
	lazy := *c
	lazy.lazy = true
	return &lazy
}

// Connect connects to a NATS server as an agent. The options are nats.go's:
// credentials, TLS, reconnect handling.
func Connect(address, agent string, options ...nats.Option) (*Client, error) {
	nc, err := nats.Connect(address, append([]nats.Option{nats.Name("fetchworker agent " + agent), nats.MaxReconnects(-1)}, options...)...)
	if unread := (*url.Error)(nil); errors.As(err, &unread) { // it shows the password
		err = errors.New("the address cannot be read: write it as nats://user:password@host:4222, with special characters of user and password percent-encoded")
	}
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	c, err := NewClient(nc, agent)
	if err != nil {
		nc.Close()
		return nil, err
	}
	c.owned = true
	return c, nil
}

// NewClient uses a connection that the caller has and goes on owning.
func NewClient(nc *nats.Conn, agent string) (*Client, error) {
	if !ValidToken(agent) {
		return nil, &RequestError{"agent", "1 to 32 of a-z 0-9 _ -"}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	c := &Client{nc: nc, js: js, agent: agent, bodies: newBodyRoom(readAtOnce), receipts: newReceipts()}
	c.watcher = newWatcher(c)
	return c, nil
}

// Agent is whom the client asks for.
func (c *Client) Agent() string { return c.agent }

// Close ends the client's subscription and every wait (ErrClosed), and closes
// the connection if Connect made it. Requests go on, and their answers are
// found later.
func (c *Client) Close() {
	c.watcher.close()
	if c.owned {
		c.nc.Close()
	}
}

// own completes an identity with the client's agent, and refuses what names
// no single request.
func (c *Client) own(id Identity) (Identity, error) {
	if id.Agent == "" {
		id.Agent = c.agent
	}
	for _, t := range []struct{ name, value string }{{"provider", id.Provider}, {"operation", id.Operation}, {"agent", id.Agent}} {
		if !ValidToken(t.value) {
			return id, &RequestError{t.name, "1 to 32 of a-z 0-9 _ -"}
		}
	}
	if !ValidID(id.ID) {
		return id, &RequestError{"id", "1 to 64 of A-Z a-z 0-9 _ -"}
	}
	return id, nil
}

// Result reads the latest stored answer of a request, final or not, with a
// large body read and verified. ErrNoAnswer: nothing is stored. With
// ErrBodyCorrupt the answer is returned all the same, without its body.
func (c *Client) Result(ctx context.Context, id Identity) (Answer, error) {
	id, err := c.own(id)
	if err != nil {
		return Answer{}, err
	}
	a, err := c.stored(ctx, ResultSubject(id))
	if err != nil || c.lazy {
		return a, err
	}
	err = c.resolve(ctx, &a)
	return a, err
}

// stored reads the answer under a result subject.
func (c *Client) stored(ctx context.Context, subject string) (Answer, error) {
	m, err := c.directGet(ctx, StreamResults, subject)
	if err != nil {
		return Answer{}, err
	}
	return decodeLive(subject, m)
}

// direct is where a direct get asks for the last message of a subject: in a
// subject of its own, so that an agent's account needs no other right.
const direct = "$JS.API.DIRECT.GET."

// directGet reads the last message of a subject.
func (c *Client) directGet(ctx context.Context, stream, subject string) (*nats.Msg, error) {
	request := direct + stream + "." + subject
	ctx, cancel := publishing(ctx, c.nc, request, 10*time.Second)
	defer cancel()
	m, err := c.nc.RequestWithContext(ctx, request, nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", subject, because(ctx, err))
	}
	switch status := m.Header.Get("Status"); {
	case own(m, jetstream.StreamHeader) != "":
		if stored := own(m, jetstream.SubjectHeader); stored != subject {
			return nil, fmt.Errorf("read %s: the server sent %s: %w", subject, stored, ErrBodyCorrupt)
		}
		return m, nil
	case status == "404":
		return nil, fmt.Errorf("read %s: %w", subject, ErrNoAnswer)
	default:
		return nil, fmt.Errorf("read %s: server says %s %s", subject, status, m.Header.Get("Description"))
	}
}

// own is the server's value of a header. It appends its own after those of
// the message.
func own(m *nats.Msg, key string) string {
	if values := m.Header.Values(key); len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}

// because is what ended a request: the context's cause if that did.
func because(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, nats.ErrConnectionClosed):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	default:
		return err
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
