package fetch

import (
	"context"
	"sync"
	"sync/atomic"
)

// bounded is a context that is made when somebody first waits for its end.
// Most requests never wait: their permit is at hand, nobody cancels them. Made
// for each, the contexts of waits were a tenth of what a request allocates.
type bounded struct {
	context.Context
	begin func() (context.Context, context.CancelFunc)

	once sync.Once
	made atomic.Pointer[context.Context]
	end  context.CancelFunc
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
