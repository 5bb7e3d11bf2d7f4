package budget

import "time"

// How far the claimers of a fleet spread, at least and at most.
const (
	leastSpread = 10 * time.Millisecond
	mostSpread  = 8 * time.Second
)

// denied sets the alarm for a slot that is too far ahead to claim. Claimers
// spread, each by its own backoff, or all would write at the same moment. One
// that another was faster than keeps what is left of its backoff, so that it
// comes closer to the front with every slot it misses, and nobody starves.
func (d *desk) denied(c class, slot, now instant) instant {
	if d.waiting && d.alarmFor == c && now > d.opens {
		d.draw = max(d.draw-float64(now.sub(d.opens))/float64(d.spread()), 0)
	}
	d.await(c, slot)
	d.alarm = max(d.alarm, now.add(time.Millisecond))
	return d.alarm
}

// await sets the alarm for a slot, which is open to claimers a while before.
func (d *desk) await(c class, slot instant) {
	d.waiting, d.alarmFor = true, c
	d.opens = slot.add(-c.lead())
	d.alarm = d.opens.add(d.backoff())
	if c == light {
		d.alarm = d.opens.add(time.Duration(d.draw * float64(c.lead()/2)))
	}
}

// early is when to claim a slot that is to be had already; zero means now.
// Where the provider is in demand a slot wakes every claimer at once, and
// whoever has just won would be first again: all wait for their backoff.
func (d *desk) early(c class, b block, now instant) instant {
	switch waited := d.waiting && d.alarmFor == c; {
	case waited && now >= d.alarm:
		return 0
	case waited && b.from.add(-c.lead()) < d.opens: // sooner than it seemed
		d.opens = b.from.add(-c.lead())
		d.alarm = min(d.alarm, now.add(d.backoff()))
	case waited:
	case c == light || b.from <= now && !b.paced:
		return 0
	default:
		d.await(c, max(b.from, now.add(c.lead())))
	}
	if d.alarm <= now {
		return 0
	}
	return d.alarm
}

// spread is how far the fleet's claimers spread.
func (d *desk) spread() time.Duration { return max(d.reg.spread, leastSpread) }

func (d *desk) backoff() time.Duration { return time.Duration(d.draw * float64(d.spread())) }

// respread is the spread that a winner tells the fleet: more if it met others
// on its way, less if not, and much less if more could be had at once: then
// permits go by unclaimed.
func (d *desk) respread(r *register, c class, now instant) time.Duration {
	spread := d.spread()
	switch {
	case r.next(d.shapes, c, now) <= now:
		spread /= 2
	case d.conflicts > 0:
		spread *= 2
	default:
		spread = spread * 7 / 8
	}
	return min(max(spread, leastSpread), mostSpread)
}
