package budget

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
func (d *desk) denied(c ledger.Class, slot, now ledger.Instant) ledger.Instant {
	if d.waiting && d.alarmFor == c && now > d.opens {
		d.draw = max(d.draw-float64(now.Sub(d.opens))/float64(d.spread()), 0)
	}
	d.await(c, slot)
	d.alarm = max(d.alarm, now.Add(time.Millisecond))
	return d.alarm
}

// await sets the alarm for a slot, which is open to claimers a while before.
func (d *desk) await(c ledger.Class, slot ledger.Instant) {
	d.waiting, d.alarmFor = true, c
	d.opens = slot.Add(-c.Lead())
	d.alarm = d.opens.Add(d.backoff())
	if c == ledger.Light {
		d.alarm = d.opens.Add(time.Duration(d.draw * float64(c.Lead()/2)))
	}
}

// early is when to claim a slot that is to be had already; zero means now.
// Where the provider is in demand a slot wakes every claimer at once, and
// whoever has just won would be first again: all wait for their backoff.
func (d *desk) early(c ledger.Class, b ledger.Block, now ledger.Instant) ledger.Instant {
	switch waited := d.waiting && d.alarmFor == c; {
	case waited && now >= d.alarm:
		return 0
	case waited && b.From.Add(-c.Lead()) < d.opens: // sooner than it seemed
		d.opens = b.From.Add(-c.Lead())
		d.alarm = min(d.alarm, now.Add(d.backoff()))
	case waited:
	case c == ledger.Light || b.From <= now && !b.Paced:
		return 0
	default:
		d.await(c, max(b.From, now.Add(c.Lead())))
	}
	if d.alarm <= now {
		return 0
	}
	return d.alarm
}

// spread is how far the fleet's claimers spread.
func (d *desk) spread() time.Duration { return max(d.reg.Spread, leastSpread) }

func (d *desk) backoff() time.Duration { return time.Duration(d.draw * float64(d.spread())) }

// respread is the spread that a winner tells the fleet: more if it met others
// on its way, less if not, and much less if more could be had at once: then
// permits go by unclaimed.
func (d *desk) respread(r *ledger.Register, c ledger.Class, now ledger.Instant) time.Duration {
	spread := d.spread()
	switch {
	case r.Next(d.shapes, ledger.Order{Class: c, Patience: patience}, now) <= now:
		spread /= 2
	case d.conflicts > 0:
		spread *= 2
	default:
		spread = spread * 7 / 8
	}
	return min(max(spread, leastSpread), mostSpread)
}
