package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// CounterStream is the stream of counters: its last message of a subject is
// the total.
const CounterStream = "FETCH_BUDGET"

// ErrNotStored says that a write was certainly not stored: nobody heard it.
var ErrNotStored = errors.New("not stored")

// Counter adds to totals that a fleet shares. Only one goroutine may use it.
type Counter struct {
	js     jetstream.JetStream
	stream jetstream.Stream // nil until it is first read
}

// NewCounter counts in CounterStream.
func NewCounter(js jetstream.JetStream) *Counter { return &Counter{js: js} }

// Add adds n to a subject's total and returns it. What was added under an id
// that the stream still knows, two minutes, is not added again. ErrNotStored
// says that nothing was added; any other error leaves open whether it was.
func (c *Counter) Add(ctx context.Context, subject string, n int64, id string) (int64, error) {
	ack, err := Increment(ctx, c.js, subject, n, id)
	if err != nil {
		return 0, err
	}
	if ack.Duplicate { // stored by an earlier try; its ack does not tell the total
		return c.Read(ctx, subject)
	}
	total, err := strconv.ParseInt(ack.Value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("count %s: total %q: %w", subject, ack.Value, err)
	}
	return total, nil
}

// Increment is Add for a counter of any stream; many may use it at once.
func Increment(ctx context.Context, js jetstream.JetStream, subject string, n int64, id string) (*jetstream.PubAck, error) {
	msg := nats.NewMsg(subject)
	msg.Header.Set("Nats-Incr", "+"+strconv.FormatInt(n, 10))
	ack, err := js.PublishMsg(ctx, msg, jetstream.WithMsgID(id))
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		return nil, fmt.Errorf("count %s: %w: %w", subject, ErrNotStored, err)
	}
	if err != nil {
		return nil, fmt.Errorf("count %s: %w", subject, err)
	}
	return ack, nil
}

// Total reads the message of a counter.
func Total(data []byte) (int64, error) {
	var counter struct {
		Value string `json:"val"`
	}
	if err := json.Unmarshal(data, &counter); err != nil {
		return 0, fmt.Errorf("total: %w", err)
	}
	return strconv.ParseInt(counter.Value, 10, 64)
}

// Read is a subject's total.
func (c *Counter) Read(ctx context.Context, subject string) (int64, error) {
	if c.stream == nil {
		stream, err := c.js.Stream(ctx, CounterStream)
		if err != nil {
			return 0, fmt.Errorf("total of %s: %w", subject, err)
		}
		c.stream = stream
	}
	msg, err := c.stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("total of %s: %w", subject, err)
	}
	total, err := Total(msg.Data)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", subject, err)
	}
	return total, nil
}
