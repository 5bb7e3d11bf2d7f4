package budget

import (
	"math/rand/v2"
	"slices"
	"time"

	"fetchworker/internal/budget/ledger"

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
	shapes []ledger.Shape
	slots  int           // calls at once
	lease  time.Duration // how long a probe may take
	rng    *rand.Rand

	queue  *queue
	out    int             // calls under way, or about to be
	hand   []hand          // permits claimed and not yet handed out, by time
	trials int             // permits in hand or out that are probes after a hold
	slips  []ledger.Refund // to be given back with the next claim
	hints  []ledger.Told   // phantoms to be booked with the next claim

	reg *ledger.Register // the last one seen; nil while it must be read before the next claim
	rev uint64
	ops []func(*ledger.Register, ledger.Instant) // changes that are on their way into the register: holds and their ends

	writing   bool
	took      time.Duration  // how long a write takes
	draw      float64        // which part of the fleet's spread this one waits
	waiting   bool           // denied, until alarm
	opens     ledger.Instant // since when others contend for the same slot
	alarm     ledger.Instant
	alarmFor  ledger.Class
	conflicts int
	writes    int64          // of the register, tried
	lost      int64          // to others
	retry     ledger.Instant // after a conflict, not before
}

// hand is a block in hand.
type hand struct {
	ledger.Block
	trial bool           // the probe after a hold
	ready ledger.Instant // not before: explicit jitter
	pace  *rate.Limiter  // the patient classes' spacing inside the block
}

func newDesk(name string, l ledger.Limits, slots int, lease time.Duration, rng *rand.Rand) *desk {
	return &desk{
		name: name, shapes: ledger.NewShapes(l), slots: slots, lease: lease, rng: rng,
		queue: newQueue(rng), draw: rng.Float64(),
	}
}

// grant is a permit for one who waited.
type grant struct {
	*waiter
	ledger.Block
	trial bool
}

// effective is the register as it will be when what is on its way has arrived.
func (d *desk) effective(now ledger.Instant) *ledger.Register {
	if d.reg == nil || len(d.ops) == 0 {
		return d.reg
	}
	r := d.reg.Clone()
	for _, op := range d.ops {
		op(r, now)
	}
	return r
}

// free reports whether permits need no claim: no limits, and no throttle.
func (d *desk) free(r *ledger.Register) bool { return len(d.shapes) == 0 && r != nil && r.Strikes == 0 }

