package turns

import (
	"slices"
	"time"

	"fetchworker/internal/budget/ledger"
)

// Serve hands out what can start now, and says when to look again. The grants
// are the caller's until the next Serve.
func (p *Planner) Serve(now ledger.Instant, u time.Duration) (grants []Grant, wake ledger.Instant) {
	clear(p.grants) // what was served is not held on to
	grants, wake = p.serve(p.grants[:0], now, u)
	p.grants = grants
	return grants, wake
}

func (p *Planner) serve(grants []Grant, now ledger.Instant, u time.Duration) ([]Grant, ledger.Instant) {
	p.unsure, p.seen = u, now
	p.expire(now, u)
	r := p.Effective(now)
	places, until := p.seated(now)
	for p.Queued() > 0 && p.out < places {
		s := p.guests.space(p.out, places, now)
		lane, ok, at := p.ready(r, now, u, s)
		if !ok {
			return grants, at
		}
		l := p.next(lane, s)
		var g Grant
		if p.unlimited(l, r, now) {
			g.Block = ledger.Block{From: now, Until: now.Add(ledger.Unpaced), N: 1, Cost: l.cost, Group: l.group, Epoch: r.Epoch}
			p.record(l, now, r)
		} else {
			h := &l.held[l.usable]
			if h.pace != nil {
				h.pace.AllowN(now.Time(), 1) // find has seen that it does
			}
			p.due.spare = 0 // somebody asks: there may be more
			g.Block, g.Trial = h.Block, h.trial
			g.Block.N = 1
			if h.N--; h.N == 0 {
				l.held = slices.Delete(l.held, l.usable, l.usable+1)
			}
		}
		g.Seat = until
		g.Waiter = l.queue.take(lane, func(shard int) bool { return p.modest(shard, now) }, s)
		p.enter(&g, now)
		grants = append(grants, g)
	}
	return grants, 0
}

// ready looks which lines can have a permit now, and whose turn it is of the
// lanes that wait in them; or when the first can have one.
func (p *Planner) ready(r *ledger.Register, now ledger.Instant, u time.Duration, s space) (lane Lane, ok bool, at ledger.Instant) {
	var active [Lanes]bool
	for _, l := range p.lines {
		l.usable = -1
		if l.queue.total() == 0 {
			continue
		}
		if p.unlimited(l, r, now) {
			l.usable = 0
		} else {
			var from ledger.Instant
			l.usable, from = l.find(now, u)
			at = earliest(at, from)
		}
		for lane := range Lanes {
			active[lane] = active[lane] || l.usable >= 0 && l.queue.has(lane, s)
		}
	}
	lane, ok = p.rota.choose(active)
	return lane, ok, at
}

// next is the line whose turn it is of those that are ready and have somebody
// in a lane for whom there is space.
func (p *Planner) next(lane Lane, s space) *line {
	for i := range p.lines {
		at := (p.turn + i) % len(p.lines)
		if l := p.lines[at]; l.usable >= 0 && l.queue.has(lane, s) {
			p.turn = at + 1
			return l
		}
	}
	return nil // never: ready found one
}

// find finds a permit in hand that may start now, or when one may.
func (l *line) find(now ledger.Instant, u time.Duration) (i int, at ledger.Instant) {
	for i := range l.held {
		h := &l.held[i]
		ready := max(h.ready, h.From.Add(u))
		if ready <= now && h.pace != nil {
			r := h.pace.ReserveN(now.Time(), 1)
			ready = now.Add(r.DelayFrom(now.Time()))
			r.CancelAt(now.Time()) // another line may be served
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

// expire turns what can no longer start into refunds.
func (p *Planner) expire(now ledger.Instant, u time.Duration) {
	for _, l := range p.lines {
		l.held = slices.DeleteFunc(l.held, func(h held) bool {
			if h.Until.Add(-u) > now {
				return false
			}
			p.lapsed += int64(h.N)
			p.giveBack(h.Block, h.trial)
			return true
		})
	}
}
