package budget

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// shards is how many parts the agents of a provider are divided into.
const shards = 16

// lease is the right to make the one call that probes, until a time.
type lease struct {
	owner string
	until instant
}

// register is what the fleet shares about a provider's permits: one value,
// replaced only by compare-and-set.
type register struct {
	epoch   int64           // drawn when it was created: permits of another epoch are void
	hold    instant         // nothing starts before
	strikes int             // 429s in a row; while there are any, only the lease's holder calls
	lease   lease           // of the probe after a hold
	windows []window        // by length
	spread  time.Duration   // over which claimers that contend spread; whole milliseconds
	busy    [shards]instant // leaky counters, as the time when each has run dry; whole milliseconds
}

// newRegister is the register of a provider that nobody has ever called.
func newRegister() *register { return &register{epoch: newEpoch()} }

// lostRegister stands in for one that is gone although the provider has been
// called: every window counts as full, at the furthest a claim may have been.
func lostRegister(shapes []shape, now instant) *register {
	r := newRegister()
	end := now.add(light.horizon())
	for _, s := range shapes {
		w := window{per: s.Per, n: s.N, seen: now, base: s.at(now) - s.k + 1, tat: end.add(s.span)}
		w.add(s.at(end), s.N)
		r.windows = append(r.windows, w)
	}
	r.sort()
	return r
}

func (r *register) sort() {
	slices.SortFunc(r.windows, func(a, b window) int { return int(a.per - b.per) })
}

func (r *register) clone() *register {
	c := *r
	c.windows = slices.Clone(r.windows)
	for i := range c.windows {
		w := &c.windows[i]
		// Room for what a claim adds, so that adding does not copy again.
		w.counts = append(make([]int, 0, len(w.counts)+16), w.counts...)
	}
	return &c
}

// views prepares the windows for a claim: the claimer's own, those that only
// others have (permits are recorded there too, for limits may differ during a
// roll-out), and new ones.
func (r *register) views(shapes []shape, now instant) []view {
	// A window that nobody has had as a limit for its whole length counts no more.
	r.windows = slices.DeleteFunc(r.windows, func(w window) bool {
		return !slices.ContainsFunc(shapes, func(s shape) bool { return s.Per == w.per }) &&
			now.sub(w.seen) > newShape(Window{N: w.n, Per: w.per}).span
	})
	known := len(r.windows)
	for _, s := range shapes {
		if !slices.ContainsFunc(r.windows, func(w window) bool { return w.per == s.Per }) {
			r.windows = append(r.windows, r.seed(r.windows[:known], s, now))
		}
	}
	r.sort()
	views := make([]view, len(r.windows))
	for i := range r.windows {
		w := &r.windows[i]
		v := view{window: w}
		if j := slices.IndexFunc(shapes, func(s shape) bool { return s.Per == w.per }); j >= 0 {
			v.shape, v.mine = shapes[j], true
			w.n, w.seen = v.N, now-now%instant(time.Second)
		} else {
			v.shape = newShape(Window{N: w.n, Per: w.per})
		}
		w.prune(v.shape, now)
		v.index()
		views[i] = v
	}
	return views
}

// seed starts the window of a limit that is new. It knows what the others
// remember of the past, and starts when no permit of before can still be on
// its way; what is older than their memory it cannot know.
func (r *register) seed(known []window, s shape, now instant) window {
	w := window{per: s.Per, n: s.N, base: s.at(now) - s.k + 1, tat: now}
	if len(known) == 0 {
		return w
	}
	from := known[len(known)-1]
	for _, k := range slices.Backward(known) {
		if k.per >= s.Per {
			from = k
		}
	}
	old := newShape(Window{N: from.n, Per: from.per})
	for i, n := range from.counts {
		if n == 0 {
			continue
		}
		end := old.end(from.base + int64(i)).add(old.grace)
		w.add(s.at(end), n)
		w.tat = max(w.tat, end)
	}
	if base := s.at(w.tat) - s.k + 1; base > w.base {
		w.counts = w.counts[min(base-w.base, int64(len(w.counts))):]
		w.base = base
	}
	return w
}

