package fetchworker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Client publishes fetches for one agent and reads their answers. It works
// from an account of the agent's own, with nothing but the imports that
// nats/server.conf grants. It is safe for concurrent use.
type Client struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	agent string
	owned bool
}

// ErrNoAnswer says that nothing is stored under an identity: never asked, or
// not answered yet, or aged out.
var ErrNoAnswer = errors.New("no answer is stored")

// ErrBodyCorrupt says that the parts of a large body do not add up to what
// its claim check promises.
var ErrBodyCorrupt = errors.New("the stored body does not match its claim check")

// Connect connects to a NATS server as an agent. The options are nats.go's:
// credentials, TLS, reconnect handling.
func Connect(url, agent string, options ...nats.Option) (*Client, error) {
	nc, err := nats.Connect(url, append([]nats.Option{nats.Name("fetchworker agent " + agent), nats.MaxReconnects(-1)}, options...)...)
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
	return &Client{nc: nc, js: js, agent: agent}, nil
}

// Close closes the connection if Connect made it.
func (c *Client) Close() {
	if c.owned {
		c.nc.Close()
	}
}

// Receipt says that a request is stored and will be answered.
type Receipt struct {
	Identity  Identity
	Sequence  uint64
	Duplicate bool // the same identity was published within the last two minutes
}

// NewID makes a request id that cannot be guessed: the duplicate window is
// shared by all agents, so a guessable id could be claimed by another.
func NewID() string { return rand.Text() }

// Submit publishes a request and returns when it is stored. It publishes
// again, safely, until the receipt comes or ctx ends. If ctx carries an
// OpenTelemetry span, the request is part of its trace.
func (c *Client) Submit(ctx context.Context, r Request) (Receipt, error) {
	m, err := c.encode(&r)
	if err != nil {
		return Receipt{}, err
	}
	return c.submit(ctx, r.Identity(), m)
}

func (c *Client) submit(ctx context.Context, id Identity, m *nats.Msg) (Receipt, error) {
	inject(ctx, m)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		ack, err := c.publish(ctx, m, id)
		if err == nil {
			return Receipt{Identity: id, Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
		}
		var refused *jetstream.APIError
		if errors.As(err, &refused) && refused.Code < 500 || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrConnectionClosed) {
			return Receipt{}, fmt.Errorf("submit %s: %w", id, err)
		}
		if pause(ctx, wait) != nil {
			return Receipt{}, fmt.Errorf("submit %s: %w (last: %w)", id, ctx.Err(), err)
		}
	}
}

func (c *Client) publish(ctx context.Context, m *nats.Msg, id Identity) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return c.js.PublishMsg(ctx, m, jetstream.WithMsgID(id.String()))
}

