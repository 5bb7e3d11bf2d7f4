package fetch

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// bounded is the context of a request's waits, which is made when somebody first
// waits for its end. Most requests never wait: their permit is at hand, nobody
// cancels them (see stirs). Made for each, the contexts of waits were a tenth of what a
// request allocates.
type bounded struct {
	context.Context
	w      *Worker
	r      *request
	within time.Duration // it lasts at the most; 0: as long as the request may wait

	once sync.Once
	made atomic.Pointer[context.Context]
	end  context.CancelFunc
}

// untilOver ends when a request may wait no longer: its deadline, its maximum
// life, its cancellation, or the worker's own stop. It is to be cancelled.
func (w *Worker) untilOver(ctx context.Context, r *request) *bounded {
	return &bounded{Context: ctx, w: w, r: r}
}

// shortly is the same, and ends after a while besides.
func (b *bounded) shortly(within time.Duration) *bounded {
	return &bounded{Context: b, within: within}
}

func (b *bounded) begin() (context.Context, context.CancelFunc) {
	if b.within > 0 {
		return context.WithTimeout(b.Context, b.within)
	}
	ctx, cancel := context.WithDeadline(b.Context, b.over())
	release := context.AfterFunc(b.w.stopping, cancel)
	whenCancelled := b.w.cancels.during(b.r, cancel)
	return ctx, func() {
		whenCancelled()
		release()
		cancel()
	}
}

// over is when the request's own time is.
func (b *bounded) over() time.Time {
	over := b.r.RequestedAt.Add(b.w.maxLife)
	if d := b.r.Deadline; !d.IsZero() && d.Before(over) {
		return d
	}
	return over
}

func (b *bounded) ctx() context.Context {
	b.once.Do(func() {
		ctx, end := b.begin()
		b.end = end
		b.made.Store(&ctx)
	})
	return *b.made.Load()
}

func (b *bounded) Done() <-chan struct{} { return b.ctx().Done() }
func (b *bounded) Err() error            { return b.ctx().Err() }

func (b *bounded) Value(key any) any {
	if made := b.made.Load(); made != nil {
		return (*made).Value(key)
	}
	return b.Context.Value(key)
}

// cancel ends it; nobody may use it any more.
func (b *bounded) cancel() {
	if b.made.Load() != nil {
		b.end()
	}
}
