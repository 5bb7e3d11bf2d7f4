package fetch

import (
	"context"
	"sync"
	"time"

	"fetchworker/internal/cancel"
)

// stirs wakes whoever waits for its permit when its wait may be over: at a stop,
// when somebody cancels anything, and every so often. All who wait share it. (A
// busy worker has more requests at hand than it may call for at once, so that
// nearly all wait for a place, for some milliseconds. The context of a wait, with
// its deadline, its cancellation and the worker's stop, was eight of a request's
// allocations and four locks.)
type stirs struct {
	mu   sync.Mutex
	next chan struct{} // nil: nobody waits
}

// stirEach is how long a wait goes on at the most before it is looked at.
const stirEach = 100 * time.Millisecond

// wait is closed at the next stir.
func (s *stirs) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = make(chan struct{})
		time.AfterFunc(stirEach, s.stir)
	}
	return s.next
}

// stir has all who wait look.
func (s *stirs) stir() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		close(s.next)
		s.next = nil
	}
}

// at has all who wait look when the worker stops, or is made to end.
func (s *stirs) at(stop, working context.Context) (over func()) {
	stopped, ended := context.AfterFunc(stop, s.stir), context.AfterFunc(working, s.stir)
	return func() { stopped(); ended() }
}

// Stirs is closed before the context ends, or as it does; nil where it may have
// ended, is about to, or has been made already.
func (b *bounded) Stirs() <-chan struct{} {
	if b.within > 0 || b.made.Load() != nil {
		return nil
	}
	stirs := b.w.stirs.wait() // whatever ends it from now on stirs
	if b.Context.Err() != nil || b.w.stopping.Err() != nil || b.w.cancels.verdict(b.r) == cancel.Cancelled ||
		time.Until(b.over()) <= stirEach {
		return nil
	}
	return stirs
}
