package budget

import (
	"slices"
	"time"
)

// instant is a moment of the server's time, in nanoseconds since 1970. The
// ledger never reads a clock.
type instant int64

func instantOf(t time.Time) instant {
	if t.IsZero() {
		return 0
	}
	return instant(t.UnixNano())
}

func (i instant) add(d time.Duration) instant { return i + instant(d) }
func (i instant) sub(j instant) time.Duration { return time.Duration(i - j) }

// time is the zero Time for the zero instant, which means "never" everywhere.
func (i instant) time() time.Time {
	if i == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(i))
}

// class is how urgent a claim is. Those above may claim further ahead.
type class int

const (
	light  class = iota // an agent's only request, of an agent that had few lately
	heavy               // every other interactive request
	replay              // released by the replayer
	batch
	classes
)

// horizon is how far ahead a class may claim: whoever may claim further ahead
// goes first.
func (c class) horizon() time.Duration {
	return [classes]time.Duration{2 * time.Second, time.Second / 2, time.Second / 2, time.Second / 4}[c]
}

// lead is how long before its slot a class may claim the first permit.
func (c class) lead() time.Duration {
	return [classes]time.Duration{2 * time.Second, time.Second / 8, time.Second / 8, time.Second / 16}[c]
}

// reserve is how many of n permits a class leaves to those above it.
func (c class) reserve(n int) int {
	return [classes]int{0, n / 4, n / 4, n / 2}[c]
}

// shape is a window and what follows from it.
type shape struct {
	Window
	tick  time.Duration // the validity of a permit
	grace time.Duration // how much later than its tick a permit may still start
	span  time.Duration // the window as the ledger counts it: k ticks
	gap   time.Duration // the pacer's spacing: span / N
	k     int64         // no k consecutive ticks hold more than N permits
}

// newShape derives a window's ticks. A permit may start anywhere in its tick
// and grace, and its call arrives within late of that. Two calls that arrive
// within Per of each other are therefore less than (Per + late + grace)/tick
// + 1 ticks apart: they lie in k consecutive ticks.
func newShape(w Window) shape {
	s := shape{Window: w}
	s.tick = max(w.Per/256, 20*time.Millisecond)
	late := min(250*time.Millisecond, w.Per/20)
	s.grace = min(max(w.Per/200, 20*time.Millisecond), 200*time.Millisecond)
	s.k = int64((w.Per+late+s.grace+s.tick-1)/s.tick) + 1
	s.span = time.Duration(s.k) * s.tick
	s.gap = max(s.span/time.Duration(w.N), 1)
	return s
}

// newShapes are the shapes of all windows; of two as long, the stricter one.
func newShapes(l Limits) []shape {
	shapes := make([]shape, 0, len(l))
	for _, w := range l {
		if i := slices.IndexFunc(shapes, func(s shape) bool { return s.Per == w.Per }); i < 0 {
			shapes = append(shapes, newShape(w))
		} else if w.N < shapes[i].N {
			shapes[i] = newShape(w)
		}
	}
	return shapes
}

func (s shape) at(t instant) int64       { return int64(t) / int64(s.tick) }
func (s shape) start(tick int64) instant { return instant(tick * int64(s.tick)) }
func (s shape) end(tick int64) instant   { return s.start(tick + 1) }

// slack is how far back of now the pacer may lag: what was not used in the
// last second may be used at once.
const slack = time.Second

// keep is how long a window remembers ticks beyond those that count, so that
// a clock that is set back does not meet a hole.
const keep = 2 * time.Second

// window is one limit's ledger: how many permits each tick holds.
type window struct {
	per    time.Duration
	n      int     // the limit of whoever claimed last; for display and for claimers without limits
	seen   instant // when somebody whose limit this is last claimed, whole seconds
	base   int64   // counts[0] is this tick; what lies before is forgotten
	tat    instant // the pacer: when the next permit is due. At or before now, fewer than N are out
	counts []int   // permits of each tick
}

