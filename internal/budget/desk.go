package budget

import (
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/time/rate"
)

// patience is the longest wait for a permit: whoever would wait longer is
// sent away with the time to come back.
const patience = 90 * time.Second

// desk is one worker's share of the work: who waits, which permits are in
// hand, what the register was when it was last seen, and when to claim next.
// It is a pure state machine: the Gate tells it the time and does its writes,
// and so does the simulation.
type desk struct {
	name   string
	shapes []shape
	slots  int           // calls at once
	lease  time.Duration // how long a probe may take
	rng    *rand.Rand

	queue  *queue
	out    int    // calls under way, or about to be
	hand   []hand // permits claimed and not yet handed out, by time
	trials int    // permits in hand or out that are probes after a hold
	slips  []slip // to be given back with the next claim
	hints  []hint // phantoms to be booked with the next claim

	reg *register // the last one seen; nil while it must be read before the next claim
	rev uint64
	ops []func(*register, instant) // changes that are on their way into the register: holds and their ends

	writing   bool
	lead      time.Duration // how long a write takes
	draw      float64       // which part of the fleet's spread this one waits
	waiting   bool          // denied, until alarm
	opens     instant       // since when others contend for the same slot
	alarm     instant
	alarmFor  class
	conflicts int
	writes    int64   // of the register, tried
	lost      int64   // to others
	retry     instant // after a conflict, not before
}

// hand is a block in hand.
type hand struct {
	block
	trial bool          // the probe after a hold
	ready instant       // not before: explicit jitter
	pace  *rate.Limiter // the patient classes' spacing inside the block
}

// hint is a provider's own count.
type hint struct {
	at    instant
	left  int
	reset time.Duration
}

func newDesk(name string, l Limits, slots int, lease time.Duration, rng *rand.Rand) *desk {
	return &desk{
		name: name, shapes: newShapes(l), slots: slots, lease: lease, rng: rng,
		queue: newQueue(rng), draw: rng.Float64(),
	}
}

// grant is a permit for one who waited.
type grant struct {
	*waiter
	block
	trial bool
}

// effective is the register as it will be when what is on its way has arrived.
func (d *desk) effective(now instant) *register {
	if d.reg == nil || len(d.ops) == 0 {
		return d.reg
	}
	r := d.reg.clone()
	for _, op := range d.ops {
		op(r, now)
	}
	return r
}

// free reports whether permits need no claim: no limits, and no throttle.
func (d *desk) free(r *register) bool { return len(d.shapes) == 0 && r != nil && r.strikes == 0 }

// serve hands out what can start now, and says when to look again.
func (d *desk) serve(now instant, u time.Duration) (grants []grant, wake instant) {
	d.expire(now, u)
	r := d.effective(now)
	for d.queue.total() > 0 && d.out < d.slots {
		var g grant
		if d.free(r) {
			g.block = block{from: now, until: now.add(unpaced), epoch: r.epoch}
		} else {
			i, at := d.usable(now, u)
			if i < 0 {
				return grants, at
			}
			g.block, g.trial = d.hand[i].block, d.hand[i].trial
			g.n = 1
			if d.hand[i].n--; d.hand[i].n == 0 {
				d.hand = slices.Delete(d.hand, i, i+1)
			}
		}
		g.waiter = d.queue.take(func(shard int) bool { return d.modest(shard, now) })
		d.out++
		grants = append(grants, g)
	}
	return grants, 0
}

// usable finds a permit in hand that may start now, or when one may.
func (d *desk) usable(now instant, u time.Duration) (i int, at instant) {
	for i := range d.hand {
		h := &d.hand[i]
		ready := max(h.ready, h.from.add(u))
		if ready <= now && h.pace != nil {
			if r := h.pace.ReserveN(now.time(), 1); r.DelayFrom(now.time()) > 0 {
				ready = now.add(r.DelayFrom(now.time()))
				r.CancelAt(now.time())
			}
		}
		if ready <= now {
			return i, 0
		}
		if at == 0 || ready < at {
			at = ready
		}
	}
	return -1, at
}

// expire turns what can no longer start into slips.
func (d *desk) expire(now instant, u time.Duration) {
	d.hand = slices.DeleteFunc(d.hand, func(h hand) bool {
		if h.until.add(-u) > now {
			return false
		}
		d.giveBack(h.block, h.trial)
		return true
	})
}

