package sweep

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// expireRequests ends the requests that have waited for their whole life. The
// stream is in order of time, so the first message says whether there are any.
func (s *Sweeper) expireRequests(ctx context.Context, state jetstream.StreamState) error {
	alive := func(since time.Time) bool { return s.board.Now().Sub(since) < s.config.MaxLife }
	if state.Msgs == 0 || alive(state.FirstTime) {
		return nil
	}
	_, err := s.each(ctx, fetchworker.StreamRequests, "fetch.request.>", state.FirstSeq, func(raw record.Raw) bool { return !alive(raw.Time) }, s.bury)
	return err
}

// expireReplayed ends the released letters whose request has lived its whole
// life. Each is read once when it is new, and all are again when the first of
// those lives ends.
func (s *Sweeper) expireReplayed(ctx context.Context, state jetstream.StreamState) error {
	if state.Msgs == 0 {
		s.nextEnd = time.Time{}
		return nil
	}
	next := s.seen + 1
	if !s.nextEnd.IsZero() && !s.board.Now().Before(s.nextEnd) {
		next, s.nextEnd = state.FirstSeq, time.Time{}
	}
	crew := newCrew(ctx)
	for next <= state.LastSeq {
		raw, err := s.log.Next(ctx, wire.StreamReplay, "fetch.replay.>", next)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return err
		}
		next = raw.Sequence + 1
		l, err := queued(raw)
		if err != nil {
			continue // no letter: it is dropped elsewhere
		}
		end := l.EndOfLife(raw.Time, s.config.MaxLife)
		if s.board.Now().Before(end) {
			if s.nextEnd.IsZero() || end.Before(s.nextEnd) {
				s.nextEnd = end
			}
		} else {
			crew.do(raw, s.bury)
		}
	}
	s.seen = max(s.seen, state.LastSeq)
	err := crew.wait()
	if err != nil {
		s.nextEnd = s.board.Now() // look at all of them again
	}
	return err
}

// bury makes a dead letter of a message that is past its life; the replayer
// takes it to review and answers it. A crash before the delete leaves the
// message to be buried again, which replaces the letter with itself, or to be
// taken by a worker, which does the same.
func (s *Sweeper) bury(ctx context.Context, raw record.Raw) error {
	l, err := queued(raw)
	if err != nil {
		return s.drop(ctx, streamOf(raw), raw)
	}
	if !l.Lane.Valid() { // no retry and no person can help it
		return s.refuse(ctx, raw, fetchworker.CodeInvalidRequest, badLane)
	}
	why := fmt.Sprintf("the request reached its maximum life of %v", s.config.MaxLife)
	return s.toReview(ctx, raw, l, wire.ClassExpired, "", why)
}

// toReview makes a dead letter of a message that the replayer takes to a
// person.
func (s *Sweeper) toReview(ctx context.Context, raw record.Raw, l dlq.Letter, class wire.Class, code fetchworker.Code, why string) error {
	now := s.board.Now()
	l.Class, l.Code, l.Error = class, code, why
	l.FailedAt, l.NotBefore = now, now
	l.Record(dlq.Attempt{At: now, Class: l.Class, Error: l.Error})
	if err := dlq.Put(ctx, s.log, l); err != nil {
		return err
	}
	s.config.Logger.Info("to review", zap.Stringer("request", l.Identity), zap.String("why", why), zap.Time("requested_at", l.RequestedAt))
	return s.log.Delete(ctx, "ack", streamOf(raw), raw.Sequence)
}