// book records n permits at a moment in every window. Everybody pushes the
// pacer, all but light obey it.
func (r *register) book(views []view, at instant, n int, now instant) {
	for i := range views {
		v := &views[i]
		v.add(v.at(at), n)
		v.tat = max(v.tat, now.add(-slack)).add(time.Duration(n) * v.gap)
		v.index()
	}
}

// quota is how many permits a shard may have lately, and how long until one
// of them is forgotten, by the slowest of the limits.
func quota(shapes []shape) (span, each time.Duration) {
	var slow shape
	for _, s := range shapes {
		if s.gap > slow.gap {
			slow = s
		}
	}
	m := max(3, slow.N/8)
	return slow.Per, slow.Per / time.Duration(m)
}

// modest reports whether a shard has had few permits lately, fleet-wide: only
// then is its single request light. Without this an agent that asks one by
// one would always be, and starve the others.
func (r *register) modest(shapes []shape, shard int, now instant) bool {
	span, each := quota(shapes)
	return r.busy[shard%shards].sub(now) <= span-each
}

// charge counts n permits for the first n shards, and returns the others.
func (r *register) charge(shapes []shape, of []int, n int, now instant) []int {
	span, each := quota(shapes)
	for i, t := range r.busy {
		if t <= now {
			r.busy[i] = 0
		}
	}
	n = min(n, len(of))
	for _, shard := range of[:n] {
		full := now.add(span) // never beyond: an agent is light again soon after its backlog
		t := min(max(r.busy[shard%shards], now).add(each), full)
		r.busy[shard%shards] = t - t%instant(time.Millisecond)
	}
	return of[n:]
}

// slip is permits that were certainly not used, on their way back.
type slip struct {
	at    instant // in the tick they were claimed for
	n     int
	epoch int64
}

// giveBack takes slips of this register back.
func (r *register) giveBack(slips []slip, shapes []shape) {
	for _, slip := range slips {
		if slip.epoch != r.epoch {
			continue
		}
		for i := range r.windows {
			w := &r.windows[i]
			s := shapeOf(shapes, w)
			n := w.take(s.at(slip.at), slip.n)
			w.tat = w.tat.add(-time.Duration(n) * s.gap)
		}
	}
}

// shapeOf is the claimer's own shape of a window, or what the register says.
func shapeOf(shapes []shape, w *window) shape {
	for _, s := range shapes {
		if s.Per == w.per {
			return s
		}
	}
	return newShape(Window{N: w.n, Per: w.per})
}

// phantoms books what a provider counts that we do not: it said that only
// h.left calls remain of the window that resets in h.reset (the shortest, if
// it did not say). This can only slow the fleet down.
func (r *register) phantoms(shapes []shape, h hint, now instant) (booked int) {
	for i := range r.windows {
		w := &r.windows[i]
		if w.per < h.reset && i < len(r.windows)-1 {
			continue
		}
		v := view{window: w, shape: shapeOf(shapes, w)}
		v.index()
		n := max(v.free(v.at(h.at))-h.left, 0)
		w.add(v.at(h.at), n)
		w.tat = max(w.tat, now.add(-slack)).add(time.Duration(n) * v.gap)
		return n
	}
	return 0
}

// The waits after 429s without a Retry-After, and the most a Retry-After is
// believed: a header is no reason to stop for a month.
const (
	firstHold = time.Second
	mostHold  = 15 * time.Minute
	mostAfter = 24 * time.Hour
)

// throttled books a 429. The first, and the one of the probe that owner has
// the lease of, is a strike and doubles the wait; calls that were on their way
// when the hold came are not.
func (r *register) throttled(now instant, owner string, after, least time.Duration, jitter float64) {
	wait := min(after, mostAfter)
	if r.strikes == 0 || (owner != "" && r.lease.owner == owner) {
		r.strikes++
		r.lease = lease{}
		if wait <= 0 {
			wait = mostHold
			if r.strikes <= 10 {
				wait = min(time.Duration(float64(firstHold<<(r.strikes-1))*(0.8+0.4*jitter)), mostHold)
			}
		}
	}
	if wait = max(wait, least); wait > 0 {
		r.hold = max(r.hold, now.add(wait))
	}
}