// giveBack keeps permits that were certainly not used for the next claim, and
// lets another have the probe at once.
func (d *desk) giveBack(b block, trial bool) {
	if len(d.shapes) > 0 && b.n > 0 {
		d.slips = append(d.slips, slip{at: b.from, n: b.n, epoch: b.epoch})
	}
	if trial {
		d.trials--
		d.ops = append(d.ops, func(r *register, _ instant) { r.release(d.name) })
	}
}

// void gives every permit in hand back: a hold came, the limits changed, or
// the clock is not to be trusted.
func (d *desk) void() {
	for _, h := range d.hand {
		d.giveBack(h.block, h.trial)
	}
	d.hand = d.hand[:0]
}

func (d *desk) inHand() (n int) {
	for i := range d.hand {
		n += d.hand[i].n
	}
	return n
}

func (d *desk) modest(shard int, now instant) bool {
	return len(d.shapes) == 0 || d.reg == nil || d.reg.modest(d.shapes, shard, now)
}

// learn takes a newer register.
func (d *desk) learn(r *register, rev uint64) {
	if d.reg != nil && rev <= d.rev {
		return
	}
	if d.reg != nil && r.epoch != d.reg.epoch {
		d.void()
		d.slips = d.slips[:0]
	}
	if d.reg == nil || r.hold > d.reg.hold {
		d.obey(r)
	}
	d.reg, d.rev = r, rev
}

// obey drops permits that a hold forbids.
func (d *desk) obey(r *register) {
	if slices.ContainsFunc(d.hand, func(h hand) bool { return h.from < r.hold }) {
		d.void()
	}
}

// forget makes the desk read the register again before it claims.
func (d *desk) forget() { d.reg, d.rev = nil, 0 }

// post puts a change on its way into the register. It holds here at once.
func (d *desk) post(now instant, op func(*register, instant)) {
	d.ops = append(d.ops, op)
	if r := d.effective(now); r != nil {
		d.obey(r)
	}
}

// hint keeps a provider's own count for the next claim, if it is lower than
// ours: somebody else calls with our key.
func (d *desk) hint(h hint, now instant) {
	if d.reg == nil || len(d.shapes) == 0 {
		return
	}
	if before := d.reg.clone(); before.phantoms(d.shapes, h, now) > 0 {
		d.hints = append(d.hints[:0], h) // the latest knows best
	}
}

// write is a replacement of the register.
type write struct {
	reg    *register
	before *register
	rev    uint64 // of before
	blocks []block
	trial  bool
	ops    int
	slips  int
	hints  int
}

// plan decides whether to write now, and if not, when to look again (zero:
// when something changes).
func (d *desk) plan(now instant) (*write, instant) {
	if d.writing || d.reg == nil {
		return nil, 0
	}
	o, ok := d.order(now)
	d.waiting = d.waiting && ok
	if !ok && len(d.ops) == 0 {
		return nil, 0
	}
	if now < d.retry {
		return nil, d.retry
	}
	base := d.reg.clone()
	for _, op := range d.ops {
		op(base, now)
	}
	w := &write{reg: base, before: d.reg, rev: d.rev, ops: len(d.ops), slips: len(d.slips), hints: len(d.hints)}
	if base.giveBack(d.slips, d.shapes); len(d.shapes) > 0 {
		for _, h := range d.hints {
			base.phantoms(d.shapes, h, now)
		}
	}
	var wake instant
	if ok {
		var next instant
		w.trial = base.strikes > 0
		w.reg, w.blocks, next = base.claim(d.shapes, now, o)
		if len(w.blocks) == 0 {
			wake = d.denied(o.class, next, now)
		} else if wake = d.early(o.class, w.blocks[0], now); wake > 0 {
			w.reg, w.blocks = base, nil
		}
	}
	if len(w.blocks) == 0 && w.ops == 0 {
		return nil, wake
	}
	if len(w.blocks) > 0 {
		w.reg.spread = d.respread(w.reg, o.class, now)
	}
	d.writing = true
	d.writes++
	return w, wake
}

// order says what to claim: for the highest class with work that no permit in
// hand covers, no more than can be under way.
func (d *desk) order(now instant) (order, bool) {
	spare := d.slots - d.out
	held := d.inHand()
	if d.queue.total() <= held || spare <= held || d.free(d.effective(now)) {
		return order{}, false
	}
	n, lightOf, heavyOf := d.queue.demand(func(shard int) bool { return d.modest(shard, now) })
	o := order{want: min(d.queue.total(), spare) - held, owner: d.name, lease: d.lease, lead: d.lead, probing: d.trials > 0}
	for c := range classes {
		if n[c] <= held {
			held -= n[c]
			continue
		}
		if c != light && d.inHand() > d.slots/4 {
			return order{}, false // a write for many instead of one for each
		}
		o.class = c
		o.want = min(o.want, n[c]-held)
		switch c {
		case light:
			o.shards = lightOf[held:]
		case heavy:
			o.shards = heavyOf[held:]
		case replay, batch, classes:
		}
		return o, true
	}
	return order{}, false
}

