package operate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"mime"
	"strconv"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// RequeueOptions are what a person may change in a requeue.
type RequeueOptions struct {
	KeepDeadline bool   // else the new generation has none
	Body         []byte // the request's edited bytes; nil: its own
}

// Requeue starts a new generation of a review item's request: the act is
// audited, the item claimed, the letter stored, the item deleted.
func (o *Operator) Requeue(ctx context.Context, item browse.Found, options RequeueOptions) (Fate, error) {
	return o.decide(ctx, item, ActRequeue, func(m *nats.Msg) {
		if options.KeepDeadline {
			m.Header.Set(headerKeepDeadline, "true")
		}
		if options.Body != nil {
			m.Data = options.Body
		}
	}, options.Body != nil)
}

// Discard ends a review item's request: the act is audited, the item claimed,
// the answer "failed discarded" stored, which is final for good, the item
// deleted.
func (o *Operator) Discard(ctx context.Context, item browse.Found) (Fate, error) {
	return o.decide(ctx, item, ActDiscard, func(*nats.Msg) {}, false)
}

// A decided item carries the decision. Whoever comes next, after a crash
// perhaps, does what was decided and nothing else.
const (
	headerDecided      = "Fetch-Decided"        // requeue or discard
	headerDecidedAt    = "Fetch-Decided-At"     // when the new life begins
	headerDecidedBy    = "Fetch-Decided-By"     // names the one claim
	headerDecidedWhy   = "Fetch-Decided-Reason" // what the agent of a discarded request reads
	headerKeepDeadline = "Fetch-Keep-Deadline"
)

