package fetch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers"
	"fetchworker/internal/wire"
)

// longestDetail bounds what a provider's error text adds to an answer, bytes.
const longestDetail = 500

// fail gives a request a final failed answer.
func (w *Worker) fail(ctx context.Context, r *request, code fetchworker.Code, detail string) error {
	return w.finish(ctx, r, ending{answer: failedAnswer(r.Letter, code, clip(detail))}, nil)
}

// refuse answers a request that cannot be run as it is. A body that is no
// JSON object goes to review as well, raw: some producer is broken, and a
// person should see it. A letter that we ourselves cannot read is our fault:
// it goes to review too, and is lost to nobody.
func (w *Worker) refuse(ctx context.Context, r *request, cause error) error {
	var rights *providers.RightsError
	switch {
	case errors.As(cause, &rights):
		return w.fail(ctx, r, fetchworker.CodeRightsViolation, cause.Error())
	case errors.Is(cause, providers.ErrUnknownOperation):
		return w.fail(ctx, r, fetchworker.CodeUnknownOperation, cause.Error())
	case errors.Is(cause, errBrokenLetter):
		return w.bury(ctx, r, wire.ClassPermanent, fetchworker.CodeRetriesExhausted, cause.Error())
	case errors.Is(cause, fetchworker.ErrNotObject):
		if room, err := w.raws.room(ctx, r.Agent); err != nil {
			return err
		} else if !room {
			return w.fail(ctx, r, fetchworker.CodeInvalidRequest, cause.Error())
		}
		return w.bury(ctx, r, wire.ClassPermanent, fetchworker.CodeInvalidRequest, cause.Error())
	default:
		return w.fail(ctx, r, fetchworker.CodeInvalidRequest, cause.Error())
	}
}

// bury ends a request in review: its dead letter first, then the failed
// answer, so that a crash between the two leaves a letter that the replayer
// takes to review and answers.
func (w *Worker) bury(ctx context.Context, r *request, class wire.Class, code fetchworker.Code, detail string) error {
	now := r.now()
	l := r.Letter
	l.Class, l.Code, l.Error = class, code, clip(detail)
	l.FailedAt, l.NotBefore = now, now
	l.Record(dlq.Attempt{At: now, Class: class, Error: l.Error})
	a := failedAnswer(l, code, l.Error)
	a.Review = true
	return w.finish(ctx, r, ending{letter: &l, answer: a}, nil)
}

// expire ends a request that has reached its maximum life: it goes to review
// with all that has become of it.
func (w *Worker) expire(ctx context.Context, r *request) error {
	return w.bury(ctx, r, wire.ClassExpired, fetchworker.CodeRetriesExhausted,
		fmt.Sprintf("the request reached its maximum life of %v", w.maxLife))
}

// park ends this turn of a request whose provider must not be called for a
// while. A body that the agent accepts as stale is its answer; else it becomes
// a letter that counts no failure, with what is known meanwhile: a stale body,
// or why it waits and until when.
//
// Nothing paces them as permits pace calls: a provider that is down would have
// hundreds of letters on their way to the server, and every neighbour's request
// behind them.
func (w *Worker) park(ctx context.Context, r *request, by *budget.ClosedError) error {
	w.whole(ctx, r)
	r.parks = true
	return w.finish(ctx, r, parked(r, by, r.now()), nil)
}

// parksAtOnce are on their way at a time. With 16 none park faster, and a
// neighbour's request takes twice as long; with four they park at half the rate.
const parksAtOnce = 8

// paced is one of the writes of a request that parks: it has its place for as
// long as it is on its way, and none while it waits for a store to have room,
// which must hold up nobody else.
func (w *Worker) paced(ctx context.Context, write func() error) func() error {
	return func() error {
		if err := w.parks.Acquire(ctx, 1); err != nil {
			return err
		}
		defer w.parks.Release(1)
		return write()
	}
}

func parked(r *request, by *budget.ClosedError, now time.Time) ending {
	if r.cache.Within(r.acceptsStale(), now) {
		return ending{answer: staleAnswer(r.Letter, r.cache, now, true)}
	}
	l := r.Letter
	l.Class, l.Error = parkedAs(by.Reason), ""
	l.FailedAt, l.NotBefore = now, latest(now, by.Until)
	if r.cache.Within(r.call.Operation.Stale, now) {
		return ending{letter: &l, answer: meanwhile(l, r.cache, now, by.Reason, by.Until)}
	}
	return ending{letter: &l, answer: waitingAnswer(l, by.Reason, by.Detail, by.Until)}
}

func parkedAs(reason fetchworker.Reason) wire.Class {
	switch reason {
	case fetchworker.ReasonPaused:
		return wire.ClassPaused
	case fetchworker.ReasonThrottled:
		return wire.ClassThrottled
	case fetchworker.ReasonQuota:
		return wire.ClassQuota
	case fetchworker.ReasonUnauthorized:
		return wire.ClassUnauthorized
	case fetchworker.ReasonPending:
		return wire.ClassPending
	case fetchworker.ReasonRetry:
		return wire.ClassTransient
	case fetchworker.ReasonCircuitOpen, fetchworker.ReasonNoWorker:
		return wire.ClassCircuitOpen
	}
	return wire.ClassCircuitOpen
}

func clip(s string) string {
	if len(s) > longestDetail {
		return strings.ToValidUTF8(s[:longestDetail], "") + "…" // not through a character
	}
	return s
}
