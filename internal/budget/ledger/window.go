package ledger

import (
	"slices"
	"time"
)

// slack is how far back of now the pacer may lag: what was not used in the
// last second may be used at once.
const slack = time.Second

// keep is how long a window remembers ticks beyond those that count, so that
// a clock that is set back does not meet a hole.
const keep = 2 * time.Second

// window is one limit's ledger: how many permits each tick holds.
type window struct {
	per    time.Duration
	group  string  // of operations whose calls alone it counts; empty: all
	n      int     // the limit of whoever claimed last; for display and for claimers without limits
	seen   Instant // when somebody whose limit this is last claimed, whole seconds
	base   int64   // counts[0] is this tick; what lies before is forgotten
	tat    Instant // the pacer: when the next permit is due. At or before now, fewer than N are out
	counts []int   // permits of each tick

	// Claimers far from the server stretch the window for everybody.
	grace   time.Duration // at least this one counts, whole milliseconds; 0: the shape's own
	graceAt Instant       // when somebody last claimed who needs it, whole seconds
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

// take gives back up to n permits of a tick.
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

// stretch is the grace that a window has for those who claimed not long ago.
// Nobody needs a longer one any more once all permits that were claimed with
// it are out of the window.
func (w *window) stretch(s Shape, now Instant) time.Duration {
	if w.grace > 0 && now.Sub(w.graceAt) > s.stretched(w.grace).span+keep+furthest(mostDearer) {
		w.grace, w.graceAt = 0, 0
	}
	return w.grace
}

// prune forgets ticks that no longer count at now, and trims empty ends.
func (w *window) prune(s Shape, now Instant) {
	oldest := s.at(now.Add(-keep)) - s.k + 1
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
	Shape
	mine   bool  // the claimer has this limit; others' are only recorded
	full   int64 // before this tick nothing is free, whatever the counts say: they were lost
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
	if tick < v.full {
		return 0
	}
	first := tick - v.k + 1
	// Windows that start later than this hold no more than those before them.
	end := max(first, min(tick, v.last()-v.k+1))
	most := 0
	for from := first; from <= end; from++ {
		most = max(most, v.upto(from+v.k)-v.upto(from))
	}
	return v.N - most
}

// left is free, and nothing before the window begins.
func (v *view) left(tick int64) int {
	if tick < v.base+v.k-1 {
		return 0
	}
	return max(v.free(tick), 0)
}

// allow is how many units a claimer may take of a tick. All but light obey
// the pacer as soon as only the reserve is free, so a backlog never empties
// the ledger.
func (v *view) allow(o Order, tick int64, now Instant) int {
	free := v.free(tick)
	if o.Class == Light || free <= 0 {
		return free
	}
	ahead := v.end(tick).Sub(max(v.tat, now.Add(-slack)))
	paced := 0
	if ahead > 0 {
		paced = int((ahead + v.Gap - 1) / v.Gap)
	}
	return min(free, max(free-o.leaves(v.Shape), paced))
}

// first is the earliest tick, from tick on, that allows one more call.
func (v *view) first(o Order, tick int64, now Instant) int64 {
	// A clock that was set back further than prune keeps must not claim where
	// the past is forgotten.
	tick = max(tick, v.base+v.k-1, v.full)
	for v.allow(o, tick, now) < o.units() {
		tick++
	}
	return tick
}
