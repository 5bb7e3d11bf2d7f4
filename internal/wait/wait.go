// Package wait is the one way to let time pass that a context can end, and
// keeps the messages that this process holds its own meanwhile.
package wait

import (
	"context"
	"math/rand/v2"
	"time"
)

// For waits for d. If ctx ends first, its cause is the error.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Between waits for a time drawn between shortest and longest, so that many
// who wait do not come back together.
func Between(ctx context.Context, shortest, longest time.Duration) error {
	return For(ctx, Jitter(shortest, longest))
}

// Jitter draws a time between shortest and longest.
func Jitter(shortest, longest time.Duration) time.Duration {
	return shortest + rand.N(max(longest-shortest, 1)) //nolint:gosec // jitter
}
