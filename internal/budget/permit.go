package budget

import (
	"context"
	"sync"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
)

// Permit is the right to make one call, once, soon. Every permit ends with
// one Done, on every path.
type Permit struct {
	g    *Gate
	ask  turns.Ask
	turn turns.Turn
	part *circuit.Part // in the circuits that are not closed; mostly nil

	once    sync.Once
	started bool
	done    func(Outcome) // the local breaker's, from Start on; nil for a call that is no probe
}

// Probe reports whether this call decides about the circuit. A probe that
// fails counts no failure for its request.
func (p *Permit) Probe() bool { return p.part != nil && p.part.Probe }

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
	if g.shut || !now.OK || now.Wakes != p.turn.Wakes || now.At > p.turn.Block.Until.Add(-now.U) {
		return ErrLapsed
	}
	if g.control.Pause != nil && !g.control.PausedUntil(now.Time()).IsZero() {
		return ErrLapsed
	}
	if r := g.planner.Effective(now.At); r != nil {
		if r.Epoch != p.turn.Block.Epoch || now.At < r.Hold || (r.Strikes > 0 && !p.turn.Trial) {
			return ErrLapsed
		}
	}
	if g.held && !g.stands(p.ask.Call, p.part, now.Time()) {
		return ErrLapsed
	}
	if p.started { // a connection that turned out closed was replaced by another
		return nil
	}
	if p.Probe() {
		done, ok := g.breaker.Allow(p.part.Of)
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
		p.once.Do(func() { p.g.abandon(p) })
		return err
	}
	p.turn = next
	return nil
}

// abandon ends a permit that has given back its slot and its place already.
func (g *Gate) abandon(p *Permit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reportCircuit(p, Report{Outcome: Unused}, g.clock.Now())
	g.left(p.part)
	g.tick()
}

// Done ends the permit and frees its slot. Unused gives it back for others,
// unless Start had let the call go.
func (p *Permit) Done(r Report) { p.once.Do(func() { p.g.finish(p, r) }) }

func (g *Gate) finish(p *Permit, r Report) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.Read()
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
	g.planner.End(p.turn, p.started)
	g.reportThrottle(p, r, now.At)
	changed := g.reportCircuit(p, r, now.Time())
	if p.done != nil {
		p.done(r.Outcome)
	}
	g.left(p.part)
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
		if p.turn.Trial {
			prober = g.s.Worker
		}
		g.planner.Post(now, func(reg *ledger.Register, _ ledger.Instant) {
			reg.Throttled(now, prober, r.RetryAfter, r.MinHold, jitter)
		})
	case p.turn.Trial && r.Outcome == Success:
		g.planner.Post(now, func(reg *ledger.Register, _ ledger.Instant) { reg.Settled(g.s.Worker) })
	case p.turn.Trial && p.started: // it learnt nothing about the limits
		g.planner.Post(now, func(reg *ledger.Register, _ ledger.Instant) { reg.Release(g.s.Worker) })
	}
	if p.started && r.Remaining >= 0 && r.Outcome != Throttled {
		g.planner.Told(ledger.Told{At: now, Left: r.Remaining, Reset: r.Reset, Per: r.Window}, now)
	}
}
