package fetch

import (
	"context"
	"sync"
	"time"

	"fetchworker/internal/wait"
)

// Under a scarce quota no two workers make the same call at once: whoever is
// about to make one says so under the call's key in the fleet's cache, and who
// finds that another is at it gives its permit back and waits for the body.
// Where permits are plenty that would cost a round trip more than it saves, but
// for a request that another may have in hand, too: see restarts.
const (
	// scarceBelow this many calls a second a permit is worth more than a round
	// trip.
	scarceBelow = 50
	// claimLooks is how often one who waits looks whether the body has come.
	claimLooks = 100 * time.Millisecond
)

// alone reports whether this worker may make a request's call, as the only one
// of the fleet, and whether another's has ended just before. over ends the
// claim; where there is none it does nothing.
func (w *Worker) alone(ctx context.Context, r *request, disputed bool) (alone, after bool, over func()) {
	if !disputed && r.served.Gate.Pace() >= scarceBelow {
		return true, false, func() {}
	}
	key := r.call.Key
	claim, err := w.cache.Claim(ctx, key, r.served.Provider.Timeout)
	if err != nil {
		// A cache holds nobody up, but for what two would call for at once.
		return !disputed || w.restarts.longAgo(), false, func() {}
	}
	if !claim.Mine {
		return false, false, func() {}
	}
	return true, claim.After, sync.OnceFunc(func() { w.cache.Over(key, claim) })
}

// awaitOther waits while another worker makes a request's call, and answers
// the request if its body has come.
func (w *Worker) awaitOther(ctx context.Context, r *request) (done bool, err error) {
	waiting := r.over
	for {
		if err := wait.For(waiting, claimLooks); err != nil {
			return true, w.without(ctx, r, err)
		}
		held, err := w.cache.Claimed(waiting, r.call.Key)
		if err == nil && held {
			continue
		}
		// Looked for after the claim was over, the body is there if it came.
		done, _, err = w.lateLook(ctx, r, nil)
		return done, err
	}
}
