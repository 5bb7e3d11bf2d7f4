package fetch

import (
	"context"
	"fmt"
	"sync"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/cancel"
)

// cancels is what a worker knows of what agents have cancelled. Without a
// guard nothing ever is.
type cancels struct {
	guard *cancel.Guard
	stirs *stirs // of those who wait, and have not said so below

	mu      sync.Mutex
	waiting map[*request]context.CancelFunc // for a permit, or for another's call
}

func newCancels(g *cancel.Guard, s *stirs) *cancels {
	c := &cancels{guard: g, stirs: s, waiting: map[*request]context.CancelFunc{}}
	if g != nil {
		g.OnMark(c.wake)
	}
	return c
}

// verdict is what is known of a request.
func (c *cancels) verdict(r *request) cancel.Verdict {
	if c.guard == nil {
		return cancel.Goes
	}
	return c.guard.Judge(cancel.Of(r.Identity, r.Lane, r.RequestedAt))
}

// mayCall says whether a call may begin now; an error means that the permit
// goes back and the request is looked at anew. A call that may is to be told
// to written once it is on the wire, or is not made.
func (c *cancels) mayCall(ctx context.Context, r *request) error {
	if c.guard == nil {
		return nil
	}
	r.written() // of a connection that was replaced
	call, err := c.guard.MayCall(ctx, cancel.Of(r.Identity, r.Lane, r.RequestedAt))
	if err != nil {
		return fmt.Errorf("%w: %w", budget.ErrLapsed, err)
	}
	r.begun.Store(call)
	return nil
}

// written says that the call is on the wire, or will never be.
func (r *request) written() {
	if call := r.begun.Load(); call != nil {
		call.Written()
	}
}

// during has a wait ended when the request is cancelled.
func (c *cancels) during(r *request, end context.CancelFunc) (over func()) {
	if c.guard == nil {
		return func() {}
	}
	c.mu.Lock()
	c.waiting[r] = end
	c.mu.Unlock()
	if c.verdict(r) == cancel.Cancelled {
		end()
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting, r)
	}
}

// wake ends the waits of an agent's requests that have been cancelled.
func (c *cancels) wake(provider, agent string) {
	c.stirs.stir()
	c.mu.Lock()
	defer c.mu.Unlock()
	for r, end := range c.waiting {
		if r.Provider == provider && r.Agent == agent && c.verdict(r) == cancel.Cancelled {
			end()
		}
	}
}

// cancelled ends a request that was cancelled, whatever it waits for.
func (w *Worker) cancelled(ctx context.Context, r *request) (done bool, err error) {
	switch w.cancels.verdict(r) {
	case cancel.Cancelled:
		return true, w.fail(ctx, r, fetchworker.CodeCancelled, cancel.Detail)
	case cancel.Look:
		return w.endedBefore(ctx, r)
	case cancel.Goes:
	}
	return false, nil
}

// unlessCancelled is what a request ends with: the answer of a call that had
// begun is dropped if the request was cancelled meanwhile.
func (w *Worker) unlessCancelled(r *request, e ending) ending {
	if w.cancels.verdict(r) != cancel.Cancelled {
		return e
	}
	l := r.Letter
	if e.letter != nil {
		l = *e.letter
	} else if e.answer != nil {
		l.Calls, l.Failures = e.answer.Calls, e.answer.Failures
	}
	return ending{answer: failedAnswer(l, fetchworker.CodeCancelled, cancel.Detail)}
}
