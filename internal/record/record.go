// Package record keeps the one message of a subject: an answer, a dead
// letter, a replayed letter, a review item. Any number of writers may write
// it in any order, again and again; what stays is the highest by the
// subject's order. It does so by compare-and-set on the subject's last
// sequence, so the log itself refuses what would go down.
//
// It does not know why a message is written, and never deletes one that
// stands higher.
package record

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Hook is called around every durable step with its name, before it
// (persisted false) and after it (persisted true). An error stops the caller
// right there, as a crash would. Only tests set one.
type Hook func(point string, persisted bool) error

// Log writes and reads records. It is safe for concurrent use.
type Log struct {
	js   jetstream.JetStream
	hook Hook
	// patience is how long a write is tried again while its outcome is
	// unknown: a leader election takes up to ten seconds.
	patience time.Duration
}

// New makes a log. The hook may be nil.
func New(js jetstream.JetStream, hook Hook) *Log {
	return &Log{js: js, hook: hook, patience: 20 * time.Second}
}

// Point runs one durable step between its two hooks.
func (l *Log) Point(name string, step func() error) error {
	if l.hook == nil {
		return step()
	}
	if err := l.hook(name, false); err != nil {
		return err
	}
	if err := step(); err != nil {
		return err
	}
	return l.hook(name, true)
}

// Slot is where a record lives.
type Slot struct {
	Stream  string
	Subject string // as stored; the message itself may be published under another one that the stream transforms
	Order   Order
	Point   string // name of the step for the hook
}

// Outcome says what stands under the subject after a Put.
type Outcome struct {
	Stored   bool     // ours does
	Existing *Message // the higher one that does, if not ours
	Sequence uint64
}

// Seen is what a read found under a subject: the zero value if nothing.
type Seen struct {
	Message
	Sequence uint64
}

// Put writes the message if it is higher than what stands under the slot's
// subject. It assumes first that nothing does, which costs one round trip;
// each conflict costs two more. An error means that the outcome is unknown or
// the stream refuses: nothing may be acknowledged on it, and the write may be
// repeated.
func (l *Log) Put(ctx context.Context, slot Slot, m *nats.Msg) (Outcome, error) {
	return l.Replace(ctx, slot, Seen{}, m)
}

// Replace is Put for a caller that has read the subject: what it has seen is
// assumed to stand still. A message that is not higher than that is not
// written at all.
func (l *Log) Replace(ctx context.Context, slot Slot, seen Seen, m *nats.Msg) (Outcome, error) {
	if seen.Sequence != 0 && !slot.Order(seen.Message, Message{m.Header, m.Data}) {
		return Outcome{Existing: &seen.Message, Sequence: seen.Sequence}, nil
	}
	var out Outcome
	err := l.Point(slot.Point, func() (err error) {
		out, err = l.put(ctx, slot, seen.Sequence, m)
		return err
	})
	if err != nil {
		return Outcome{}, fmt.Errorf("put %s: %w", slot.Subject, err)
	}
	return out, nil
}

// put expects the subject's last sequence to be this one, 0 for none.
func (l *Log) put(ctx context.Context, slot Slot, last uint64, m *nats.Msg) (Outcome, error) {
	var out Outcome
	write := func() error {
		for {
			seq, err := l.publish(ctx, slot.Stream, m, last)
			if err == nil {
				out = Outcome{Stored: true, Sequence: seq}
				return nil
			}
			if !isConflict(err) {
				return worthRetry(err)
			}
			stands, err := l.Get(ctx, slot)
			switch {
			case errors.Is(err, jetstream.ErrMsgNotFound):
				last = 0 // it was taken away meanwhile
				continue
			case err != nil:
				return worthRetry(err)
			case !slot.Order(stands.Message, Message{m.Header, m.Data}):
				out = Outcome{Existing: &stands.Message, Sequence: stands.Sequence}
				return nil
			}
			last = stands.Sequence
		}
	}
	return out, backoff.Retry(write, l.policy(ctx))
}

func (l *Log) publish(ctx context.Context, stream string, m *nats.Msg, last uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ack, err := l.js.PublishMsg(ctx, m,
		jetstream.WithExpectStream(stream), jetstream.WithExpectLastSequencePerSubject(last))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// Get reads the record of a slot. ErrMsgNotFound: there is none.
func (l *Log) Get(ctx context.Context, slot Slot) (Seen, error) {
	raw, err := l.Last(ctx, slot.Stream, slot.Subject)
	if err != nil {
		return Seen{}, err
	}
	return Seen{Message{raw.Header, raw.Data}, raw.Sequence}, nil
}

// isConflict says that the subject's last sequence is another one.
func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// worthRetry stops the retries where trying again cannot help: the request
// itself is refused. A full stream, a timeout, an election pass.
func worthRetry(err error) error {
	if err == nil {
		return nil
	}
	var api *jetstream.APIError
	if errors.As(err, &api) && api.Code >= 400 && api.Code < 500 || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrConnectionClosed) {
		return backoff.Permanent(err)
	}
	return err
}

// Append stores one more message, with nothing to compare it to, and tries
// again while the outcome is unknown: it may then be stored twice.
func (l *Log) Append(ctx context.Context, point, stream string, m *nats.Msg) error {
	err := l.Point(point, func() error {
		return backoff.Retry(func() error {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			_, err := l.js.PublishMsg(ctx, m, jetstream.WithExpectStream(stream))
			return worthRetry(err)
		}, l.policy(ctx))
	})
	if err != nil {
		return fmt.Errorf("append %s: %w", m.Subject, err)
	}
	return nil
}

// policy tries again, ever more slowly, until patience ends or ctx does.
func (l *Log) policy(ctx context.Context) backoff.BackOff {
	return backoff.WithContext(backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(50*time.Millisecond),
		backoff.WithMaxInterval(2*time.Second),
		backoff.WithMaxElapsedTime(l.patience),
	), ctx)
}