func (w *window) last() int64 { return w.base + int64(len(w.counts)) - 1 }

func (w *window) add(tick int64, n int) {
	i := tick - w.base
	if i < 0 {
		return // forgotten: it can no longer count
	}
	if grow := i + 1 - int64(len(w.counts)); grow > 0 {
		w.counts = append(w.counts, make([]int, grow)...)
	}
	w.counts[i] += n
}

// take returns up to n permits of a tick.
func (w *window) take(tick int64, n int) int {
	i := tick - w.base
	if i < 0 || i >= int64(len(w.counts)) {
		return 0
	}
	n = min(n, w.counts[i])
	w.counts[i] -= n
	return n
}

// sum counts the permits of the ticks [from, to].
func (w *window) sum(from, to int64) int {
	from, to = max(from-w.base, 0), min(to-w.base, int64(len(w.counts))-1)
	total := 0
	for i := from; i <= to; i++ {
		total += w.counts[i]
	}
	return total
}

// prune forgets ticks that no longer count at now, and trims empty ends.
func (w *window) prune(s shape, now instant) {
	oldest := s.at(now.add(-keep)) - s.k + 1
	if drop := oldest - w.base; drop > 0 {
		w.counts = w.counts[min(drop, int64(len(w.counts))):]
		w.base = oldest
	}
	for len(w.counts) > 0 && w.counts[len(w.counts)-1] == 0 {
		w.counts = w.counts[:len(w.counts)-1]
	}
}

// view is a window while a claim works on it: prefix sums make the largest
// sum around a tick cheap to look for.
type view struct {
	*window
	shape
	mine   bool // the claimer has this limit; others' are only recorded
	prefix []int
}

func (v *view) index() {
	v.prefix = slices.Grow(v.prefix[:0], len(v.counts)+1)[:len(v.counts)+1]
	v.prefix[0] = 0
	for i, c := range v.counts {
		v.prefix[i+1] = v.prefix[i] + c
	}
}

func (v *view) upto(tick int64) int { // permits before tick
	return v.prefix[min(max(tick-v.base, 0), int64(len(v.counts)))]
}

// free is how many permits a tick can still take: N less the largest sum of
// any k consecutive ticks that contain it, claims ahead of it included.
func (v *view) free(tick int64) int {
	first := tick - v.k + 1
	// Windows that start later than this hold no more than those before them.
	end := max(first, min(tick, v.last()-v.k+1))
	most := 0
	for from := first; from <= end; from++ {
		most = max(most, v.upto(from+v.k)-v.upto(from))
	}
	return v.N - most
}

// allow is how many permits a class may take of a tick. All but light obey
// the pacer as soon as only the reserve is free, so a backlog never empties
// the ledger.
func (v *view) allow(c class, tick int64, now instant) int {
	free := v.free(tick)
	if c == light || free <= 0 {
		return free
	}
	ahead := v.end(tick).sub(max(v.tat, now.add(-slack)))
	paced := 0
	if ahead > 0 {
		paced = int((ahead + v.gap - 1) / v.gap)
	}
	return min(free, max(free-c.leaves(v.shape), paced))
}

// first is the earliest tick, from tick on, that allows one more.
func (v *view) first(c class, tick int64, now instant) int64 {
	// A clock that was set back further than prune keeps must not claim where
	// the past is forgotten.
	tick = max(tick, v.base+v.k-1)
	for v.allow(c, tick, now) < 1 {
		tick++
	}
	return tick
}

// block is n permits with one validity.
type block struct {
	from, until instant
	n           int
	class       class // what it was claimed for; who gets it is decided when the slot comes
	paced       bool  // only the pacer allowed it: the provider is in demand
	epoch       int64
}

// order is what a claimer wants.
type order struct {
	class   class
	want    int
	shards  []int         // of the interactive requests it is for, in order
	owner   string        // who claims: holder of the probe's lease
	probing bool          // it has a probe under way
	lease   time.Duration // how long after the permit's end a probe's lease lives
	lead    time.Duration // how long a write takes: what ends sooner is not claimed
}

