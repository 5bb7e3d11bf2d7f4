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
	trial   bool             // the claim is for a trial
	ops     int              // how many of what is on its way it takes with it
	refunds int
	told    int
}

// Plan decides whether to write now, and if not, when to look again (zero:
// when something changes).
func (p *Planner) Plan(now ledger.Instant) (*Write, ledger.Instant) {
	if p.writing || p.reg == nil {
		return nil, 0
	}
	o, ok := p.order(now)
	p.waiting = p.waiting && ok
	if !ok && len(p.ops) == 0 {
		return nil, 0
	}
	if now < p.retry {
		return nil, p.retry
	}
	base := p.reg.Clone()
	for _, op := range p.ops {
		op(base, now)
	}
	w := &Write{Reg: base, Before: p.reg, Rev: p.rev, ops: len(p.ops), refunds: len(p.refunds), told: len(p.told)}
	if base.GiveBack(p.refunds, p.shapes); len(p.shapes) > 0 {
		for _, h := range p.told {
			base.Foreign(p.shapes, h, now)
		}
	}
	var wake ledger.Instant
	if ok {
		var next ledger.Instant
		w.trial = base.Strikes > 0
		w.Reg, w.Blocks, next = base.Claim(p.shapes, now, o)
		if len(w.Blocks) == 0 {
			wake = p.denied(o.Class, next, now)
		} else if wake = p.early(o.Class, w.Blocks[0], now); wake > 0 {
			w.Reg, w.Blocks = base, nil
		}
	}
	if len(w.Blocks) == 0 && w.ops == 0 {
		return nil, wake
	}
	if len(w.Blocks) > 0 {
		w.Reg.Spread = p.respread(w.Reg, o.Class, now)
	}
	p.writing = true
	p.writes++
	return w, wake
}

// order says what to claim: for the highest class with work that no permit in
// hand covers, no more than can be under way.
func (p *Planner) order(now ledger.Instant) (ledger.Order, bool) {
	spare := p.slots - p.out
	held := p.InHand()
	if p.queue.total() <= held || spare <= held || p.unlimited(p.Effective(now)) {
		return ledger.Order{}, false
	}
	n, lightOf, heavyOf := p.queue.demand(func(shard int) bool { return p.modest(shard, now) })
	o := ledger.Order{Want: min(p.queue.total(), spare) - held, Owner: p.name, TrialTime: p.trialTime, Took: p.took, Patience: Patience, Trying: p.trials > 0}
	for c := range ledger.Classes {
		if n[c] <= held {
			held -= n[c]
			continue
		}
		if c != ledger.Light && p.InHand() > p.slots/4 {
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

// Won books a write that was stored.
func (p *Planner) Won(w *Write, rev uint64, now ledger.Instant) {
	p.writing = false
	p.conflicts, p.waiting = 0, false
	p.share = p.rng.Float64()
	p.ops = slices.Delete(p.ops, 0, w.ops)
	p.handedIn(w)
	// Another's newer register may have been seen first; it has our claim in it.
	p.Learn(w.Reg, rev)
	for _, b := range w.Blocks {
		if r := p.Effective(now); r == nil || r.Epoch != b.Epoch || r.Hold > b.From {
			continue // void: a hold came while we wrote
		}
		p.held = append(p.held, p.inHandBlock(b, w.trial))
		if w.trial {
			p.trials++
		}
	}
	slices.SortStableFunc(p.held, func(a, b held) int { return int(a.From - b.From) })
}

// inHandBlock adds what spaces the permits of a block: up to 10 % of the
// spacing as jitter, never early, and for the patient classes one after the
// other instead of all at once.
func (p *Planner) inHandBlock(b ledger.Block, trial bool) held {
	h := held{Block: b, trial: trial}
	if b.Class == ledger.Light || len(p.shapes) == 0 {
		return h
	}
	tick, gap := p.shapes[0].Tick, p.shapes[0].Gap
	for _, s := range p.shapes[1:] {
		tick, gap = min(tick, s.Tick), max(gap, s.Gap)
	}
	spacing := min(gap, tick)
	if b.Class >= ledger.Replay && b.N > 1 {
		// No wider than the limit itself asks for: a block is no larger than
		// what this worker can call at once, and there may be many in a tick.
		spacing = min(gap, tick*9/10/time.Duration(b.N))
		h.pace = rate.NewLimiter(rate.Every(spacing), 1)
	}
	h.ready = b.From.Add(time.Duration(p.rng.Float64() * float64(spacing) / 10))
	return h
}

// Stored notes how long a write took.
func (p *Planner) Stored(took time.Duration) {
	p.took = (7*p.took + min(took, 100*time.Millisecond)) / 8
}

// Writing reports whether a write is on its way: whoever is told of another's
// may see ours in it before its answer comes.
func (p *Planner) Writing() bool { return p.writing }

// Traffic is how many writes were tried, and how many of them were not, or
// perhaps not, stored.
func (p *Planner) Traffic() (writes, failed int64) { return p.writes, p.failed }

// Conflict backs off from a write that lost against another's.
func (p *Planner) Conflict(now ledger.Instant) {
	p.writing = false
	p.share = p.rng.Float64()
	most := 2 * time.Millisecond << min(p.conflicts, 9)
	p.conflicts++
	p.failed++
	p.retry = now.Add(time.Duration(p.rng.Float64() * float64(most)))
}

// Unknown is a write that may or may not have been stored. It is never
// redone: what it claimed counts as used, what it gave back as given back (a
// second time would free permits of others), and the register is read again.
func (p *Planner) Unknown(w *Write, now ledger.Instant) {
	p.Conflict(now)
	p.handedIn(w)
	p.Forget()
}

// handedIn forgets what a write took with it. A register of another epoch may
// have made some of it void meanwhile.
func (p *Planner) handedIn(w *Write) {
	p.refunds = slices.Delete(p.refunds, 0, min(w.refunds, len(p.refunds)))
	p.told = slices.Delete(p.told, 0, min(w.told, len(p.told)))
}