// won books a write that was stored.
func (d *desk) won(w *write, rev uint64, now instant) {
	d.writing = false
	d.conflicts, d.waiting = 0, false
	d.draw = d.rng.Float64()
	d.ops = slices.Delete(d.ops, 0, w.ops)
	d.handedIn(w)
	// Another's newer register may have been seen first; it has our claim in it.
	d.learn(w.reg, rev)
	for _, b := range w.blocks {
		if r := d.effective(now); r == nil || r.epoch != b.epoch || r.hold > b.from {
			continue // void: a hold came while we wrote
		}
		d.hand = append(d.hand, d.inHandBlock(b, w.trial))
		if w.trial {
			d.trials++
		}
	}
	slices.SortStableFunc(d.hand, func(a, b hand) int { return int(a.from - b.from) })
}

// inHandBlock adds what spaces the permits of a block: up to 10 % of the
// spacing as jitter, never early, and for the patient classes one after the
// other instead of all at once.
func (d *desk) inHandBlock(b block, trial bool) hand {
	h := hand{block: b, trial: trial}
	if b.class == light || len(d.shapes) == 0 {
		return h
	}
	tick, gap := d.shapes[0].tick, d.shapes[0].gap
	for _, s := range d.shapes[1:] {
		tick, gap = min(tick, s.tick), max(gap, s.gap)
	}
	spacing := min(gap, tick)
	if b.class >= replay && b.n > 1 {
		// No wider than the limit itself asks for: a block is no larger than
		// what this worker can call at once, and there may be many in a tick.
		spacing = min(gap, tick*9/10/time.Duration(b.n))
		h.pace = rate.NewLimiter(rate.Every(spacing), 1)
	}
	h.ready = b.from.add(time.Duration(d.rng.Float64() * float64(spacing) / 10))
	return h
}

// conflict backs off from a write that lost against another's.
func (d *desk) conflict(now instant) {
	d.writing = false
	d.draw = d.rng.Float64()
	most := 2 * time.Millisecond << min(d.conflicts, 9)
	d.conflicts++
	d.lost++
	d.retry = now.add(time.Duration(d.rng.Float64() * float64(most)))
}

// unknown is a write that may or may not have been stored. It is never
// redone: what it claimed counts as used, what it gave back as given back (a
// second time would free permits of others), and the register is read again.
func (d *desk) unknown(w *write, now instant) {
	d.conflict(now)
	d.handedIn(w)
	d.forget()
}

// handedIn forgets what a write took with it. A register of another epoch may
// have made some of it void meanwhile.
func (d *desk) handedIn(w *write) {
	d.slips = slices.Delete(d.slips, 0, min(w.slips, len(d.slips)))
	d.hints = slices.Delete(d.hints, 0, min(w.hints, len(d.hints)))
}

// prospect is the register as the next claim will find it, and nil if it is
// not known.
func (d *desk) prospect(now instant) *register {
	r := d.effective(now)
	if r == nil || len(d.slips) == 0 {
		return r
	}
	r = r.clone()
	r.giveBack(d.slips, d.shapes)
	return r
}

// soonest is when a class can have its next permit, and zero if the register
// is not known.
func (d *desk) soonest(c class, now instant) instant {
	r := d.prospect(now)
	if r == nil {
		return 0
	}
	if len(d.shapes) == 0 {
		return max(r.hold, now)
	}
	return r.next(d.shapes, c, now)
}

// class is what a waiting request would be claimed as.
func (d *desk) class(w *waiter, now instant) class {
	switch w.Lane {
	case Replay:
		return replay
	case Batch:
		return batch
	case Interactive, lanes:
	}
	if d.queue.light(w.Shard, func(shard int) bool { return d.modest(shard, now) }) {
		return light
	}
	return heavy
}

// limit changes the limits. Permits claimed under the old ones go back.
func (d *desk) limit(l Limits) {
	shapes := newShapes(l)
	if slices.Equal(shapes, d.shapes) {
		return
	}
	d.void()
	d.shapes = shapes
}
