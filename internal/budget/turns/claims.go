package turns

import (
	"slices"
	"time"

	"golang.org/x/time/rate"

	"fetchworker/internal/budget/ledger"
)

// Write is a replacement of the register.
type Write struct {
	Reg     *ledger.Register // what to store
	Before  *ledger.Register // what it replaces
	Rev     uint64           // of Before
	Blocks  []ledger.Block   // what it claims
	lines   []*line          // whose they are
	trial   bool             // the claim is for a trial
	ops     int              // how many of what is on its way it takes with it
	refunds int
	told    int
	calls   int
	gaveUp  int
	Foreign int // how many calls of others it books
}

// Plan decides whether to write now, and if not, when to look again (zero:
// when something changes).
func (p *Planner) Plan(now ledger.Instant) (*Write, ledger.Instant) {
	if p.writing || p.reg == nil {
		return nil, 0
	}
	if !p.possible(now) {
		p.Lost(p.rev, now)
	}
	p.remember(now)
	orders := p.orders(now)
	tidy, wake := p.tidy(now)
	if len(orders) == 0 && !tidy {
		return nil, wake
	}
	if now < p.retry {
		return nil, p.retry
	}
	w := p.write(now)
	spare := p.spare(now)
	for _, o := range orders {
		if spare <= 0 || w.trial && len(w.Blocks) > 0 {
			break // after a hold there is one trial, whoever's
		}
		o.Want = min(o.Want, spare)
		before := len(w.Blocks)
		wake = earliest(wake, p.claim(w, o, now))
		for _, b := range w.Blocks[before:] {
			spare -= b.N
		}
	}
	if len(w.Blocks) == 0 && !tidy {
		return nil, wake
	}
	if len(w.Blocks) > 0 {
		w.Reg.Spread = p.respread(w.Reg, w.lines[0], w.Blocks[0].Class, now)
	}
	p.begin(w)
	return w, wake
}

// possible reports whether the register can be what a fleet wrote. One that
// could be can be later on, too.
func (p *Planner) possible(now ledger.Instant) bool {
	if p.sane > 0 && now >= p.sane {
		return true
	}
	if !p.reg.Possible(now) {
		return false
	}
	p.sane = now
	return true
}

// Last is what a worker that stops has still to say: holds, permits it did not
// use, calls it made. It is nil if there is nothing, or nothing is known.
func (p *Planner) Last(now ledger.Instant) *Write {
	p.Void()
	if p.writing || p.reg == nil || len(p.ops)+len(p.refunds)+len(p.calls) == 0 && p.reg.Wanted(p.name) == 0 {
		return nil
	}
	w := p.write(now)
	p.begin(w)
	return w
}

func (p *Planner) begin(w *Write) {
	p.writing = true
	p.writes++
	p.seats.doubt = p.seats.cap
	if n, _ := w.Reg.Seats(p.name); p.seats.known > 0 && (p.seats.cap < 0 || n < p.seats.cap) {
		p.seats.cap = n // as soon as it is stored, and nobody knows when that is
	}
}

// write is the register with all in it that is on its way.
func (p *Planner) write(now ledger.Instant) *Write {
	w := &Write{
		Reg: p.reg.Clone(), Before: p.reg, Rev: p.rev,
		ops: len(p.ops), refunds: len(p.refunds), told: len(p.told), calls: len(p.calls), gaveUp: p.seats.gaveUp,
	}
	for _, op := range p.ops {
		op(w.Reg, now)
	}
	for _, c := range p.calls {
		w.Reg.Record(p.shapes, c.group, c.at, c.n, now)
	}
	w.Reg.GiveBack(p.refunds, p.shapes)
	if len(p.shapes) > 0 {
		w.Reg.Touch(p.shapes, now)
		for _, t := range p.told {
			w.Foreign += w.Reg.Foreign(p.shapes, t, now)
		}
	}
	if p.seats.most > 0 || p.reg.Wanted(p.name) > 0 || p.mostAtOnce(now) > 0 {
		w.Reg.Sit(p.seatOrder(now), now)
	}
	return w
}

