package ledger

import (
	"cmp"
	"slices"
	"time"
)

// Shards is how many parts the agents of a provider are divided into.
const Shards = 16

// trial is the right to make the one call that follows a hold, until a time.
type trial struct {
	owner string
	until Instant
}

// Register is what the fleet shares about a provider's permits: one value,
// replaced only by compare-and-set.
type Register struct {
	Epoch   int64           // drawn when it was created: permits of another epoch are void
	Hold    Instant         // nothing starts before
	Strikes int             // 429s in a row; while there are any, only whoever has the trial calls
	trial   trial           // the one call after a hold
	windows []window        // by length
	Spread  time.Duration   // over which claimers that contend spread; whole milliseconds
	busy    [Shards]Instant // leaky counters, as the time when each has run dry; whole milliseconds
	lost    Instant         // all that was claimed up to this moment is not known; 0: nothing was lost
	foreign Foreign         // what the provider counted beyond us, for people to see
	members []Member        // the providers that share it, by name; none: it is one provider's own

	atOnce     int     // calls that may be under way at once; 0: any number
	atOnceSeen Instant // when somebody whose limit this is last wrote, whole seconds
	seats      []seat  // who has how many of them
}

// Foreign is calls that a provider counted and we did not: somebody else calls
// with our key.
type Foreign struct {
	N     int
	Until Instant // when the provider counts anew, as far as it said
}

// New is the register of a provider that nobody has ever called.
func New(epoch int64) *Register { return &Register{Epoch: epoch} }

// Lost stands in for one that is gone although the provider has been called.
// It remembers when: any window that reaches back beyond that moment counts as
// full, whoever has it as a limit and whenever that is told.
// Calls that count as several claim further ahead, by dearer.
func Lost(epoch int64, shapes []Shape, dearer time.Duration, now Instant) *Register {
	r := New(epoch)
	r.lost = now.Add(furthest(dearer)) // the furthest a claim may have been
	r.Touch(shapes, now)
	return r
}

// How far ahead of now anything in a register can be.
const (
	mostAhead = time.Minute                // of what was claimed or seen; clocks that are not quite right
	mostHeld  = longest + time.Hour        // of a hold: as long as the longest window
	mostTried = longest/128 + 24*time.Hour // of a trial: until the end of its tick, a call, and then some
	mostSat   = 2 * time.Hour              // of a seat: as long as the longest call, and then some
)

// Possible reports whether the register can be what a fleet wrote by the
// server's time. A clock that was ahead leaves claims that nobody can make, in
// ticks that are not to come for long: such a register is lost.
func (r *Register) Possible(now Instant) bool {
	if r.Hold > now.Add(mostHeld) || r.trial.until > now.Add(mostTried) || r.lost > now.Add(mostAhead) {
		return false
	}
	if r.atOnceSeen > now.Add(mostAhead) || slices.ContainsFunc(r.seats, func(s seat) bool { return s.since > now.Add(mostAhead) || s.until > now.Add(mostSat) }) {
		return false
	}
	// A window that is new has what another remembered at the end of that one's
	// ticks, which may be minutes to come; that one may have it from a third.
	ahead := now.Add(mostAhead)
	for _, w := range r.windows {
		ahead = max(ahead, now.Add(mostAhead+2*newShape(Window{N: w.n, Per: w.per}).Tick))
	}
	return !slices.ContainsFunc(r.windows, func(w window) bool {
		s := newShape(Window{N: w.n, Per: w.per}).stretched(w.grace)
		// The last tick counts, too: in a base of long ago there may be claims
		// that are far ahead.
		return max(w.seen, w.graceAt) > now.Add(mostAhead) || max(s.start(w.base), s.start(w.last())) > ahead
	})
}

func (r *Register) sort() {
	slices.SortFunc(r.windows, func(a, b window) int { return cmp.Or(cmp.Compare(a.per, b.per), cmp.Compare(a.group, b.group)) })
}

// Clone is a copy that shares nothing with r.
func (r *Register) Clone() *Register {
	c := *r
	c.windows = slices.Clone(r.windows)
	c.seats = slices.Clone(r.seats)
	for i := range c.windows {
		w := &c.windows[i]
		// Room for what a claim adds, so that adding does not copy again.
		w.counts = append(make([]int, 0, len(w.counts)+16), w.counts...)
	}
	return &c
}

