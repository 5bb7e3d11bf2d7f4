package operate

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// RequeueOptions are what a person may change in a requeue.
type RequeueOptions struct {
	Now          time.Time // the server's time: the new life starts then, due at once
	KeepDeadline bool      // else the new generation has none
	Body         []byte    // the request's edited bytes; nil: its own
}

// ErrUnreadable says that an item's headers cannot be read, so that nobody
// can act on it safely.
var ErrUnreadable = errors.New("the stored headers cannot be read")

// Requeue starts a new generation of a review item's request: the act is
// audited, then the letter stored, then the item deleted.
//
// A crash after the audit leaves the item as it was. One after the letter
// leaves both, and the next try finds the later generation, at work or
// answered, and only deletes the item. Two operators at once write the same
// letter: its message id lets the stream drop the second even if the first
// has already been taken away and released.
func (o *Operator) Requeue(ctx context.Context, item browse.Found, options RequeueOptions) (Fate, error) {
	gone, err := o.passed(ctx, item, ActRequeue)
	if gone != "" || err != nil {
		return gone, err
	}
	next := nextGeneration(item.Letter, options)
	err = o.audit(ctx, ActRequeue, item.Letter, func(a *Act) {
		if options.Body != nil {
			a.Original = string(item.Body)
		}
	})
	if err != nil {
		return "", err
	}
	m := next.DeadLetter()
	m.Header.Set(nats.MsgIdHdr, "requeue."+next.String()+"."+strconv.Itoa(next.Generation))
	out, err := o.log.Put(ctx, next.DeadLetterSlot(), m)
	if err != nil {
		return "", fmt.Errorf("requeue %s: %w", item.Identity, err)
	}
	fate := FateDone
	if !out.Stored {
		fate = FateSuperseded
	}
	return fate, o.log.Delete(ctx, "delete-item", fetchworker.StreamReview, item.Sequence)
}

// nextGeneration is the letter that a requeue stores: a new life with nothing
// counted against it, due at once, of a class that is never buried. The error
// and the history stay, for whoever looks at it next.
func nextGeneration(item dlq.Letter, options RequeueOptions) dlq.Letter {
	next := item
	next.Generation++
	next.Failures, next.FirstFailedAt = 0, time.Time{}
	next.Class, next.Code, next.HTTPStatus = fetchworker.ClassTransient, "", 0
	next.RequestedAt, next.NotBefore = options.Now, options.Now
	if !options.KeepDeadline {
		next.Deadline = time.Time{}
	}
	if options.Body != nil {
		next.Body = options.Body
	}
	return next
}

// Discard ends a review item's request: the act is audited, then the answer
// "failed discarded" stored, which is final for good, then the item deleted.
// A crash in between is mended by doing it again.
func (o *Operator) Discard(ctx context.Context, item browse.Found) (Fate, error) {
	gone, err := o.passed(ctx, item, ActDiscard)
	if gone != "" || err != nil {
		return gone, err
	}
	if err := o.audit(ctx, ActDiscard, item.Letter, nil); err != nil {
		return "", err
	}
	next := item.Letter
	next.Generation++
	_, stored, err := o.answers.Put(ctx, next.Failed(fetchworker.CodeDiscarded, o.signed.Reason), item.ReplyTo())
	if err != nil {
		return "", fmt.Errorf("discard %s: %w", item.Identity, err)
	}
	fate := FateDone
	if !stored {
		fate = FateSuperseded
	}
	return fate, o.log.Delete(ctx, "delete-item", fetchworker.StreamReview, item.Sequence)
}

// passed looks whether the item is still what it was when it was seen. One
// whose request has moved on is deleted here, audited first.
func (o *Operator) passed(ctx context.Context, item browse.Found, action string) (Fate, error) {
	if item.Fault != nil {
		return "", fmt.Errorf("%s: %w: %w", item.Identity, ErrUnreadable, item.Fault)
	}
	if !item.Lane.Valid() {
		return "", fmt.Errorf("%s: %w: lane %q", item.Identity, ErrUnreadable, item.Lane)
	}
	now, err := o.log.Last(ctx, fetchworker.StreamReview, fetchworker.ReviewSubject(item.Identity))
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && now.Sequence != item.Sequence {
		return FateTaken, nil
	}
	if err != nil {
		return "", fmt.Errorf("look at %s: %w", item.Identity, err)
	}
	moved, err := Superseded(ctx, o.log, item.Letter)
	if err != nil || !moved {
		return "", err
	}
	if err := o.audit(ctx, action, item.Letter, func(a *Act) { a.Superseded = true }); err != nil {
		return "", err
	}
	return FateSuperseded, o.log.Delete(ctx, "delete-item", fetchworker.StreamReview, item.Sequence)
}

// Superseded reports whether a later generation of a review item's request is
// at work or answered, or its answer can never change any more.
//
// A request at work is a letter, then a replayed letter, then an answer or a
// letter again. The letter is looked at first and last, so that one that
// moves while this looks is met all the same.
func Superseded(ctx context.Context, log *record.Log, item dlq.Letter) (bool, error) {
	for _, slot := range []record.Slot{item.DeadLetterSlot(), item.ReplaySlot(), answer.Slot(item.Identity), item.DeadLetterSlot()} {
		m, err := log.Get(ctx, slot)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("look at %s: %w", slot.Subject, err)
		}
		generation, _ := strconv.Atoi(m.Header.Get(fetchworker.HeaderGeneration))
		settled := m.Header.Get(fetchworker.HeaderFinal) == "true" && m.Header.Get(fetchworker.HeaderReview) != "true"
		if generation > item.Generation || settled {
			return true, nil
		}
	}
	return false, nil
}
