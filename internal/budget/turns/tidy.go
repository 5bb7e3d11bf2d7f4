package turns

import (
	"slices"
	"time"

	"fetchworker/internal/budget/ledger"
)

// What is to be told the register although nothing is claimed: permits that go
// back, calls that were made without a limit, limits that nobody has told it
// of. None of it is urgent, all of it is told within a second, and together.
const (
	soonest = 200 * time.Millisecond
	latest  = 700 * time.Millisecond
)

// due is when that is to be told; zero: there is nothing.
type due struct {
	limits bool           // the register is new to us: are our limits in it?
	touch  ledger.Instant // they are not
	refund ledger.Instant
	record ledger.Instant
	seats  ledger.Instant // when seats for calls at once go back, if nobody asks until then
	spare  ledger.Instant // when permits in hand go back, if nobody asks until then
}

// tidy reports whether something is due, and if not, when it will be.
func (p *Planner) tidy(now ledger.Instant) (is bool, wake ledger.Instant) {
	if len(p.ops) > 0 {
		return true, 0
	}
	if p.due.limits {
		p.due.limits = false
		if p.due.touch == 0 && p.stale(now) {
			p.due.touch = p.soon(now)
		}
	}
	if p.due.touch > 0 && now >= p.due.touch {
		p.due.touch = 0
		if p.stale(now) { // nobody else was faster
			return true, 0
		}
	}
	if is, wake = p.seatsDue(now); is {
		return true, 0
	}
	p.returnSpare(now)
	if len(p.refunds) > 0 && p.due.refund == 0 {
		p.due.refund = p.soon(now)
	}
	if len(p.calls)+len(p.told) > 0 && p.due.record == 0 {
		p.due.record = p.soon(now)
	}
	for _, at := range []ledger.Instant{p.due.touch, p.due.refund, p.due.record} {
		if at > 0 && now >= at {
			return true, 0
		}
		wake = earliest(wake, at)
	}
	return false, earliest(wake, p.due.spare)
}

// stale reports whether the register does not know our limits.
func (p *Planner) stale(now ledger.Instant) bool {
	return p.reg.Stale(p.shapes, now) || p.reg.AtOnceStale(p.seats.most, now)
}

// returnSpare gives permits in hand back that nobody waits for any more.
func (p *Planner) returnSpare(now ledger.Instant) {
	spare := slices.ContainsFunc(p.lines, func(l *line) bool { return l.inHand() > l.queue.total() })
	switch {
	case !spare:
		p.due.spare = 0
	case p.due.spare == 0:
		p.due.spare = now.Add(soonest)
	case now >= p.due.spare:
		p.due.spare = 0
		for _, l := range p.lines {
			for n := len(l.held); n > 0 && l.inHand()-l.held[n-1].N >= l.queue.total(); n = len(l.held) {
				p.giveBack(l.held[n-1].Block, l.held[n-1].trial)
				l.held = l.held[:n-1]
			}
		}
	}
}

// soon is a moment within a second: workers that saw the same do not write at
// once.
func (p *Planner) soon(now ledger.Instant) ledger.Instant {
	return now.Add(soonest + time.Duration(p.rng.Float64()*float64(latest-soonest)))
}

// refund keeps permits that go back.
func (p *Planner) refund(r ledger.Refund) {
	if n := len(p.refunds); n > 0 && p.refunds[n-1].At == r.At && p.refunds[n-1].Epoch == r.Epoch && p.refunds[n-1].Group == r.Group && !p.writing {
		p.refunds[n-1].N += r.N
		return
	}
	p.refunds = append(p.refunds, r)
}

// record counts a call that needs no permit for those who have limits.
func (p *Planner) record(l *line, now ledger.Instant, r *ledger.Register) {
	if !r.Counts(p.shapes, l.group) {
		return
	}
	if n := len(p.calls); n > 0 && now.Sub(p.calls[n-1].at) < 20*time.Millisecond && p.calls[n-1].group == l.group && !p.writing {
		p.calls[n-1].n += l.cost
		return
	}
	p.calls = append(p.calls, call{at: now, n: l.cost, group: l.group})
}

// earliest is the sooner of two moments; zero is none.
func earliest(a, b ledger.Instant) ledger.Instant {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
