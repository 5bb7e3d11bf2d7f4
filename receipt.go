package fetchworker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"
)

// receipts is how long a client waits for the receipt of a publish before it
// sends the same again: a leader that steps down says nothing of what it had not
// begun with. It is what receipts usually take, with room to spare, as TCP
// reckons it (RFC 6298), so that a server which is only slow is not asked twice
// for each. What is sent again costs the server a look among the message ids of
// the last seconds, and nothing is stored.
type receipts struct {
	again *rate.Limiter // of the client as a whole

	mu            sync.Mutex
	known         bool
	usual, spread time.Duration
}

const (
	// soonestAgain and latestAgain bound the wait before the first repetition;
	// each further one waits twice as long as the one before.
	soonestAgain = 250 * time.Millisecond
	latestAgain  = RepeatWithin // longer than a try
	// againASecond bounds what a client with very much on its way sends again
	// when a server stalls; what goes beyond waits for the next try.
	againASecond = 100
	againAtOnce  = 16
)

func newReceipts() *receipts { return &receipts{again: rate.NewLimiter(againASecond, againAtOnce)} }

// took notes what one receipt took.
func (r *receipts) took(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.known {
		r.known, r.usual, r.spread = true, d, d/2
		return
	}
	r.spread += ((d - r.usual).Abs() - r.spread) / 4
	r.usual += (d - r.usual) / 8
}

// patience is how long the next one is waited for.
func (r *receipts) patience() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return min(max(r.usual+4*r.spread, soonestAgain), latestAgain)
}

// inProcess is what a server says of a message whose id it has met and not
// stored yet: the receipt is still to come, or, where its leader gives it up,
// the message is to be sent again.
const inProcess jetstream.ErrorCode = 10158

// deliver sends a message until there is a receipt, a refusal or ctx ends: again
// after a while, and then after twice as long each time. Each has an inbox of its
// own, so that it is known which of them a receipt is of, and how long it took.
func (c *Client) deliver(ctx context.Context, m *nats.Msg, again time.Duration) (*jetstream.PubAck, error) {
	type word struct {
		ack *jetstream.PubAck
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	words := make(chan word)
	send := func() {
		began := time.Now()
		// Where nobody listens the caller waits, so that only what a server takes is counted.
		ack, err := c.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
		if err == nil {
			c.receipts.took(time.Since(began))
		}
		select {
		case words <- word{ack, err}:
		case <-ctx.Done():
		}
	}
	timer := time.NewTimer(again)
	defer timer.Stop()
	go send()
	for {
		select {
		case w := <-words:
			if !isInProcess(w.err) {
				return w.ack, w.err
			}
		case <-timer.C:
			// Without a connection it would only be sent twice with the next.
			if c.nc.IsConnected() && c.receipts.again.Allow() {
				go send()
			}
			again *= 2
			timer.Reset(again)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func isInProcess(err error) bool {
	var said *jetstream.APIError
	return errors.As(err, &said) && said.ErrorCode == inProcess
}