// views prepares the windows for a claim of a group's: the claimer's own, those
// that only others have (permits are recorded there too, for limits may differ
// during a roll-out), and new ones.
// A claimer who knows the time to within unsure only needs longer validities
// where that is much.
func (r *Register) views(shapes []Shape, group string, now Instant, unsure time.Duration) []view {
	r.windows = slices.DeleteFunc(r.windows, func(w window) bool {
		return !slices.ContainsFunc(shapes, func(s Shape) bool { return s.of(&w) }) && w.forgotten(now, len(shapes) > 0)
	})
	r.foreign = r.ForeignCalls(now)
	known := len(r.windows)
	for _, s := range shapes {
		if !slices.ContainsFunc(r.windows, func(w window) bool { return s.of(&w) }) {
			r.windows = append(r.windows, r.seed(r.windows[:known], s.stretched(s.needs(unsure)), now))
		}
	}
	r.sort()
	views := make([]view, 0, len(r.windows))
	for i := range r.windows {
		w := &r.windows[i]
		v := view{window: w}
		j := slices.IndexFunc(shapes, func(s Shape) bool { return s.of(w) })
		if j >= 0 {
			w.n, w.seen = shapes[j].N, now-now%Instant(time.Second)
		}
		if !w.concerns(group, shapes) {
			if j >= 0 {
				w.prune(shapes[j].stretched(w.grace), now)
			}
			continue
		}
		if j >= 0 {
			v.Shape, v.mine = shapes[j], true
		} else {
			v.Shape = newShape(Window{N: w.n, Per: w.per})
		}
		v.Shape = v.stretched(max(w.stretch(v.Shape, now), v.needs(unsure)))
		if r.lost > 0 {
			v.full = v.at(r.lost) + v.k
		}
		w.prune(v.Shape, now)
		v.index()
		views = append(views, v)
	}
	return views
}

// concerns reports whether the calls of a group count in the window: it is the
// provider's, or the group's, or one of a group that the claimer knows nothing
// of, so that any call may be one of its.
func (w *window) concerns(group string, shapes []Shape) bool {
	return w.group == "" || w.group == group ||
		!elsewhere(w.group, group) && !slices.ContainsFunc(shapes, func(s Shape) bool { return s.Group == w.group })
}

// forgotten reports whether nobody has had a window as a limit for so long that
// it need not be kept. One in which nothing is left is kept by those without
// limits: whoever has it may have been idle, and says so again when it sees
// their calls in it (see Stale).
func (w *window) forgotten(now Instant, limited bool) bool {
	s := newShape(Window{N: w.n, Per: w.per})
	return now.Sub(w.seen) > s.span+kept && (limited || w.last() > s.at(now)-s.k)
}

// kept is how much longer than its length a window is kept.
const kept = time.Minute

// Stale reports whether a limit of the claimer's is not in the register, or
// will be forgotten before long. Whoever has a limit sees to it that calls are
// counted for it, also before it makes one itself.
func (r *Register) Stale(shapes []Shape, now Instant) bool {
	return slices.ContainsFunc(shapes, func(s Shape) bool {
		i := slices.IndexFunc(r.windows, func(w window) bool { return s.of(&w) })
		return i < 0 || now.Sub(r.windows[i].seen) > s.span/2+kept/2
	})
}

// Touch says that the limits are somebody's.
func (r *Register) Touch(shapes []Shape, now Instant) { r.views(shapes, "", now, 0) }

// Counts reports whether a group's calls without a limit must be recorded:
// somebody has limits.
func (r *Register) Counts(shapes []Shape, group string) bool {
	for i := range r.windows {
		if r.windows[i].concerns(group, shapes) {
			return true
		}
	}
	return false
}

// Record counts n units of somebody who has no limit for a group's calls, for
// those who have one.
func (r *Register) Record(shapes []Shape, group string, at Instant, n int, now Instant) {
	r.book(r.views(shapes, group, now, 0), at, n, now, 0)
}

