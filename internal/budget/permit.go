package budget

import (
	"context"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
)

// Permit is the right to make one call, once, soon. Every permit ends with
// one Done, on every path.
type Permit struct {
	g *Gate
	w turns.Waiter // who asked, and what it got; Part is mostly nil

	ended   bool // under the gate's lock
	started bool
	came    bool          // its slot is free already
	done    func(Outcome) // the local breaker's, from Start on; nil for a call that is no probe
}

// Probe reports whether this call decides about the circuit. A probe that
// fails counts no failure for its request.
func (p *Permit) Probe() bool { return p.w.Part != nil && p.w.Part.Probe }

// Start is the last look, right before the request is written to a connection
// that is already there. ErrLapsed says that the call must not be made: the
// permit's time has passed, or the circuit opened, or a pause or a hold came.
// What starts later than this by a freeze of the process is the one way that a
// call can be outside its permit.
func (p *Permit) Start() error {
	g := p.g
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.Read()
	if g.shut || !now.OK || now.Wakes != p.w.Turn.Wakes || now.At > p.w.Turn.Block.Until.Add(-now.U) {
		return ErrLapsed
	}
	if seat := p.w.Turn.Seat; seat > 0 && now.At.Add(now.U+g.s.CallTimeout) > seat {
		return ErrLapsed // another's call may begin before this one has ended
	}
	if g.control.Pause != nil && !g.control.PausedUntil(now.Time()).IsZero() {
		return ErrLapsed
	}
	if r := g.planner.Effective(now.At); r != nil {
		if r.Epoch != p.w.Turn.Block.Epoch || now.At < r.Hold || (r.Strikes > 0 && !p.w.Turn.Trial) {
			return ErrLapsed
		}
	}
	if g.held && !g.stands(p.w.Call, p.w.Part, now.Time()) {
		return ErrLapsed
	}
	if p.started { // a connection that turned out closed was replaced by another
		return nil
	}
	if p.Probe() {
		done, ok := g.breaker.Allow(p.w.Part.Of)
		if !ok {
			return ErrLapsed
		}
		p.done = done
	}
	p.started = true
	return nil
}

// Renew exchanges a permit that lapsed for another one, waiting before those
// who came later. With it the caller can keep a connection that took longer
// to dial than a permit of a short window is valid. On an error the permit
// has ended; the errors are Acquire's.
func (p *Permit) Renew(ctx context.Context) error {
	next, err := p.g.again(ctx, p)
	if err != nil {
		p.g.abandon(p)
		return err
	}
	p.w.Turn = next
	return nil
}

// abandon ends a permit that has given back its slot and its place already.
func (g *Gate) abandon(p *Permit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.ended {
		return
	}
	p.ended = true
	g.reportCircuit(p, Report{Outcome: Unused}, g.clock.Now())
	g.left(p.w.Part)
	g.tick()
}

// Came says that the call's answer has come: its slot is for others, while
// this one waits for something of our own. Done still has to follow.
func (p *Permit) Came() {
	g := p.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.came || !p.started || p.w.Turn.Trial || p.Probe() {
		return // one that decides something is the only one until it has
	}
	p.came = true
	g.planner.End(p.w.Turn, true)
	g.pump(g.clock.Read())
}

// Done ends the permit and frees its slot. Unused gives it back for others,
// unless Start had let the call go.
func (p *Permit) Done(r Report) {
	g := p.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.ended {
		return
	}
	p.ended = true
	g.finish(p, r, g.clock.Read())
}

func (g *Gate) finish(p *Permit, r Report, now store.Reading) {
	if p.started && r.Outcome == Unused {
		r.Outcome = Neutral
	}
	if !p.started {
		// No call was made, so the permit is for others. That there was no
		// connection to make it on is the provider's failure all the same.
		if r.Outcome != Failure && r.Outcome != Unreached {
			r.Outcome = Unused
		}
	}
	if !p.came {
		g.planner.End(p.w.Turn, p.started)
	}
	g.reportThrottle(p, r, now.At)
	changed := g.reportCircuit(p, r, now.Time())
	if p.done != nil {
		p.done(r.Outcome)
	}
	g.left(p.w.Part)
	if changed {
		g.follow(now.Time())
	}
	g.pump(now)
}

// reportThrottle books a 429, ends a throttle whose probe was answered, and
// keeps the provider's own count for the next claim.
func (g *Gate) reportThrottle(p *Permit, r Report, now ledger.Instant) {
	switch {
	case r.Outcome == Throttled:
		jitter, prober := g.s.Rand.Float64(), ""
		g.asked = r.Sent
		if p.w.Turn.Trial {
			prober = g.s.owner()
		}
		g.planner.Post(now, func(reg *ledger.Register, _ ledger.Instant) {
			reg.Throttled(now, prober, r.RetryAfter, r.MinHold, jitter)
		})
	case p.w.Turn.Trial && r.Outcome == Success:
		g.planner.Post(now, func(reg *ledger.Register, _ ledger.Instant) { reg.Settled(g.s.owner()) })
	case p.w.Turn.Trial && p.started: // it learnt nothing about the limits
		g.planner.Post(now, func(reg *ledger.Register, _ ledger.Instant) { reg.Release(g.s.owner()) })
	}
	if p.started && r.Remaining >= 0 && r.Outcome != Throttled {
		g.planner.Told(ledger.Told{At: now, Left: r.Remaining, Reset: r.Reset, Per: r.Window}, now)
	}
}
