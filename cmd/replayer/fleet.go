package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/budget"

	"github.com/nats-io/nats.go/jetstream"
)

// fleet is what the workers share, watched while a command runs.
type fleet struct {
	*budget.Board
	l *link
}

func (l *link) fleet(ctx context.Context) (*fleet, error) {
	board, err := budget.Watch(ctx, l.js, l.kv)
	if err != nil {
		return nil, err
	}
	return &fleet{Board: board, l: l}, nil
}

// shut says why a provider's letters do not go back to work now, and when
// they will by themselves; empty if they do. Only a pause and an open circuit
// are reasons not to replay: a hold or a quota lets through what it can.
func (f *fleet) shut(provider string) string {
	now := f.l.now()
	reason, until := f.Held(provider, now)
	switch reason { //nolint:exhaustive // the other reasons do not stop a replay
	case fetchworker.ReasonPaused:
		p := f.View(provider, now).Control.Pause
		return fmt.Sprintf("%s is paused by %s until %s (%s): its letters go by themselves within 10 s of the pause's end, or of replayer resume %s",
			provider, p.By, clock(until), ago(until, now), provider)
	case fetchworker.ReasonCircuitOpen:
		when := "is due now"
		if until.After(now) {
			when = "is due at " + clock(until) + " (" + ago(until, now) + ")"
		}
		return fmt.Sprintf("the circuit of %s is open, its next probe %s: its letters go by themselves within 10 s of its closing", provider, when)
	}
	return ""
}

// view is how letters are seen now. The board is asked once a provider, not
// once a letter.
func (f *fleet) view() view {
	now, known := f.l.now(), map[string]bool{}
	return view{now, func(provider string) bool {
		held, ok := known[provider]
		if !ok {
			reason, _ := f.Held(provider, now)
			held = reason != ""
			known[provider] = held
		}
		return held
	}}
}

// slow says what else will hold a provider's letters up.
func (f *fleet) slow(provider string) string {
	now := f.l.now()
	view := f.View(provider, now)
	if len(view.Workers) == 0 {
		return "no live worker serves " + provider + ": its letters stay due until one does"
	}
	switch reason, until := f.Held(provider, now); reason { //nolint:exhaustive // the others stop a replay
	case fetchworker.ReasonThrottled:
		return provider + " asked for a hold until " + clock(until) + " (" + ago(until, now) + ")"
	case fetchworker.ReasonQuota:
		return "the quota of " + provider + " is used up until " + clock(until) + " (" + ago(until, now) + ")"
	}
	return ""
}

// limits are a provider's windows as the fleet last claimed under them.
func (f *fleet) limits(provider string) budget.Limits {
	var limits budget.Limits
	for _, w := range f.View(provider, f.l.now()).Windows {
		limits = append(limits, w.Window)
	}
	slices.SortFunc(limits, func(a, b budget.Window) int { return int(a.Per - b.Per) })
	return limits
}

// replayers reports whether any replayer runs: then a pull waits on the DLQ's
// consumer nearly all the time.
func (l *link) replayers(ctx context.Context) (bool, error) {
	for try := range 3 {
		if try > 0 {
			if err := rest(ctx, 150*time.Millisecond); err != nil {
				return false, err
			}
		}
		c, err := l.js.Consumer(ctx, fetchworker.StreamDLQ, broker.ReplayerConsumer)
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

func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05Z") }

func workerNames(workers []budget.Worker) string {
	names := make([]string, len(workers))
	for i, w := range workers {
		names[i] = w.Name
	}
	return strings.Join(names, ", ")
}