// encode completes the request: agent, lane, id.
func (c *Client) encode(r *Request) (*nats.Msg, error) {
	if r.Agent == "" {
		r.Agent = c.agent
	}
	if r.Lane == "" {
		r.Lane = LaneInteractive
	}
	if r.ID == "" {
		r.ID = NewID()
	}
	if !ValidID(r.ID) {
		return nil, &RequestError{"id", "1 to 64 of A-Z a-z 0-9 _ -"}
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	m := nats.NewMsg(RequestSubject(r.Provider, r.Lane, r.Operation, r.Agent))
	m.Data = body
	return m, nil
}

// Fetch publishes a request and waits for its final answer, whatever its
// status; Answer.Err tells a failed one. A large body is read and verified.
// The error says that no final answer was seen before ctx ended; the request
// goes on, and Result or Wait finds its answer later.
func (c *Client) Fetch(ctx context.Context, r Request) (Answer, error) {
	named := r.ID != ""
	m, err := c.encode(&r)
	if err != nil {
		return Answer{}, err
	}
	id := r.Identity()
	live, err := c.nc.SubscribeSync(ResultSubject(id)) // before the publish: nothing can be missed
	if err != nil {
		return Answer{}, fmt.Errorf("subscribe to %s: %w", ResultSubject(id), err)
	}
	defer func() { _ = live.Unsubscribe() }()
	receipt, err := c.submit(ctx, id, m)
	if err != nil {
		return Answer{}, err
	}
	return c.await(ctx, id, live, named || receipt.Duplicate)
}

// Wait waits for the final answer of a request submitted earlier.
func (c *Client) Wait(ctx context.Context, id Identity) (Answer, error) {
	live, err := c.nc.SubscribeSync(ResultSubject(id))
	if err != nil {
		return Answer{}, fmt.Errorf("subscribe to %s: %w", ResultSubject(id), err)
	}
	defer func() { _ = live.Unsubscribe() }()
	return c.await(ctx, id, live, true)
}

// await takes the live copy, and looks at what is stored as well every few
// seconds: a live copy can be lost in a reconnect, the stored one cannot.
func (c *Client) await(ctx context.Context, id Identity, live *nats.Subscription, mayBeStored bool) (Answer, error) {
	for {
		if mayBeStored {
			a, err := c.Result(ctx, id)
			if a.Final && (err == nil || errors.Is(err, ErrBodyCorrupt)) {
				return a, err
			}
			if err != nil && ctx.Err() != nil {
				return Answer{}, fmt.Errorf("await %s: %w", id, ctx.Err())
			}
		}
		mayBeStored = true
		turn, cancel := context.WithTimeout(ctx, 5*time.Second)
		for {
			m, err := live.NextMsgWithContext(turn)
			if err != nil {
				break
			}
			a, err := DecodeAnswer(m.Subject, m.Header, m.Data)
			if err == nil && a.Final {
				cancel()
				err = c.resolve(ctx, &a)
				return a, err
			}
		}
		cancel()
		if ctx.Err() != nil {
			return Answer{}, fmt.Errorf("await %s: %w", id, ctx.Err())
		}
	}
}

// Result reads the latest stored answer of a request, final or not, with a
// large body read and verified. ErrNoAnswer: nothing is stored. With
// ErrBodyCorrupt the answer is returned all the same, without its body.
func (c *Client) Result(ctx context.Context, id Identity) (Answer, error) {
	subject := ResultSubject(id)
	m, err := c.directGet(ctx, StreamResults, subject)
	if err != nil {
		return Answer{}, err
	}
	a, err := DecodeAnswer(subject, m.Header, m.Data)
	if err != nil {
		return Answer{}, err
	}
	err = c.resolve(ctx, &a)
	return a, err
}

// directGet asks for the last message of a subject by a request whose own
// subject names it, so that an agent's account needs no other right.
func (c *Client) directGet(ctx context.Context, stream, subject string) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m, err := c.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream+"."+subject, nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", subject, err)
	}
	switch status := m.Header.Get("Status"); status {
	case "":
		return m, nil
	case "404":
		return nil, fmt.Errorf("read %s: %w", subject, ErrNoAnswer)
	default:
		return nil, fmt.Errorf("read %s: server says %s %s", subject, status, m.Header.Get("Description"))
	}
}

// resolve reads the parts of a large body in order and checks them against
// the claim.
func (c *Client) resolve(ctx context.Context, a *Answer) error {
	if a.Claim == nil {
		return nil
	}
	if a.Claim.Bytes < 0 || a.Claim.Bytes > int64(a.Claim.Parts)*MaxInlineBody {
		return fmt.Errorf("%s: %d bytes in %d parts: %w", a.Claim.Prefix, a.Claim.Bytes, a.Claim.Parts, ErrBodyCorrupt)
	}
	body := make([]byte, 0, a.Claim.Bytes)
	for part := 1; part <= a.Claim.Parts; part++ {
		data, err := c.part(ctx, a.Claim.Prefix+"."+strconv.Itoa(part))
		if err != nil {
			return err
		}
		body = append(body, data...)
	}
	sum := sha256.Sum256(body)
	if int64(len(body)) != a.Claim.Bytes || hex.EncodeToString(sum[:]) != a.Claim.SHA256 {
		return fmt.Errorf("%s: %w", a.Claim.Prefix, ErrBodyCorrupt)
	}
	a.Body = body
	return nil
}

const (
	// partTries is how often a part is looked for that is not there.
	partTries = 10
	partPause = 100 * time.Millisecond
)

// part reads one part of a large body. Parts are stored before their answer,
// but the replica that serves a direct get may lag behind by a moment.
func (c *Client) part(ctx context.Context, subject string) ([]byte, error) {
	for range partTries {
		m, err := c.directGet(ctx, StreamBodies, subject)
		if err == nil {
			return m.Data, nil
		}
		if !errors.Is(err, ErrNoAnswer) {
			return nil, err
		}
		if err := pause(ctx, partPause); err != nil {
			return nil, fmt.Errorf("read %s: %w", subject, err)
		}
	}
	return nil, fmt.Errorf("%s is missing: %w", subject, ErrBodyCorrupt)
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
