package turns

import (
	"time"

	"fetchworker/internal/budget/ledger"
)

// How far the claimers of a fleet spread, at least and at most.
const (
	leastSpread = 10 * time.Millisecond
	mostSpread  = 8 * time.Second
)

// denied sets the alarm for a slot that is too far ahead to claim. Claimers
// spread, each by its own backoff, or all would write at the same moment. One
// that another was faster than keeps what is left of its backoff, so that it
// comes closer to the front with every slot it misses, and nobody starves.
func (p *Planner) denied(l *line, c ledger.Class, slot, now ledger.Instant) ledger.Instant {
	if l.waiting && l.alarmFor == c && now > l.opens {
		l.share = max(l.share-float64(now.Sub(l.opens))/float64(p.spread()), 0)
	}
	p.await(l, c, slot)
	l.alarm = max(l.alarm, now.Add(time.Millisecond))
	l.denied = p.known()
	return l.alarm
}

// await sets the alarm for a slot, which is open to claimers a while before.
func (p *Planner) await(l *line, c ledger.Class, slot ledger.Instant) {
	l.waiting, l.alarmFor = true, c
	l.opens = slot.Add(-p.lead(l, c))
	l.alarm = l.opens.Add(p.backoff(l))
	if c == ledger.Light {
		l.alarm = l.opens.Add(time.Duration(l.share * float64(p.lead(l, c)/2)))
	}
}

// early is when to claim a slot that is to be had already; zero means now.
// Where the provider is in demand a slot wakes every claimer at once, and
// whoever has just won would be first again: all wait for their backoff.
func (p *Planner) early(l *line, c ledger.Class, b ledger.Block, now ledger.Instant) ledger.Instant {
	switch waited := l.waiting && l.alarmFor == c; {
	case waited && now >= l.alarm:
		return 0
	case waited && b.From.Add(-p.lead(l, c)) < l.opens: // sooner than it seemed
		l.opens = b.From.Add(-p.lead(l, c))
		l.alarm = min(l.alarm, now.Add(p.backoff(l)))
	case waited:
	case c == ledger.Light || b.From <= now && !b.Paced:
		return 0
	default:
		p.await(l, c, max(b.From, now.Add(p.lead(l, c))))
	}
	if l.alarm <= now {
		return 0
	}
	return l.alarm
}

// lead is how long before a slot a claim for it may be sent.
func (p *Planner) lead(l *line, c ledger.Class) time.Duration {
	return ledger.Order{Class: c, Took: p.took, Dearer: l.dearer}.Lead()
}

// spread is how far the fleet's claimers spread.
func (p *Planner) spread() time.Duration { return max(p.reg.Spread, leastSpread) }

func (p *Planner) backoff(l *line) time.Duration { return time.Duration(l.share * float64(p.spread())) }

// respread is the spread that a winner tells the fleet: more if it met others
// on its way, less if not, and much less if more could be had at once: then
// permits go by unclaimed.
func (p *Planner) respread(r *ledger.Register, l *line, c ledger.Class, now ledger.Instant) time.Duration {
	spread := p.spread()
	switch {
	case r.Next(p.shapes, p.sample(l, c), now) <= now:
		spread /= 2
	case p.conflicts > 0:
		spread *= 2
	default:
		spread = spread * 7 / 8
	}
	return min(max(spread, leastSpread), mostSpread)
}
