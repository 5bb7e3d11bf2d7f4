package fetchworker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Cancelled says what became of an order to cancel requests by their ids.
type Cancelled struct {
	Cancelled int // they have their final answer now: failed, code cancelled
	Final     int // a final answer stood already
}

// mostCancelled is how many ids one order may name.
const mostCancelled = 1000

// cancelOrder is what is sent to fetch.cancel.<provider>.<agent>.
type cancelOrder struct {
	Operation string   `json:"operation,omitempty"`
	IDs       []string `json:"ids,omitempty"`
	All       bool     `json:"all,omitempty"`
	Lane      Lane     `json:"lane,omitempty"`
}

// Cancel cancels requests of the client's agent, any number. When it returns
// without an error no call begins for any of them; one that has begun ends,
// and its answer is dropped. What is cancelled has its final answer at once:
// failed, code cancelled. It may be repeated. ErrNobodyServes: no worker is
// there to take the order.
func (c *Client) Cancel(ctx context.Context, ids ...Identity) (Cancelled, error) {
	var all Cancelled
	orders := map[[2]string][]string{} // by provider and operation
	for _, id := range ids {
		id, err := c.own(id)
		if err == nil && id.Agent != c.agent {
			err = &RequestError{"agent", "this client cancels " + c.agent + "'s requests, not " + id.Agent + "'s"}
		}
		if err != nil {
			return all, err
		}
		key := [2]string{id.Provider, id.Operation}
		orders[key] = append(orders[key], id.ID)
	}
	for key, ids := range orders {
		slices.Sort(ids)
		for some := range slices.Chunk(slices.Compact(ids), mostCancelled) {
			var reply struct{ Cancelled, Final int }
			if err := c.order(ctx, key[0], cancelOrder{Operation: key[1], IDs: some}, &reply); err != nil {
				return all, err
			}
			all.Cancelled += reply.Cancelled
			all.Final += reply.Final
		}
	}
	return all, nil
}

// CancelFilter selects what CancelAll cancels.
type CancelFilter struct {
	Provider  string
	Operation string // empty: any
	Lane      Lane   // empty: any
}

// CancelAll cancels everything that the client's agent has asked of a provider
// and that has no final answer yet, queued, parked or waiting for its retry.
// It returns before when it must have been stored to be cancelled. From then
// on no call begins for any of it. Final answers follow, failed with code
// cancelled: of what waits for a retry within ten seconds, of what is queued
// at its turn.
func (c *Client) CancelAll(ctx context.Context, f CancelFilter) (before time.Time, err error) {
	switch {
	case !ValidToken(f.Provider):
		return before, &RequestError{"provider", "1 to 32 of a-z 0-9 _ -"}
	case f.Operation != "" && !ValidToken(f.Operation):
		return before, &RequestError{"operation", "1 to 32 of a-z 0-9 _ -"}
	case f.Lane != "" && !f.Lane.Valid():
		return before, &RequestError{"lane", "interactive or batch"}
	}
	var reply struct{ Before time.Time }
	err = c.order(ctx, f.Provider, cancelOrder{All: true, Operation: f.Operation, Lane: f.Lane}, &reply)
	return reply.Before, err
}

// serviceError and serviceErrorCode are what a NATS micro service says no in.
const (
	serviceError     = "Nats-Service-Error"
	serviceErrorCode = "Nats-Service-Error-Code"
	// orderTries is how often an order is given to nobody before that is told:
	// a worker may just be starting.
	orderTries = 3
	// orderSoon is when an order is given again that nobody has replied to. A
	// worker that stands still says nothing, and the next may meet another.
	orderSoon = 3 * time.Second
	// orderLasts is how long the reply to each is listened for: a little longer
	// than a worker ever takes.
	orderLasts = 12 * time.Second
)

// order gives an order and reads the reply. What is not sure is ordered
// again, since that does no harm.
func (c *Client) order(ctx context.Context, provider string, o cancelOrder, reply any) error {
	body, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	var given sync.WaitGroup
	defer given.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type word struct {
		m   *nats.Msg
		err error
	}
	words := make(chan word)
	give := func() {
		m, err := c.ask(ctx, cancelSubject(provider, c.agent), body, orderLasts)
		select {
		case words <- word{m, err}:
		case <-ctx.Done():
		}
	}
	given.Go(give)
	again := time.NewTimer(orderSoon)
	defer again.Stop()
	var trouble error
	for said, nobody := 0, 0; ; {
		select {
		case w := <-words:
			switch {
			case w.err == nil:
				over, err := carriedOut(w.m, reply)
				if over {
					return err
				}
				w.err = err
			case errors.Is(w.err, ErrNotPermitted), errors.Is(w.err, ErrClosed):
				return fmt.Errorf("cancel: %w", w.err)
			case errors.Is(w.err, context.DeadlineExceeded):
				continue // it was given again long ago
			case errors.Is(w.err, nats.ErrNoResponders):
				if nobody++; nobody >= orderTries {
					return fmt.Errorf("cancel: %w", ErrNobodyServes)
				}
			}
			said, trouble = said+1, w.err
			again.Reset(min(time.Duration(said)*200*time.Millisecond, 2*time.Second))
		case <-again.C:
			// Without a connection it would only be given twice with the next.
			if c.nc.IsConnected() {
				given.Go(give)
			}
			again.Reset(orderSoon)
		case <-ctx.Done():
			if trouble == nil {
				trouble = errNoReply
			}
			return fmt.Errorf("cancel: %w (last: %w)", ctx.Err(), trouble)
		}
	}
}

var errNoReply = errors.New("no reply")

// carriedOut reads the reply to an order. over: it is not to be given again.
func carriedOut(m *nats.Msg, reply any) (over bool, err error) {
	if m.Header.Get(serviceErrorCode) == "" {
		if err := json.Unmarshal(m.Data, reply); err != nil {
			return true, fmt.Errorf("cancel: the reply: %w", err)
		}
		return true, nil
	}
	status, _ := strconv.Atoi(m.Header.Get(serviceErrorCode))
	err = errors.New(m.Header.Get(serviceError))
	if status < 500 {
		return true, fmt.Errorf("cancel: %w", &RequestError{"", err.Error()})
	}
	return false, err
}

func (c *Client) ask(ctx context.Context, subject string, body []byte, within time.Duration) (*nats.Msg, error) {
	ctx, cancel := publishing(ctx, c.nc, subject, within)
	defer cancel()
	m, err := c.nc.RequestWithContext(ctx, subject, body)
	if err != nil {
		return nil, because(ctx, err)
	}
	return m, nil
}