// serve hands out what can start now, and says when to look again.
func (d *desk) serve(now ledger.Instant, u time.Duration) (grants []grant, wake ledger.Instant) {
	d.expire(now, u)
	r := d.effective(now)
	for d.queue.total() > 0 && d.out < d.slots {
		var g grant
		if d.free(r) {
			g.Block = ledger.Block{From: now, Until: now.Add(ledger.Unpaced), Epoch: r.Epoch}
		} else {
			i, at := d.usable(now, u)
			if i < 0 {
				return grants, at
			}
			g.Block, g.trial = d.hand[i].Block, d.hand[i].trial
			g.N = 1
			if d.hand[i].N--; d.hand[i].N == 0 {
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
func (d *desk) usable(now ledger.Instant, u time.Duration) (i int, at ledger.Instant) {
	for i := range d.hand {
		h := &d.hand[i]
		ready := max(h.ready, h.From.Add(u))
		if ready <= now && h.pace != nil {
			if r := h.pace.ReserveN(now.Time(), 1); r.DelayFrom(now.Time()) > 0 {
				ready = now.Add(r.DelayFrom(now.Time()))
				r.CancelAt(now.Time())
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
func (d *desk) expire(now ledger.Instant, u time.Duration) {
	d.hand = slices.DeleteFunc(d.hand, func(h hand) bool {
		if h.Until.Add(-u) > now {
			return false
		}
		d.giveBack(h.Block, h.trial)
		return true
	})
}

// giveBack keeps permits that were certainly not used for the next claim, and
// lets another have the probe at once.
func (d *desk) giveBack(b ledger.Block, trial bool) {
	if len(d.shapes) > 0 && b.N > 0 {
		d.slips = append(d.slips, ledger.Refund{At: b.From, N: b.N, Epoch: b.Epoch})
	}
	if trial {
		d.trials--
		d.ops = append(d.ops, func(r *ledger.Register, _ ledger.Instant) { r.Release(d.name) })
	}
}

// void gives every permit in hand back: a hold came, the limits changed, or
// the clock is not to be trusted.
func (d *desk) void() {
	for _, h := range d.hand {
		d.giveBack(h.Block, h.trial)
	}
	d.hand = d.hand[:0]
}

func (d *desk) inHand() (n int) {
	for i := range d.hand {
		n += d.hand[i].N
	}
	return n
}

func (d *desk) modest(shard int, now ledger.Instant) bool {
	return len(d.shapes) == 0 || d.reg == nil || d.reg.Modest(d.shapes, shard, now)
}

// learn takes a newer register.
func (d *desk) learn(r *ledger.Register, rev uint64) {
	if d.reg != nil && rev <= d.rev {
		return
	}
	if d.reg != nil && r.Epoch != d.reg.Epoch {
		d.void()
		d.slips = d.slips[:0]
	}
	if d.reg == nil || r.Hold > d.reg.Hold {
		d.obey(r)
	}
	d.reg, d.rev = r, rev
}

// obey drops permits that a hold forbids.
func (d *desk) obey(r *ledger.Register) {
	if slices.ContainsFunc(d.hand, func(h hand) bool { return h.From < r.Hold }) {
		d.void()
	}
}

// forget makes the desk read the register again before it claims.
func (d *desk) forget() { d.reg, d.rev = nil, 0 }

// post puts a change on its way into the register. It holds here at once.
func (d *desk) post(now ledger.Instant, op func(*ledger.Register, ledger.Instant)) {
	d.ops = append(d.ops, op)
	if r := d.effective(now); r != nil {
		d.obey(r)
	}
}

// hint keeps a provider's own count for the next claim, if it is lower than
// ours: somebody else calls with our key.
func (d *desk) hint(h ledger.Told, now ledger.Instant) {
	if d.reg == nil || len(d.shapes) == 0 {
		return
	}
	if before := d.reg.Clone(); before.Foreign(d.shapes, h, now) > 0 {
		d.hints = append(d.hints[:0], h) // the latest knows best
	}
}

// write is a replacement of the register.
type write struct {
	reg    *ledger.Register
	before *ledger.Register
	rev    uint64 // of before
	blocks []ledger.Block
	trial  bool
	ops    int
	slips  int
	hints  int
}

// plan decides whether to write now, and if not, when to look again (zero:
// when something changes).
func (d *desk) plan(now ledger.Instant) (*write, ledger.Instant) {
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
	base := d.reg.Clone()
	for _, op := range d.ops {
		op(base, now)
	}
	w := &write{reg: base, before: d.reg, rev: d.rev, ops: len(d.ops), slips: len(d.slips), hints: len(d.hints)}
	if base.GiveBack(d.slips, d.shapes); len(d.shapes) > 0 {
		for _, h := range d.hints {
			base.Foreign(d.shapes, h, now)
		}
	}
	var wake ledger.Instant
	if ok {
		var next ledger.Instant
		w.trial = base.Strikes > 0
		w.reg, w.blocks, next = base.Claim(d.shapes, now, o)
		if len(w.blocks) == 0 {
			wake = d.denied(o.Class, next, now)
		} else if wake = d.early(o.Class, w.blocks[0], now); wake > 0 {
			w.reg, w.blocks = base, nil
		}
	}
	if len(w.blocks) == 0 && w.ops == 0 {
		return nil, wake
	}
	if len(w.blocks) > 0 {
		w.reg.Spread = d.respread(w.reg, o.Class, now)
	}
	d.writing = true
	d.writes++
	return w, wake
}

// order says what to claim: for the highest class with work that no permit in
// hand covers, no more than can be under way.
func (d *desk) order(now ledger.Instant) (ledger.Order, bool) {
	spare := d.slots - d.out
	held := d.inHand()
	if d.queue.total() <= held || spare <= held || d.free(d.effective(now)) {
		return ledger.Order{}, false
	}
	n, lightOf, heavyOf := d.queue.demand(func(shard int) bool { return d.modest(shard, now) })
	o := ledger.Order{Want: min(d.queue.total(), spare) - held, Owner: d.name, TrialTime: d.lease, Took: d.took, Patience: patience, Trying: d.trials > 0}
	for c := range ledger.Classes {
		if n[c] <= held {
			held -= n[c]
			continue
		}
		if c != ledger.Light && d.inHand() > d.slots/4 {
			return ledger.Order{}, false // a write for many instead of one for each
		}
		o.Class = c
		o.Want = min(o.Want, n[c]-held)
		switch c {
		case ledger.Light:
			o.Shards = lightOf[held:]
		case ledger.Heavy:
			o.Shards = heavyOf[held:]
		case ledger.Replay, ledger.Batch, ledger.Classes:
		}
		return o, true
	}
	return ledger.Order{}, false
}

// won books a write that was stored.
func (d *desk) won(w *write, rev uint64, now ledger.Instant) {
	d.writing = false
	d.conflicts, d.waiting = 0, false
	d.draw = d.rng.Float64()
	d.ops = slices.Delete(d.ops, 0, w.ops)
	d.handedIn(w)
	// Another's newer register may have been seen first; it has our claim in it.
	d.learn(w.reg, rev)
	for _, b := range w.blocks {
		if r := d.effective(now); r == nil || r.Epoch != b.Epoch || r.Hold > b.From {
			continue // void: a hold came while we wrote
		}
		d.hand = append(d.hand, d.inHandBlock(b, w.trial))
		if w.trial {
			d.trials++
		}
	}
	slices.SortStableFunc(d.hand, func(a, b hand) int { return int(a.From - b.From) })
}

// inHandBlock adds what spaces the permits of a block: up to 10 % of the
// spacing as jitter, never early, and for the patient classes one after the
// other instead of all at once.
func (d *desk) inHandBlock(b ledger.Block, trial bool) hand {
	h := hand{Block: b, trial: trial}
	if b.Class == ledger.Light || len(d.shapes) == 0 {
		return h
	}
	tick, gap := d.shapes[0].Tick, d.shapes[0].Gap
	for _, s := range d.shapes[1:] {
		tick, gap = min(tick, s.Tick), max(gap, s.Gap)
	}
	spacing := min(gap, tick)
	if b.Class >= ledger.Replay && b.N > 1 {
		// No wider than the limit itself asks for: a block is no larger than
		// what this worker can call at once, and there may be many in a tick.
		spacing = min(gap, tick*9/10/time.Duration(b.N))
		h.pace = rate.NewLimiter(rate.Every(spacing), 1)
	}
	h.ready = b.From.Add(time.Duration(d.rng.Float64() * float64(spacing) / 10))
	return h
}

// conflict backs off from a write that lost against another's.
func (d *desk) conflict(now ledger.Instant) {
	d.writing = false
	d.draw = d.rng.Float64()
	most := 2 * time.Millisecond << min(d.conflicts, 9)
	d.conflicts++
	d.lost++
	d.retry = now.Add(time.Duration(d.rng.Float64() * float64(most)))
}

// unknown is a write that may or may not have been stored. It is never
// redone: what it claimed counts as used, what it gave back as given back (a
// second time would free permits of others), and the register is read again.
func (d *desk) unknown(w *write, now ledger.Instant) {
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
func (d *desk) prospect(now ledger.Instant) *ledger.Register {
	r := d.effective(now)
	if r == nil || len(d.slips) == 0 {
		return r
	}
	r = r.Clone()
	r.GiveBack(d.slips, d.shapes)
	return r
}

// soonest is when a class can have its next permit, and zero if the register
// is not known.
func (d *desk) soonest(c ledger.Class, now ledger.Instant) ledger.Instant {
	r := d.prospect(now)
	if r == nil {
		return 0
	}
	if len(d.shapes) == 0 {
		return max(r.Hold, now)
	}
	return r.Next(d.shapes, ledger.Order{Class: c, Patience: patience}, now)
}

// class is what a waiting request would be claimed as.
func (d *desk) class(w *waiter, now ledger.Instant) ledger.Class {
	switch w.Lane {
	case Replay:
		return ledger.Replay
	case Batch:
		return ledger.Batch
	case Interactive, lanes:
	}
	if d.queue.light(w.Shard, func(shard int) bool { return d.modest(shard, now) }) {
		return ledger.Light
	}
	return ledger.Heavy
}

// limit changes the limits. Permits claimed under the old ones go back.
func (d *desk) limit(l ledger.Limits) {
	shapes := ledger.NewShapes(l)
	if slices.Equal(shapes, d.shapes) {
		return
	}
	d.void()
	d.shapes = shapes
}