// claim adds a claim to a write, or says when to try again.
func (p *Planner) claim(w *Write, o order, now ledger.Instant) (wake ledger.Instant) {
	if l := o.line; l.waiting && l.alarmFor == o.Class && now < l.opens && l.denied == p.known() {
		return l.alarm // it would find the same slot
	}
	w.trial = w.Reg.Strikes > 0
	reg, blocks, next := w.Reg.Claim(p.shapes, now, o.Order)
	if len(blocks) == 0 {
		return p.denied(o.line, o.Class, next, now)
	}
	if wake = p.early(o.line, o.Class, blocks[0], now); wake == 0 {
		w.Reg, w.Blocks, w.lines = reg, append(w.Blocks, blocks...), append(w.lines, o.line)
	}
	return wake
}

// order is a claim for one line.
type order struct {
	ledger.Order
	line *line
}

// spare is how many more permits can be used at once.
func (p *Planner) spare(now ledger.Instant) int {
	return p.guests.room(p.out, p.places(now), now) - p.InHand()
}

// orders says what to claim, the most urgent first: for each line as much as
// can be under way in all, since nobody knows yet which of them gets any.
func (p *Planner) orders(now ledger.Instant) (orders []order) {
	r, spare := p.Effective(now), p.spare(now)
	for i := range p.lines {
		l := p.lines[(p.turn+i)%len(p.lines)]
		o, ok := p.order(l, r, spare+l.inHand(), now)
		_, far := p.tooFar(l)
		ok = ok && !far
		if l.waiting = l.waiting && ok; ok {
			orders = append(orders, order{o, l})
		}
	}
	if len(orders) > 1 {
		slices.SortStableFunc(orders, func(a, b order) int { return int(a.Class - b.Class) })
	}
	return orders
}