// claim books up to o.want permits and returns the register after it, what it
// booked, and the moment of the first slot for the rest (zero if there is no
// rest). The register given is not changed.
func (r *register) claim(shapes []shape, now instant, o order) (*register, []block, instant) {
	next := r.clone()
	views := next.views(shapes, now)
	at := max(now, r.hold)
	if r.strikes > 0 {
		// A hold is followed by one probe, whose lease is in the register.
		if r.lease.until > now && (r.lease.owner != o.owner || o.probing) {
			return next, nil, r.lease.until.add(o.class.horizon())
		}
		o.want = min(o.want, 1)
	}
	horizon := o.class.horizon()
	limit := now.add(horizon)
	if o.class != light {
		limit = now.add(o.class.lead()) // for the first; then it fills up to its horizon
	}
	var blocks []block
	for o.want > 0 {
		from, until, n, paced := next.slot(views, o.class, at, now, o.lead)
		if from > limit {
			return next, blocks, from
		}
		n = min(n, o.want)
		next.book(views, from, n, now)
		if o.class <= heavy {
			o.shards = next.charge(shapes, o.shards, n, now)
		}
		blocks = append(blocks, block{from: from, until: until, n: n, class: o.class, paced: paced, epoch: r.epoch})
		o.want -= n
		if r.strikes > 0 {
			next.lease = lease{owner: o.owner, until: until.add(o.lease)}
		}
		at, limit = boundary(views, from), now.add(horizon)
	}
	return next, blocks, 0
}

// unpaced is how long a permit is good for where there are no windows.
const unpaced = 10 * time.Second

// slot finds the first moment from at on that allows a permit in every window:
// when the permit starts and ends, how many there are, and whether only the
// pacer allows them.
func (r *register) slot(views []view, c class, at, now instant, lead time.Duration) (from, until instant, n int, paced bool) {
	for {
		next := at
		from, until, n, paced = r.hold, at.add(unpaced), 1<<30, false
		if len(views) > 0 {
			until = 1<<63 - 1
		}
		for i := range views {
			v := &views[i]
			tick := v.at(at)
			from = max(from, v.start(tick))
			until = min(until, v.end(tick).add(v.grace))
			if !v.mine {
				continue
			}
			if first := v.first(c, tick, now); first > tick {
				next = max(next, v.start(first))
				continue
			}
			n = min(n, v.allow(c, tick, now))
			paced = paced || v.free(tick) <= c.leaves(v.shape)
		}
		if next == at && until < now.add(lead) {
			next = boundary(views, at) // it would lapse before the claim is stored
		}
		if next == at {
			return from, until, n, paced
		}
		at = next
	}
}

// boundary is where the next tick of any window starts.
func boundary(views []view, at instant) instant {
	next := instant(1<<63 - 1)
	for i := range views {
		next = min(next, views[i].end(views[i].at(at)))
	}
	return next
}

// next is the first moment at which a class can have a permit.
func (r *register) next(shapes []shape, c class, now instant) instant {
	next := r.clone()
	from, _, _, _ := next.slot(next.views(shapes, now), c, max(now, r.hold), now, 0)
	return max(from, now)
}

// left is how many permits could be had now, of the window with fewest.
func (r *register) left(shapes []shape, now instant) int {
	next := r.clone()
	left := -1
	for _, v := range next.views(shapes, now) {
		if free := max(v.free(v.at(now)), 0); v.mine && (left < 0 || free < left) {
			left = free
		}
	}
	return left
}

// leaves is the reserve of a class in a window. Where the pacer's spacing is
// longer than anybody waits, an interactive request is not delayed by it but
// sent away for hours, so there it may have all that is free.
func (c class) leaves(s shape) int {
	if s.gap > patience && c <= replay {
		return 0
	}
	return c.reserve(s.N)
}
