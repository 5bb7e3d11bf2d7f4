package ledger

import "time"

// Limits are those that the fleet last claimed under. Windows that are no
// limit any more stay in the register for a while.
func (r *Register) Limits() (limits Limits) {
	var newest Instant
	for _, w := range r.windows {
		newest = max(newest, w.seen)
	}
	for _, w := range r.windows {
		if newest.Sub(w.seen) <= time.Minute {
			limits = append(limits, Window{N: w.n, Per: w.per})
		}
	}
	return limits
}

// Usage is one limit of a provider, as the fleet last claimed under it.
type Usage struct {
	Window
	Left       int // permits that could be had now
	LastMinute int // permits of the last minute
}

// Usage is how full each window is.
func (r *Register) Usage(shapes []Shape, now Instant) (usage []Usage) {
	for _, v := range r.Clone().views(shapes, now, 0) {
		if tick := v.at(now); v.mine {
			usage = append(usage, Usage{
				Window:     v.Window,
				Left:       v.left(tick),
				LastMinute: v.sum(v.at(now.Add(-time.Minute))+1, tick),
			})
		}
	}
	return usage
}
