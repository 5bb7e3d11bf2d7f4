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

// ToOpen is how long the nth try may take to open what a server answers at once:
// little as long as an election may have swallowed the answer, so that the next
// is soon behind its end; then enough for a server that is slow.
func ToOpen(try int) time.Duration {
	const elections, little, enough = 12, time.Second, 5 * time.Second
	if try < elections {
		return little
	}
	return enough
}
