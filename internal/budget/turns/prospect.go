package turns

import (
	"time"

	"fetchworker/internal/budget/ledger"
)

// Left is how many permits could be had now; -1 where there are no limits, or
// nothing is known.
func (p *Planner) Left(now ledger.Instant) int {
	r := p.Prospect(now)
	if r == nil {
		return -1
	}
	return r.Left(p.shapes, now)
}

// TooFar is the first of the provider's limits whose permits would lapse before
// they could be used, so little is the time known here.
func (p *Planner) TooFar() (ledger.Window, bool) { return p.tooFar(p.lines[0]) }

func (p *Planner) tooFar(l *line) (ledger.Window, bool) {
	for _, s := range l.shapes {
		if !s.Reachable(p.unsure) {
			return s.Window, true
		}
	}
	return ledger.Window{}, false
}

// Unsure is how wrong the time may be, as Serve was last told.
func (p *Planner) Unsure() time.Duration { return p.unsure }

// Prospect is the register as the next claim will find it, and nil if it is
// not known.
func (p *Planner) Prospect(now ledger.Instant) *ledger.Register {
	r := p.Effective(now)
	if r == nil || len(p.refunds) == 0 {
		return r
	}
	r = r.Clone()
	r.GiveBack(p.refunds, p.shapes)
	return r
}

// Soonest is when a call of a class that belongs to no group can have its next
// permit, and zero if the register is not known.
func (p *Planner) Soonest(c ledger.Class, now ledger.Instant) ledger.Instant {
	return p.soonest(p.lines[0], c, now)
}

func (p *Planner) soonest(l *line, c ledger.Class, now ledger.Instant) ledger.Instant {
	r := p.Prospect(now)
	if r == nil {
		return 0
	}
	if len(l.shapes) == 0 {
		return max(r.Hold, now)
	}
	return r.Next(p.shapes, p.sample(l, c), now)
}

// ClassOf is what a waiting request would be claimed as.
func (p *Planner) ClassOf(w *Waiter, now ledger.Instant) ledger.Class {
	switch w.Lane {
	case Replay:
		return ledger.Replay
	case Batch:
		return ledger.Batch
	case Interactive, Lanes:
	}
	if p.lineOf(w).queue.isLight(w.Shard, func(shard int) bool { return p.modest(shard, now) }) {
		return ledger.Light
	}
	return ledger.Heavy
}

// InHand is how many permits are claimed and not yet handed out.
func (p *Planner) InHand() (n int) {
	for _, l := range p.lines {
		n += l.inHand()
	}
	return n
}
