package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/browse"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/record"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Desk is all that a person's acts read and write through.
type Desk struct {
	*browse.Browser
	JS  jetstream.JetStream
	Log *record.Log
	KV  jetstream.KeyValue // fetch_providers

	skew time.Duration // the server's clock less ours
}

// Open makes a desk on a connection.
func Open(ctx context.Context, nc *nats.Conn) (*Desk, error) {
	d := &Desk{Browser: browse.New(nc)}
	var err error
	if d.JS, err = broker.JetStream(nc); err != nil {
		return nil, err
	}
	d.Log = record.New(d.JS, nil)
	if d.KV, err = d.JS.KeyValue(ctx, wire.BucketProviders); err != nil {
		return nil, err
	}
	edge, err := d.Edge(ctx, wire.StreamDLQ)
	if err != nil {
		return nil, err
	}
	d.skew = time.Until(edge.At)
	return d, nil
}

// Now is the server's time, which is what every worker and replayer goes by;
// a person's own clock may be minutes off.
func (d *Desk) Now() time.Time { return time.Now().Add(d.skew) }

// Skew is how far this machine's clock is behind the server's.
func (d *Desk) Skew() time.Duration { return d.skew }

// Answer is what is stored for a request; nil if nothing is.
func (d *Desk) Answer(ctx context.Context, i fetchworker.Identity) (*fetchworker.Answer, error) {
	subject := fetchworker.ResultSubject(i)
	count, raw, err := d.Count(ctx, fetchworker.StreamResults, subject)
	if err != nil || count == 0 {
		return nil, err
	}
	a, err := fetchworker.DecodeAnswer(subject, raw.Header, raw.Data)
	if err != nil {
		return nil, err
	}
	return &a, nil
}

// Replayers reports whether any replayer runs: then a pull waits on the DLQ's
// consumer nearly all the time.
func (d *Desk) Replayers(ctx context.Context) (bool, error) {
	for try := range 3 {
		if try > 0 {
			if err := wait.For(ctx, 80*time.Millisecond); err != nil {
				return false, err
			}
		}
		c, err := d.JS.Consumer(ctx, wire.StreamDLQ, broker.ReplayerConsumer)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			return false, nil // none has ever run
		}
		if err != nil {
			return false, fmt.Errorf("look for replayers: %w", err)
		}
		if c.CachedInfo().NumWaiting > 0 {
			return true, nil
		}
	}
	return false, nil
}

// Fleet is what the workers share, watched until it is closed.
type Fleet struct {
	*fleet.View
	desk    *Desk
	counted map[string]int // dead letters of each provider, as the last survey counted them
}

// Fleet begins to watch.
func (d *Desk) Fleet(ctx context.Context) (*Fleet, error) {
	board, err := fleet.Watch(ctx, d.JS, d.KV)
	if err != nil {
		return nil, err
	}
	return &Fleet{View: board, desk: d}, nil
}

// Hold is what keeps a provider's letters from going back to work, or from
// being called soon.
type Hold struct {
	Provider string
	Reason   fetchworker.Reason
	Until    time.Time // when that may end; zero: nobody knows
	By       string    // who paused it, or limited it
	Limits   string    // of an operator, in force: the quota that is used up is theirs
	// Stops says that its letters go by themselves as soon as it ends, so that
	// there is nothing to replay. A hold after a 429, a quota and missing
	// workers only delay what is released.
	Stops bool
	// Retired says that an operator has given the provider up, and BytesUsed
	// that its month's bytes are used up: what a person sends there comes back
	// to review.
	Retired, BytesUsed bool
}

// Hold is what holds a provider up now, if anything does.
func (f *Fleet) Hold(provider string) (Hold, bool) {
	now := f.desk.Now()
	view := f.Provider(provider, now)
	h := Hold{Provider: provider}
	h.Reason, h.Until = f.Held(provider, now)
	switch h.Reason { //nolint:exhaustive // the others are looked at below
	case fetchworker.ReasonPaused:
		h.By, h.Stops = view.Control.Pause.By, true
		return h, true
	case fetchworker.ReasonCircuitOpen:
		h.Stops = true
		return h, true
	}
	if len(view.Workers) == 0 {
		h.Reason, h.Until, h.Retired = fetchworker.ReasonNoWorker, time.Time{}, view.Control.Retired != nil
	}
	switch h.Reason { //nolint:exhaustive // only these delay
	case fetchworker.ReasonQuota:
		if order := ordered(view, now); order != nil {
			h.By, h.Limits = order.By, order.Limits
			if !order.Until.IsZero() && order.Until.Before(h.Until) {
				h.Until = order.Until // from then on the configured ones are in force
			}
		}
		return h, true
	case fetchworker.ReasonNoWorker, fetchworker.ReasonThrottled:
		return h, true
	}
	return Hold{}, false
}

// ordered are an operator's limits of a provider that are in force; nil: none
// are.
func ordered(view fleet.Provider, now time.Time) *fleet.LimitOrder {
	order := view.Control.Limits
	if order == nil || !order.Until.IsZero() && !now.Before(order.Until) {
		return nil
	}
	return order
}

// Limits are a provider's windows as they are in force.
func (f *Fleet) Limits(provider string) ledger.Limits {
	var limits ledger.Limits
	for _, w := range f.Provider(provider, f.desk.Now()).Windows {
		limits = append(limits, w.Window)
	}
	slices.SortFunc(limits, func(a, b ledger.Window) int { return int(a.Per - b.Per) })
	return limits
}