// seed starts the window of a limit that is new. It knows what the others
// remember of the past, and starts when no permit of before can still be on
// its way; what is older than their memory it cannot know.
func (r *Register) seed(known []window, s Shape, now Instant) window {
	w := window{per: s.Per, group: s.Group, n: s.N, base: s.at(now) - s.k + 1, tat: now}
	known = slices.DeleteFunc(slices.Clone(known), func(k window) bool { return k.group != "" && k.group != s.Group })
	if len(known) == 0 {
		return w
	}
	from := known[len(known)-1]
	for _, k := range slices.Backward(known) {
		if k.per >= s.Per {
			from = k
		}
	}
	old := newShape(Window{N: from.n, Per: from.per}).stretched(from.grace)
	for i, n := range from.counts {
		if n == 0 {
			continue
		}
		end := old.end(from.base + int64(i)).Add(old.grace)
		w.add(s.at(end), n)
		w.tat = max(w.tat, end)
	}
	if base := s.at(w.tat) - s.k + 1; base > w.base {
		w.counts = w.counts[min(base-w.base, int64(len(w.counts))):]
		w.base = base
	}
	return w
}

// book records n units at a moment in every window. Everybody pushes the
// pacer, all but light obey it.
func (r *Register) book(views []view, at Instant, n int, now Instant, unsure time.Duration) {
	for i := range views {
		v := &views[i]
		v.add(v.at(at), n)
		if newShape(v.Window).needs(unsure) > 0 {
			v.window.grace, v.graceAt = v.Shape.grace, now-now%Instant(time.Second)
		}
		v.tat = max(v.tat, now.Add(-slack)).Add(time.Duration(n) * v.Gap)
		v.index()
	}
}

// quota is how many permits a shard may have lately, and how long until one
// of them is forgotten, by the slowest of the provider's limits, or of its
// groups' where it has none.
func quota(shapes []Shape) (span, each time.Duration) {
	var slow Shape
	for _, s := range shapes {
		if all := s.Group == ""; all && slow.Group != "" || s.Gap > slow.Gap && (all || slow.Group != "" || slow.N == 0) {
			slow = s
		}
	}
	m := max(3, slow.N/8)
	return slow.Per, slow.Per / time.Duration(m)
}

// Modest reports whether a shard has had few permits lately, fleet-wide: only
// then is its single request light. Without this an agent that asks one by
// one would always be, and starve the others.
func (r *Register) Modest(shapes []Shape, shard int, now Instant) bool {
	span, each := quota(shapes)
	return r.busy[shard%Shards].Sub(now) <= span-each
}

// charge counts n calls for the first n shards, and returns the others.
func (r *Register) charge(shapes []Shape, of []int, n, units int, now Instant) []int {
	span, each := quota(shapes)
	each *= time.Duration(units)
	for i, t := range r.busy {
		if t <= now {
			r.busy[i] = 0
		}
	}
	n = min(n, len(of))
	for _, shard := range of[:n] {
		full := now.Add(span) // never beyond: an agent is light again soon after its backlog
		t := min(max(r.busy[shard%Shards], now).Add(each), full)
		r.busy[shard%Shards] = t - t%Instant(time.Millisecond)
	}
	return of[n:]
}

// Refund is permits that were certainly not used, on their way back.
type Refund struct {
	At    Instant // in the tick they were claimed for
	N     int     // units
	Epoch int64
	Group string // that they were claimed for
}

// GiveBack takes refunds of this register back. Where they were recorded only
// in case, they stay: that slows, and nothing else.
func (r *Register) GiveBack(refunds []Refund, shapes []Shape) {
	for _, refund := range refunds {
		if refund.Epoch != r.Epoch {
			continue
		}
		for i := range r.windows {
			w := &r.windows[i]
			if w.group != "" && w.group != refund.Group {
				continue
			}
			s := shapeOf(shapes, w)
			n := w.take(s.at(refund.At), refund.N)
			w.tat = w.tat.Add(-time.Duration(n) * s.Gap)
		}
	}
}

// shapeOf is the claimer's own shape of a window, or what the register says.
func shapeOf(shapes []Shape, w *window) Shape {
	for _, s := range shapes {
		if s.of(w) {
			return s
		}
	}
	return newShape(Window{N: w.n, Per: w.per})
}
