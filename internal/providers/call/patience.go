package call

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// patience is a call's timeout. It stands still while we ourselves keep the
// call waiting: that is no fault of the provider.
type patience struct {
	context.Context
	deadline time.Time // without any wait

	cancel context.CancelCauseFunc
	timer  *time.Timer
	over   atomic.Bool

	waited time.Duration // for us, in all
}

func newPatience(parent context.Context, timeout time.Duration) *patience {
	p := &patience{deadline: time.Now().Add(timeout)}
	p.Context, p.cancel = context.WithCancelCause(parent)
	p.timer = time.AfterFunc(timeout, func() {
		p.over.Store(true)
		p.cancel(context.DeadlineExceeded)
	})
	return p
}

// Deadline tells whoever dials how much time there is.
func (p *patience) Deadline() (time.Time, bool) {
	if d, ok := p.Context.Deadline(); ok && d.Before(p.deadline) {
		return d, true
	}
	return p.deadline, true
}

// end releases what it holds.
func (p *patience) end() {
	p.timer.Stop()
	p.cancel(context.Canceled)
}

// during runs something that the call does not answer for.
func (p *patience) during(wait func() error) error {
	stopped, since := p.timer.Stop(), time.Now()
	err := wait()
	p.waited += time.Since(since)
	if stopped {
		p.timer.Reset(time.Until(p.deadline.Add(p.waited)))
	}
	return err
}

// told makes a timeout of what broke off because the time was over.
func (p *patience) told(err error) error {
	if err != nil && p.over.Load() && errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	}
	return err
}
