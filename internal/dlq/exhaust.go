package dlq

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"fetchworker"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// exhaust takes a letter that retrying cannot help to review. Every step may
// be repeated: a crash between any two leaves the letter, and whoever meets
// it next does them all again and changes nothing that was done.
func (r *Replayer) exhaust(ctx context.Context, l *held) (time.Duration, error) {
	// The stored answer comes first: a request that was answered meanwhile
	// must not bury a person in work that is done.
	stands, err := r.answers.Read(ctx, l.Identity)
	if err != nil {
		return 0, err
	}
	if done(stands, l.Generation) {
		// A crash between an item and its answer, and an answer of a worker
		// in between, can have left an item that nobody needs.
		if err := r.withdraw(ctx, l.Letter); err != nil {
			return 0, err
		}
		return 0, r.finish(ctx, l, stands)
	}
	if l.Error == "" && !spent(l.Letter, r.config.Retries) {
		l.Error = fmt.Sprintf("the request reached its maximum life of %v", r.config.MaxLife)
	}
	// The item comes before the answer that points to it: a failed answer with
	// Fetch-Review and no item would be lost to everybody.
	if _, err := r.log.Put(ctx, l.ReviewSlot(), l.ReviewItem()); err != nil {
		return 0, err
	}
	code := l.FailsWith()
	a := l.Failed(code, l.Error)
	a.Review = true
	// Often the worker has written the same. But it may be another end.
	stands, mine, err := r.answers.Replace(ctx, stands, a, l.ReplyTo())
	if err != nil {
		return 0, err
	}
	r.ended(l.Letter, mine) // at once: what fails after this finds it written
	if done(stands, l.Generation) {
		if err := r.withdraw(ctx, l.Letter); err != nil {
			return 0, err
		}
		return 0, r.finish(ctx, l, stands)
	}
	// A replayer that was frozen for longer than its letter was its own stores
	// an item again that a person has requeued meanwhile.
	moved, err := Superseded(ctx, r.log, l.Letter)
	if err != nil {
		return 0, err
	}
	if moved != Nowhere {
		if err := r.withdraw(ctx, l.Letter); err != nil {
			return 0, err
		}
		return 0, l.ack(ctx, r.log)
	}
	// The event names the generation, so that one told again is stored once.
	if err := Emit(ctx, r.log, reviewEvent(l.Letter, code)); err != nil {
		return 0, err
	}
	r.did(didReview, l.Provider)
	r.logger.Info("to review", zap.Stringer("request", l.Identity), zap.Int("generation", l.Generation),
		zap.String("class", string(l.Class)), zap.String("code", string(code)), zap.Int("calls", l.Calls), zap.String("error", l.Error))
	return 0, l.ack(ctx, r.log)
}

// withdraw deletes the review item of a letter whose request has its answer.
func (r *Replayer) withdraw(ctx context.Context, l Letter) error {
	item, err := r.log.Last(ctx, wire.StreamReview, wire.ReviewSubject(l.Identity))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("review item of %s: %w", l.Identity, err)
	}
	if generation, _ := strconv.Atoi(item.Header.Get(wire.HeaderGeneration)); generation > l.Generation {
		return nil
	}
	if requested, err := time.Parse(time.RFC3339, item.Header.Get(wire.HeaderRequestedAt)); err == nil && !requested.Equal(l.RequestedAt) {
		return nil // of another request under the same id
	}
	return r.log.Delete(ctx, "withdraw", wire.StreamReview, item.Sequence)
}

func reviewEvent(l Letter, code fetchworker.Code) Event {
	return Event{
		Kind: "review", Provider: l.Provider, Subject: l.ID, Time: time.Now(),
		ID: l.Operation + "." + l.Agent + "." + l.ID + "." + strconv.Itoa(l.Generation),
		Data: struct {
			Severity   string           `json:"severity"`
			Provider   string           `json:"provider"`
			Operation  string           `json:"operation"`
			Agent      string           `json:"agent"`
			ID         string           `json:"id"`
			Generation int              `json:"generation"`
			Code       fetchworker.Code `json:"code"`
			Class      wire.Class       `json:"class"`
			Error      string           `json:"error,omitempty"`
			HTTPStatus int              `json:"http_status,omitempty"`
			Calls      int              `json:"calls"`
			Failures   int              `json:"failures"`
		}{"warning", l.Provider, l.Operation, l.Agent, l.ID, l.Generation, code, l.Class, l.Error, l.HTTPStatus, l.Calls, l.Failures},
	}
}
