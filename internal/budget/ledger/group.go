package ledger

import "time"

// A call may count as several: of cost n it takes n units of every window that
// it counts in, all in the tick of its one permit, so that no window is passed
// by a part of it.
//
// Under a backlog the window gives its units back one by one, and whoever
// needs one only is there first. So who needs n may claim further ahead, by as
// long as the pacer takes for the others: what it claims there is not free for
// those who come before it.
const mostDearer = 30 * time.Second

// Dearer is how much further ahead a group's calls of a cost may be claimed.
func Dearer(shapes []Shape, group string, cost int) time.Duration {
	var gap time.Duration
	for _, s := range shapes {
		if s.Group == "" || s.Group == group {
			gap = max(gap, s.Gap)
		}
	}
	if cost < 2 || gap > mostDearer {
		return 0 // nobody waits so long: it goes when as many are free
	}
	return min(time.Duration(cost-1)*gap, mostDearer)
}

// furthest is how far ahead of now a claim may be.
func furthest(dearer time.Duration) time.Duration { return Light.horizon() + dearer }

// dearAgain is when to look again whether a call fits that costs more than a
// window holds: an operator has lowered a limit, and may raise it.
const dearAgain = 15 * time.Minute

// tooDear reports whether a call costs more than a window ever has.
func tooDear(views []view, o Order) bool {
	for i := range views {
		if views[i].mine && views[i].N < o.units() {
			return true
		}
	}
	return false
}

// Room is how many units a group's own windows have free now, and the pacer
// lets through in a time: whoever waits for more waits longer than that. ok is
// false for a group without windows.
func (r *Register) Room(shapes []Shape, group string, now Instant, within time.Duration) (units int, gap time.Duration, ok bool) {
	for _, v := range r.Clone().views(shapes, group, now, 0) {
		if !v.mine || v.Group != group || group == "" {
			continue
		}
		n := v.left(v.at(now)) + int(within/v.Gap)
		if !ok || n < units {
			units = n
		}
		gap, ok = max(gap, v.Gap), true
	}
	return units, gap, ok
}