// settled ends a throttle: its probe was answered.
func (r *register) settled() { r.strikes, r.lease = 0, lease{} }

// release gives the lease of a probe that learnt nothing to the next.
func (r *register) release(owner string) {
	if r.lease.owner == owner {
		r.lease = lease{}
	}
}

// origin is just before the first of the counters that run. Those at the
// origin itself are dry.
func (r *register) origin() instant {
	var origin instant
	for _, t := range r.busy {
		if t > 0 && (origin == 0 || t <= origin) {
			origin = t - instant(time.Millisecond)
		}
	}
	return origin
}

const codecVersion = 1

// encode writes the register: varints, some 300 bytes a window.
func (r *register) encode() []byte {
	b := make([]byte, 0, 512)
	put := func(n int64) { b = binary.AppendVarint(b, n) }
	b = append(b, codecVersion)
	put(r.epoch)
	put(int64(r.hold))
	put(int64(r.strikes))
	put(int64(len(r.lease.owner)))
	b = append(b, r.lease.owner...)
	put(int64(r.lease.until))
	put(int64(r.spread / time.Millisecond))
	origin := r.origin() // the counters lie close together: write what they differ by
	put(int64(origin) / int64(time.Millisecond))
	for _, t := range r.busy {
		put(int64(max(t-origin, 0)) / int64(time.Millisecond))
	}
	put(int64(len(r.windows)))
	for _, w := range r.windows {
		put(int64(w.per))
		put(int64(w.n))
		put(int64(w.seen) / int64(time.Second))
		put(w.base)
		put(int64(w.tat))
		put(int64(len(w.counts)))
		for _, n := range w.counts {
			put(int64(n))
		}
	}
	return b
}

var errRegister = errors.New("not a permits register")

// decodeRegister reads what encode wrote.
func decodeRegister(b []byte) (*register, error) {
	if len(b) == 0 || b[0] != codecVersion {
		return nil, fmt.Errorf("%w: unknown version", errRegister)
	}
	d := decoder{b: b[1:]}
	r := &register{
		epoch:   d.int(),
		hold:    instant(d.int()),
		strikes: d.count(),
	}
	r.lease.owner = d.string()
	r.lease.until = instant(d.int())
	r.spread = time.Duration(d.count()) * time.Millisecond
	origin := instant(d.int()) * instant(time.Millisecond)
	for i := range r.busy {
		if after := d.count(); after > 0 {
			r.busy[i] = origin + instant(after)*instant(time.Millisecond)
		}
	}
	for range d.len() {
		w := window{
			per:  time.Duration(d.int()),
			n:    d.count(),
			seen: instant(d.int()) * instant(time.Second),
			base: d.int(),
			tat:  instant(d.int()),
		}
		if w.per < time.Second || w.n < 1 {
			d.failed = true
		}
		w.counts = make([]int, d.len())
		for i := range w.counts {
			w.counts[i] = d.count()
		}
		r.windows = append(r.windows, w)
	}
	if d.failed || len(d.b) > 0 {
		return nil, fmt.Errorf("%w: cut short or garbled", errRegister)
	}
	return r, nil
}

// decoder reads varints and remembers that one could not be read.
type decoder struct {
	b      []byte
	failed bool
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.failed, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads what is never negative, and never large.
func (d *decoder) count() int {
	n := d.int()
	if n < 0 || n > 1<<40 {
		d.failed = true
		return 0
	}
	return int(n)
}

// len reads how many items follow; there cannot be more than bytes left.
func (d *decoder) len() int {
	n := d.count()
	if n > len(d.b) {
		d.failed = true
		return 0
	}
	return n
}

func (d *decoder) string() string {
	n := d.len()
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}
