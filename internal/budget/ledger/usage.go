package ledger

import (
	"slices"
	"time"
)

// Limits are those that the fleet last claimed under. Windows that are no
// limit any more stay in the register for a while.
func (r *Register) Limits() (limits Limits) {
	var newest Instant
	for _, w := range r.windows {
		newest = max(newest, w.seen)
	}
	for _, w := range r.windows {
		if newest.Sub(w.seen) <= time.Minute && w.group == "" {
			limits = append(limits, Window{N: w.n, Per: w.per})
		}
	}
	return limits
}

// Groups are the limits of groups of operations that the fleet last claimed
// under.
func (r *Register) Groups() (shapes []Shape) {
	var newest Instant
	for _, w := range r.windows {
		newest = max(newest, w.seen)
	}
	for _, w := range r.windows {
		if newest.Sub(w.seen) <= time.Minute && w.group != "" {
			shapes = append(shapes, GroupShapes(Limits{{N: w.n, Per: w.per}}, w.group)...)
		}
	}
	return shapes
}

// UsageOfGroups is how full the windows of a provider's groups are. In a quota's
// register those of others are left out.
func (r *Register) UsageOfGroups(provider string, now Instant) (usage []Usage) {
	shapes := slices.DeleteFunc(r.Groups(), func(s Shape) bool { return scope(s.Group) != "" && scope(s.Group) != provider })
	for _, u := range r.Usage(shapes, now) {
		u.Group = Unscoped(u.Group)
		usage = append(usage, u)
	}
	return usage
}

// Usage is one limit of a provider, as the fleet last claimed under it.
type Usage struct {
	Window
	Group      string // of operations; empty: it is the provider's
	Left       int    // permits that could be had now
	LastMinute int    // permits of the last minute
}

// Usage is how full each window is: the provider's, then those of its groups.
func (r *Register) Usage(shapes []Shape, now Instant) (usage []Usage) {
	groups := []string{""}
	for _, s := range shapes {
		if !slices.Contains(groups, s.Group) {
			groups = append(groups, s.Group)
		}
	}
	for _, group := range groups {
		usage = append(usage, r.usageOf(shapes, group, now)...)
	}
	return usage
}

func (r *Register) usageOf(shapes []Shape, group string, now Instant) (usage []Usage) {
	for _, v := range r.Clone().views(shapes, group, now, 0) {
		if tick := v.at(now); v.mine && v.Group == group {
			usage = append(usage, Usage{
				Window: v.Window, Group: group,
				Left:       v.left(tick),
				LastMinute: v.sum(v.at(now.Add(-time.Minute))+1, tick),
			})
		}
	}
	return usage
}
