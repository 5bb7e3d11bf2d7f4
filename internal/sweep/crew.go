package sweep

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"fetchworker/internal/record"
)

// crew does something to several messages at a time. What fails with one, or
// panics on one, stops no other.
type crew struct {
	ctx   context.Context
	group sync.WaitGroup
	turns chan struct{}

	mu   sync.Mutex // guards errs
	errs []error
}

// errorsTold bounds what one pass says of its failures.
const errorsTold = 5

func newCrew(ctx context.Context) *crew {
	return &crew{ctx: ctx, turns: make(chan struct{}, sweepsAtOnce)}
}

// do takes a message when there is a turn.
func (c *crew) do(raw record.Raw, do func(context.Context, record.Raw) error) {
	c.turns <- struct{}{}
	c.group.Go(func() {
		defer func() { <-c.turns }()
		defer func() {
			if p := recover(); p != nil {
				c.failed(fmt.Errorf("message %d of %q: panic: %v\n%s", raw.Sequence, raw.Subject, p, debug.Stack()))
			}
		}()
		if err := do(c.ctx, raw); err != nil {
			c.failed(err)
		}
	})
}

func (c *crew) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.errs) < errorsTold {
		c.errs = append(c.errs, err)
	}
}

// wait waits for all that was begun and returns what failed.
func (c *crew) wait() error {
	c.group.Wait()
	return errors.Join(c.errs...)
}
