// Package operate does what a person decides on letters, review items and
// providers: select, plan, act, watch, and record who did what and why before
// it is done. It is the engine under the replayer's commands; words, flags
// and tables are theirs.
package operate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"fetchworker/internal/answer"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Fate is what became of one message that a person wanted to act on.
type Fate string

// The fates. Only done means that this act did it.
const (
	FateDone       Fate = "done"
	FateDue        Fate = "already_due" // a letter whose time has come: the replayers release it by themselves
	FateTaken      Fate = "taken"       // somebody else was faster: it is no longer where it was seen
	FateSuperseded Fate = "superseded"  // the request has moved on, or has its answer: only the item or the letter was deleted
	FateFailed     Fate = "failed"      // the server refuses what it would need, for reasons of its own
	FateUnreadable Fate = "unreadable"  // its headers cannot be read: nobody can act on it safely
)

// Operator does a person's acts on letters and review items. Each act is
// audited before it is done, may be killed at any point and done again, and
// may race with other operators and with the replayers.
type Operator struct {
	js      jetstream.JetStream
	log     *record.Log
	answers *answer.Store
	signed  Signature

	// Now is the server's time; nil: the machine's own.
	Now func() time.Time
	// Waits is told for how long the server has not answered, and zero when it
	// does again; nil: nobody is told.
	Waits func(time.Duration)

	mu    sync.Mutex
	noted map[string]*noted // by provider and agent
}

// NewOperator makes an operator that acts in a person's name.
func NewOperator(js jetstream.JetStream, log *record.Log, s Signature) *Operator {
	return &Operator{js: js, log: log, answers: answer.New(log), signed: s, noted: map[string]*noted{}}
}

// ReplayNow makes a letter due at once instead of at its time: it rewrites
// the letter in its place with the time given, which must not lie in the
// servers' future, and a running replayer releases it like any other. So
// every rule of a release holds (a live worker, the circuit, the room in the
// replay stream, the order of generations), and there is no second way for a
// letter to reach a worker.
//
// The write is a compare-and-set on the sequence at which the letter was
// seen. If a replayer or another operator has moved it meanwhile the write is
// refused, and nothing is put back that was taken away. A crash before the
// write leaves the letter due at its time, one after it leaves it due now;
// there is no moment at which it is gone, or there twice. A replayer that
// holds the old copy at this very moment (it does only if the letter's gate
// has just opened) acks a sequence that is no longer there, and what it has
// released is replaced by the same letter under the same subject.
func (o *Operator) ReplayNow(ctx context.Context, f browse.Found, now time.Time) (Fate, error) {
	switch {
	case f.Fault != nil:
		return FateUnreadable, nil //nolint:nilerr // counted as what it is
	case !f.NotBefore.After(now):
		return FateDue, nil
	}
	if err := o.audit(ctx, ActReplay, f.Letter, nil); err != nil {
		return "", err
	}
	letter := f.Letter
	letter.NotBefore = now
	slot := letter.DeadLetterSlot()
	slot.Point = "replay-now"
	_, err := o.swap(ctx, slot, f.Sequence, letter.DeadLetter(), wire.HeaderNotBefore)
	if errors.Is(err, record.ErrMoved) {
		return FateTaken, o.outcome(ctx, ActReplay, f.Letter, FateTaken)
	}
	if err != nil {
		return "", fmt.Errorf("replay %s: %w", f.Identity, err)
	}
	return FateDone, nil
}

// swap replaces a message that was seen, and returns the new one's sequence.
// Where an answer of the server's was lost, a header that only ours has tells
// whether it was stored.
func (o *Operator) swap(ctx context.Context, slot record.Slot, seen uint64, m *nats.Msg, header string) (sequence uint64, err error) {
	unsure := false
	err = o.patiently(ctx, func() (err error) {
		sequence, err = o.log.Swap(ctx, slot, seen, m)
		if errors.Is(err, record.ErrMoved) && unsure {
			stands, look := o.log.Get(ctx, slot)
			switch {
			case look == nil && stands.Header.Get(header) == m.Header.Get(header):
				sequence = stands.Sequence
				return nil
			case look != nil && !errors.Is(look, jetstream.ErrMsgNotFound):
				return look
			}
		}
		unsure = unsure || err != nil
		return err
	})
	return sequence, err
}

// audit records an act on a message; with may add to it.
func (o *Operator) audit(ctx context.Context, action string, l dlq.Letter, with func(*Act)) error {
	a := Act{
		Action: action, Provider: l.Provider,
		Operation: l.Operation, Agent: l.Agent, ID: l.ID, Lane: l.Lane,
		Generation: l.Generation, Class: l.Class, Error: l.Error,
	}
	if with != nil {
		with(&a)
	}
	id := rand.Text() // stored once, however often it is sent
	return o.log.Point("audit", func() error {
		return o.patiently(ctx, func() error { return recordAct(ctx, o.js, o.signed, a, id) })
	})
}

// outcome records that an act which was recorded was not done after all.
func (o *Operator) outcome(ctx context.Context, action string, l dlq.Letter, fate Fate) error {
	return o.audit(ctx, action, l, func(a *Act) { a.Outcome = fate })
}

func (o *Operator) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}