// decide does an act on a review item. Which of two people's acts it is, is
// decided by one compare-and-set on the item itself: it is rewritten with the
// decision. A crash before that leaves the item as it was; one after it leaves
// a decided item, and the next who acts on it completes what was decided.
func (o *Operator) decide(ctx context.Context, item browse.Found, action string, with func(*nats.Msg), edited bool) (Fate, error) {
	if item.Fault != nil {
		return FateUnreadable, nil //nolint:nilerr // counted as what it is
	}
	item.Letter = inALane(item.Letter)
	var raw record.Raw
	err := o.patiently(ctx, func() (err error) {
		raw, err = o.log.Last(ctx, wire.StreamReview, wire.ReviewSubject(item.Identity))
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return FateTaken, nil
	}
	if err != nil {
		return "", fmt.Errorf("look at %s: %w", item.Identity, err)
	}
	if decided := raw.Header.Get(headerDecided); decided != "" {
		fate := FateTaken
		if raw.Sequence == item.Sequence && decided == action {
			fate = FateDone // this person's own, or the same as another's, half done
		}
		done, err := o.complete(ctx, raw, false)
		if done == FateSuperseded && fate == FateDone {
			fate = done
		}
		return fate, err
	}
	if raw.Sequence != item.Sequence {
		return FateTaken, nil
	}
	if gone, err := o.passed(ctx, item, action); gone != "" || err != nil {
		return gone, err
	}
	err = o.audit(ctx, action, item.Letter, func(a *Act) {
		if edited {
			a.Original = string(item.Body)
		}
	})
	if err != nil {
		return "", err
	}
	m := item.ReviewItem()
	with(m)
	m.Header.Set(headerDecided, action)
	m.Header.Set(headerDecidedAt, o.now().UTC().Format(time.RFC3339Nano))
	m.Header.Set(headerDecidedBy, o.signed.Run+"."+rand.Text())
	m.Header.Set(headerDecidedWhy, mime.QEncoding.Encode("utf-8", dlq.OneLine(o.signed.Reason))) // a header is ASCII
	slot := item.ReviewSlot()
	slot.Point = "claim"
	sequence, err := o.swap(ctx, slot, item.Sequence, m, headerDecidedBy)
	if errors.Is(err, record.ErrMoved) {
		return FateTaken, o.outcome(ctx, action, item.Letter, FateTaken)
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", action, item.Identity, err)
	}
	fate, err := o.complete(ctx, record.Raw{Subject: slot.Subject, Sequence: sequence, Header: m.Header, Data: m.Data}, true)
	if err == nil && fate == FateSuperseded {
		err = o.outcome(ctx, action, item.Letter, fate)
	}
	return fate, err
}

// complete does what was decided on an item, and deletes it. It may be done
// again, and by several at once; fresh says that it was decided just now.
func (o *Operator) complete(ctx context.Context, raw record.Raw, fresh bool) (fate Fate, err error) {
	item, err := dlq.Decode(raw.Subject, raw.Header, raw.Data)
	if err != nil {
		return FateUnreadable, nil
	}
	item = inALane(item)
	switch raw.Header.Get(headerDecided) {
	case ActRequeue:
		fate = FateDone
		if fresh || !o.begun(ctx, item, &err) {
			fate, err = o.requeue(ctx, item, raw.Header)
		}
	case ActDiscard:
		fate, err = o.discard(ctx, item, raw.Header)
	default: // another request's item has come to the place
		return FateTaken, nil
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", raw.Header.Get(headerDecided), item.Identity, err)
	}
	return fate, o.delete(ctx, raw.Sequence)
}

// inALane gives a request that was published to a lane which is none one that
// its next life can be in.
func inALane(l dlq.Letter) dlq.Letter {
	if !l.Lane.Valid() {
		l.Lane = fetchworker.LaneInteractive
	}
	return l
}

// begun reports whether a decided requeue has begun its new life already.
func (o *Operator) begun(ctx context.Context, item dlq.Letter, failed *error) bool {
	var moved dlq.Moved
	*failed = o.patiently(ctx, func() (err error) {
		moved, err = dlq.Superseded(ctx, o.log, item)
		return err
	})
	return *failed != nil || moved != dlq.Nowhere
}

// requeue stores the letter of the new generation.
func (o *Operator) requeue(ctx context.Context, item dlq.Letter, decided nats.Header) (Fate, error) {
	next := nextGeneration(item, decided)
	m := next.DeadLetter()
	// Two who complete the same decision write the same letter: its message id
	// lets the stream drop the second even if the first was released already.
	m.Header.Set(nats.MsgIdHdr, "requeue."+next.String()+"."+strconv.Itoa(next.Generation))
	var out record.Outcome
	err := o.patiently(ctx, func() (err error) {
		out, err = o.log.Put(ctx, next.DeadLetterSlot(), m)
		if !errors.Is(err, record.ErrDuplicate) {
			return err
		}
		// A duplicate is no success: the letter may be gone, by whatever way.
		moved, err := dlq.Superseded(ctx, o.log, item)
		if err != nil || moved != dlq.Nowhere {
			out.Stored = true
			return err
		}
		m.Header.Del(nats.MsgIdHdr)
		out, err = o.log.Put(ctx, next.DeadLetterSlot(), m)
		return err
	})
	if err == nil && !out.Stored {
		return FateSuperseded, nil
	}
	return FateDone, err
}

// nextGeneration is the letter that a requeue stores: a new life with nothing
// counted against it, due at once, of a class that is never buried. The error
// and the history stay, for whoever looks at it next.
func nextGeneration(item dlq.Letter, decided nats.Header) dlq.Letter {
	next := item
	next.Generation++
	next.Failures, next.FirstFailedAt = 0, time.Time{}
	next.Allowed, next.MaxLife = 0, 0 // for the worker to say that has it next
	next.Class, next.Code, next.HTTPStatus = wire.ClassTransient, "", 0
	begins, err := time.Parse(time.RFC3339, decided.Get(headerDecidedAt))
	if err != nil {
		begins = time.Now()
	}
	next.RequestedAt, next.NotBefore = begins, begins
	if decided.Get(headerKeepDeadline) == "" {
		next.Deadline = time.Time{}
	}
	return next
}

// discard stores the answer that ends the request for good. Where nothing
// stands any more, the request's answer was kept for as long as answers are:
// nobody is left to be told, and another may have its id by now.
func (o *Operator) discard(ctx context.Context, item dlq.Letter, decided nats.Header) (fate Fate, err error) {
	err = o.patiently(ctx, func() error {
		stands, err := o.answers.Read(ctx, item.Identity)
		if err != nil {
			return err
		}
		if !stands.Stands {
			_, err := o.log.Get(ctx, item.DeadLetterSlot())
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				fate = FateDone
				return nil
			}
			if err != nil {
				return err
			}
		}
		next := item
		next.Generation++
		ends, stored, err := o.answers.Replace(ctx, stands, next.Failed(fetchworker.CodeDiscarded, reasonOf(decided)), item.ReplyTo())
		fate = FateDone
		if !stored && (ends.Generation != next.Generation || ends.Problem == nil || ends.Problem.Code() != fetchworker.CodeDiscarded) {
			fate = FateSuperseded
		}
		return err
	})
	return fate, err
}

// reasonOf is why a person decided so, in the words they wrote.
func reasonOf(decided nats.Header) string {
	written := decided.Get(headerDecidedWhy)
	reason, err := new(mime.WordDecoder).DecodeHeader(written)
	if err != nil {
		return written
	}
	return reason
}

func (o *Operator) delete(ctx context.Context, sequence uint64) error {
	return o.patiently(ctx, func() error { return o.log.Delete(ctx, "delete-item", wire.StreamReview, sequence) })
}

// passed looks whether the item's request has moved on. Then only the item is
// deleted, audited first; the audit keeps the bytes of a request whose id
// another has by now, for they are nowhere else.
func (o *Operator) passed(ctx context.Context, item browse.Found, action string) (Fate, error) {
	var moved dlq.Moved
	err := o.patiently(ctx, func() (err error) {
		moved, err = dlq.Superseded(ctx, o.log, item.Letter)
		return err
	})
	if err != nil || moved == dlq.Nowhere {
		return "", err
	}
	err = o.audit(ctx, action, item.Letter, func(a *Act) {
		a.Superseded = true
		if moved == dlq.OtherTenant {
			a.Original = string(item.Body)
		}
	})
	if err != nil {
		return "", err
	}
	return FateSuperseded, o.delete(ctx, item.Sequence)
}
