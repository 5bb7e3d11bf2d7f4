package budget

import (
	"context"

	"fetchworker/internal/budget/store"
)

// follows looks at what the fleet shares, for the first time and from then on,
// and then lets through whom that allows.
func (g *Gate) follows(f *store.Follower) {
	unfollow := g.mirror.Follow(f)
	g.mu.Lock()
	shut := g.shut
	if !shut {
		g.unfollow = unfollow
		close(g.begun)
	}
	g.mu.Unlock()
	if shut {
		unfollow() // not under the lock: the mirror tells us things under its own
	}
}

// waitBegun waits until the gate lets anybody through.
func (g *Gate) waitBegun(ctx context.Context) error {
	select {
	case <-g.begun:
		return nil
	default:
	}
	select {
	case <-g.begun:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-g.running.Done():
		return ErrShut
	}
}
