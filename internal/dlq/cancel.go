package dlq

import (
	"context"
	"errors"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/cancel"
	"fetchworker/internal/record"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// cancelled reports whether a letter's request is among all that its agent
// has cancelled. One that was cancelled by its id has its answer already.
func (r *Replayer) cancelled(l Letter, stored time.Time) bool {
	if r.config.Cancels == nil {
		return false
	}
	if !l.RequestedAt.IsZero() {
		stored = l.RequestedAt
	}
	return r.config.Cancels.Judge(cancel.Of(l.Identity, l.Lane, stored)) == cancel.Cancelled
}

// end answers a letter whose request was cancelled.
func (r *Replayer) end(ctx context.Context, l *held) (time.Duration, error) {
	if err := r.answerCancelled(ctx, l.Letter); err != nil {
		return 0, err
	}
	return 0, l.ack(ctx, r.log)
}

func (r *Replayer) answerCancelled(ctx context.Context, l Letter) error {
	_, stored, err := r.answers.Put(ctx, l.Failed(fetchworker.CodeCancelled, cancel.Detail), l.ReplyTo())
	if err != nil {
		return err
	}
	r.did(didCancel, l.Provider)
	r.ended(l, stored)
	return nil
}

// cancels ends the letters of whoever cancels, wherever they are in the
// queue, until ctx ends. A letter that this misses is met in its turn.
func (r *Replayer) cancels(ctx context.Context) {
	if r.config.Cancels == nil {
		<-ctx.Done()
		return
	}
	marks := make(map[string][2]string)
	var mu sync.Mutex
	came := make(chan struct{}, 1)
	r.config.Cancels.OnMark(func(provider, agent string) {
		mu.Lock()
		marks[provider+"."+agent] = [2]string{provider, agent}
		mu.Unlock()
		select {
		case came <- struct{}{}:
		default:
		}
	})
	take := func() (whose [2]string, marked bool) {
		mu.Lock()
		defer mu.Unlock()
		for key, whose := range marks {
			delete(marks, key)
			return whose, true
		}
		return whose, false
	}
	for {
		whose, marked := take()
		if !marked {
			select {
			case <-came:
				continue
			case <-ctx.Done():
				return
			}
		}
		if err := r.cancelLetters(ctx, whose[0], whose[1]); err != nil && ctx.Err() == nil {
			r.logger.Warn("letters of a cancelling agent", zap.String("provider", whose[0]), zap.String("agent", whose[1]), zap.Error(err))
			if wait.Between(ctx, time.Second, 2*time.Second) != nil {
				return
			}
		}
	}
}

const (
	// cancelsAtOnce bounds the letters of one agent that are being ended.
	cancelsAtOnce = 64
	cancelsAPage  = 500
)

// cancelLetters answers and deletes an agent's cancelled letters. A crash
// between the two leaves a letter that finds its answer.
func (r *Replayer) cancelLetters(ctx context.Context, provider, agent string) error {
	filter := "fetch.dlq." + provider + ".*.*." + agent + ".*"
	group, ending := errgroup.WithContext(ctx)
	group.SetLimit(cancelsAtOnce)
	var failed error
	for sequence := uint64(1); ; {
		page, err := r.log.Page(ctx, wire.StreamDLQ, filter, sequence, cancelsAPage)
		if failed = err; err != nil || len(page) == 0 {
			break
		}
		sequence = page[len(page)-1].Sequence + 1
		for _, raw := range page {
			if l := Read(raw.Subject, raw.Header, raw.Data); r.cancelled(l, raw.Time) && !spent(l, r.config.Retries) {
				group.Go(func() error { return r.cancelStored(ending, l, raw) })
			}
		}
	}
	return errors.Join(failed, group.Wait())
}

func (r *Replayer) cancelStored(ctx context.Context, l Letter, raw record.Raw) error {
	if err := r.answerCancelled(ctx, l); err != nil {
		return err
	}
	return r.log.Delete(ctx, "cancel", wire.StreamDLQ, raw.Sequence)
}