// order says what to claim for a line: for the highest class with work that no
// permit in hand covers, no more than can be under way.
func (p *Planner) order(l *line, r *ledger.Register, spare int, now ledger.Instant) (ledger.Order, bool) {
	held := l.inHand()
	if l.queue.total() <= held || spare <= held || p.unlimited(l, r, now) {
		return ledger.Order{}, false
	}
	n, lightOf, heavyOf := l.queue.demand(func(shard int) bool { return p.modest(shard, now) })
	o := p.sample(l, ledger.Light)
	o.Want, o.Owner, o.TrialTime, o.Trying = min(l.queue.total(), spare)-held, p.name, p.trialTime, p.trials > 0
	for c := range ledger.Classes {
		if n[c] <= held {
			held -= n[c]
			continue
		}
		if c != ledger.Light && l.inHand() > p.slots/4 {
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

// sample is an order of a class, as far as it decides when a permit is to be had.
func (p *Planner) sample(l *line, c ledger.Class) ledger.Order {
	return ledger.Order{Class: c, Group: l.group, Cost: l.cost, Dearer: l.dearer, Took: p.took, Patience: Patience, Unsure: p.unsure}
}

// Won books a write that was stored.
func (p *Planner) Won(w *Write, rev uint64, now ledger.Instant) {
	p.writing = false
	p.conflicts = 0
	if len(w.lines) == 0 {
		w.lines = p.lines
	}
	for _, l := range w.lines {
		l.waiting, l.share = false, p.rng.Float64()
	}
	p.ops = slices.Delete(p.ops, 0, w.ops)
	p.seats.cap, p.seats.gaveUp = -1, max(p.seats.gaveUp-w.gaveUp, 0)
	p.handedIn(w)
	// Another's newer register may have been seen first; it has our claim in it.
	p.Learn(w.Reg, rev)
	for _, b := range w.Blocks {
		if w.trial {
			p.trials++
		}
		if r := p.Effective(now); r == nil || r.Epoch != b.Epoch || r.Hold > b.From {
			p.giveBack(b, w.trial) // void: a hold came while we wrote
			continue
		}
		l := p.lineFor(b.Group, b.Cost)
		l.held = append(l.held, p.inHandBlock(l, b, w.trial))
		slices.SortStableFunc(l.held, func(a, b held) int { return int(a.From - b.From) })
	}
}

// mostSpacing is the longest between permits of a block: in a window of a day a
// tick takes minutes, and nobody waits so long for what is in hand already.
const mostSpacing = time.Second

// inHandBlock adds what spaces the permits of a block: up to 10 % of the
// spacing as jitter, never early, and for the patient classes one after the
// other instead of all at once.
func (p *Planner) inHandBlock(l *line, b ledger.Block, trial bool) held {
	h := held{Block: b, trial: trial}
	if b.Class == ledger.Light || len(l.shapes) == 0 {
		return h
	}
	tick, gap := l.shapes[0].Tick, l.shapes[0].Gap
	for _, s := range l.shapes[1:] {
		tick, gap = min(tick, s.Tick), max(gap, s.Gap)
	}
	// Windows of others may leave a permit less time than ours.
	tick = min(tick, b.Until.Sub(b.From))
	spacing := min(gap, tick, mostSpacing)
	if b.Class >= ledger.Replay && b.N > 1 {
		// No wider than the limit itself asks for: a block is no larger than
		// what this worker can call at once, and there may be many in a tick.
		spacing = min(gap, tick*9/10/time.Duration(b.N), mostSpacing)
		h.pace = rate.NewLimiter(rate.Every(spacing), 1)
	}
	h.ready = b.From.Add(time.Duration(p.rng.Float64() * float64(spacing) / 10))
	return h
}

// Stored notes how long a write took.
func (p *Planner) Stored(took time.Duration) {
	p.took = (7*p.took + min(took, time.Second)) / 8
}

// Writing reports whether a write is on its way: whoever is told of another's
// may see ours in it before its answer comes.
func (p *Planner) Writing() bool { return p.writing }

// Traffic is how many writes were tried, how many of them were not, or perhaps
// not, stored, and how many permits lapsed in hand or on their way to a call.
func (p *Planner) Traffic() (writes, failed, lapsed int64) { return p.writes, p.failed, p.lapsed }

// Conflict backs off from a write that lost against another's.
func (p *Planner) Conflict(now ledger.Instant) {
	p.writing = false
	for _, l := range p.lines {
		l.share, l.denied = p.rng.Float64(), known{}
	}
	most := 2 * time.Millisecond << min(p.conflicts, 9)
	p.conflicts++
	p.failed++
	p.seats.cap = p.seats.doubt
	p.undoubt()
	p.retry = now.Add(time.Duration(p.rng.Float64() * float64(most)))
}

// Unknown is a write that may or may not have been stored. It is never
// redone: what it claimed counts as used, what it gave back as given back (a
// second time would free permits of others), and the register is read again.
func (p *Planner) Unknown(w *Write, now ledger.Instant) {
	most := p.seats.cap
	p.Conflict(now)
	p.seats.cap, p.seats.since = most, w.Rev // it may be stored, or still become so
	p.handedIn(w)
	p.Forget()
}

// GiveUp is a write that was planned and never sent.
func (p *Planner) GiveUp() {
	p.writing = false
	p.writes--
	p.seats.cap = p.seats.doubt
}

// handedIn forgets what a write took with it. A register of another epoch may
// have made some of it void meanwhile.
func (p *Planner) handedIn(w *Write) {
	p.refunds = slices.Delete(p.refunds, 0, min(w.refunds, len(p.refunds)))
	p.told = slices.Delete(p.told, 0, min(w.told, len(p.told)))
	p.calls = slices.Delete(p.calls, 0, min(w.calls, len(p.calls)))
	p.due = due{limits: p.due.limits}
}
