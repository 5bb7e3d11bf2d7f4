package fetchworker

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Receipt says that a request is stored and will be answered.
type Receipt struct {
	Identity  Identity
	Sequence  uint64
	Duplicate bool // the same identity was published within the last five seconds
}

// NewID makes a request id that cannot be guessed: the duplicate window is
// shared by all agents, so a guessable id could be claimed by another.
func NewID() string { return rand.Text() }

// Submit publishes a request and returns when it is stored. It publishes
// again, safely, until the receipt comes or ctx ends. If ctx carries an
// OpenTelemetry span, the request is part of its trace.
//
// *RequestError: the request breaks a rule and was not published.
// ErrQueueFull, ErrNotPermitted: the server refuses it, and it is not tried
// again. If ctx ends, the request may be stored all the same; its identity is
// in the Receipt of every error but a *RequestError's.
func (c *Client) Submit(ctx context.Context, r Request) (Receipt, error) {
	m, err := c.encode(&r)
	if err != nil {
		return Receipt{}, err
	}
	return c.submit(ctx, r.Identity(), m, 0)
}

const (
	// publishesAtOnce bounds the receipts that SubmitAll and FetchAll wait for.
	publishesAtOnce = 64
	// fullFor is how long they try again where the queue is full.
	fullFor = 30 * time.Second
)

// SubmitAll publishes any number of requests, up to 64 at a time, and yields
// the receipt of each as it comes, in any order; with an error the receipt
// names the request all the same, unless it was none. A full queue is tried
// again for half a minute. The sequence is read by a goroutine of its own,
// and no further once ctx has ended or the loop is left, for which it waits.
func (c *Client) SubmitAll(ctx context.Context, requests iter.Seq[Request]) iter.Seq2[Receipt, error] {
	return func(yield func(Receipt, error) bool) {
		type submitted struct {
			receipt Receipt
			err     error
		}
		results := make(chan submitted, publishesAtOnce)
		left, leave := context.WithCancel(ctx)
		var work sync.WaitGroup
		work.Go(func() {
			inParallel(left, requests, func(r Request) {
				m, err := c.encode(&r)
				s := submitted{Receipt{Identity: r.Identity()}, err}
				if err == nil {
					s.receipt, s.err = c.submit(left, r.Identity(), m, fullFor)
				}
				results <- s
			})
			close(results)
		})
		defer work.Wait()
		defer func() {
			leave()
			for range results { // whoever is on the way out must be let out
			}
		}()
		for s := range results {
			if !yield(s.receipt, s.err) {
				return
			}
		}
	}
}

// inParallel runs do for each request, publishesAtOnce at a time, reads no
// further when ctx ends, and waits for all.
func inParallel(ctx context.Context, requests iter.Seq[Request], do func(Request)) {
	var running sync.WaitGroup
	defer running.Wait()
	turns := make(chan struct{}, publishesAtOnce)
	if ctx.Err() != nil {
		return
	}
	for r := range requests {
		if ctx.Err() != nil {
			return
		}
		turns <- struct{}{}
		running.Go(func() {
			defer func() { <-turns }()
			do(r)
		})
	}
}

// submit publishes until the receipt comes. A full queue is tried again while
// patience lasts.
func (c *Client) submit(ctx context.Context, id Identity, m *nats.Msg, patience time.Duration) (Receipt, error) {
	inject(ctx, m)
	m.Header.Set(nats.MsgIdHdr, id.String())
	began, again := time.Now(), c.receipts.patience()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		ack, err := c.publish(ctx, m, again)
		if err == nil {
			return Receipt{Identity: id, Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
		}
		if errors.Is(err, context.DeadlineExceeded) {
			again = latestAgain // who has said nothing for so long is not asked more than once each time
		}
		full := errors.Is(err, ErrQueueFull)
		if refusal(err) && (!full || time.Since(began) >= patience) {
			return Receipt{Identity: id}, fmt.Errorf("submit %s: %w", id, err)
		}
		if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) {
			// A leader is being elected: whoever waits that out is to be soon behind it.
			wait = min(wait, 200*time.Millisecond)
		}
		if ended := pause(ctx, wait); ended != nil {
			return Receipt{Identity: id}, fmt.Errorf("submit %s: %w", id, &PendingError{Identity: id, Cause: ended, Trouble: err})
		}
	}
}

// refusal reports whether the server, or the connection, has said no for good.
func refusal(err error) bool {
	var refused *jetstream.APIError
	return errors.As(err, &refused) && refused.Code < 500 ||
		errors.Is(err, ErrQueueFull) || errors.Is(err, ErrNotPermitted) || errors.Is(err, ErrClosed) || errors.Is(err, nats.ErrMaxPayload)
}

// publish tries for a while to have the message stored.
func (c *Client) publish(ctx context.Context, m *nats.Msg, again time.Duration) (*jetstream.PubAck, error) {
	// Short enough that the next try is still known as a repetition.
	ctx, cancel := publishing(ctx, c.nc, m.Subject, RepeatWithin/2)
	defer cancel()
	ack, err := c.deliver(ctx, m, again)
	switch {
	case err == nil:
		return ack, nil
	case isFull(err):
		return nil, fmt.Errorf("%w: %w", ErrQueueFull, err)
	default:
		return nil, because(ctx, err)
	}
}

func isFull(err error) bool {
	var refused *jetstream.APIError
	return errors.As(err, &refused) && (refused.ErrorCode == streamFull || refused.ErrorCode == storageFull)
}

// What a JetStream server says of a stream that takes no more.
const (
	streamFull  jetstream.ErrorCode = 10077 // by messages, messages of a subject, or bytes
	storageFull jetstream.ErrorCode = 10047
)

// encode completes the request: agent, lane, id.
func (c *Client) encode(r *Request) (*nats.Msg, error) {
	if r.Agent == "" {
		r.Agent = c.agent
	}
	if r.Agent != c.agent {
		return nil, &RequestError{"agent", "this client asks for " + c.agent + ", not for " + r.Agent}
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
	if string(r.Params) == "null" {
		r.Params = nil
	}
	if len(r.Params) > 0 && !isObject(r.Params) {
		return nil, &RequestError{"params", "a JSON object, not " + shorten(string(r.Params))}
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if len(body) > MaxRequestBytes-headroom {
		return nil, &RequestError{"params", fmt.Sprintf("a request of at most %d KiB; this one has %d bytes", MaxRequestBytes>>10, len(body))}
	}
	m := nats.NewMsg(RequestSubject(r.Provider, r.Lane, r.Operation, r.Agent))
	m.Data = body
	return m, nil
}

func isObject(raw []byte) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return len(raw) > 0 && raw[0] == '{' && json.Valid(raw)
}

// headroom is what a request's headers may take: its message id and its trace.
const headroom = 1 << 10

func shorten(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}
