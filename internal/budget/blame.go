package budget

import (
	"context"
	"time"

	"fetchworker/internal/budget/circuit"
)

// reportCircuit counts a failure, ends a row of them, or ends a probe, and
// reports whether the record changed.
func (g *Gate) reportCircuit(p *Permit, r Report, now time.Time) bool {
	if r.Outcome == Success {
		g.lastSuccess = now
	}
	if g.s.CircuitFailures <= 0 {
		return false
	}
	call := p.w.Call
	switch {
	case p.Probe():
		g.circuit.post(func(c circuit.Record) circuit.Record {
			return c.Probed(p.w.Part.Of, call, g.s.Worker, r.Outcome, r.Bytes, now, g.s.policy())
		})
	case r.Outcome.Failed():
		g.circuit.post(func(c circuit.Record) circuit.Record { return c.Failed(call, r.Outcome, now, g.s.policy()) })
	case r.Outcome == Success && g.circuit.awaits(call):
		g.circuit.post(func(c circuit.Record) circuit.Record { return c.Succeeded(call, now) })
	default:
		return false
	}
	return true
}

// Holds is what a circuit would say to a call now; nil if it may be made.
func (g *Gate) Holds(c circuit.Call) *ClosedError {
	if g.s.CircuitFailures <= 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.circuit.record()
	operation, held := r.Covers(c)
	if !held {
		return nil
	}
	return closedBy(operation, r.Of(operation), c)
}

// Outage reports whether the failures of a call, the first of which was at a
// time, are not its own fault: then Spare is due instead of its burial.
func (g *Gate) Outage(c circuit.Call, firstFailed time.Time) bool {
	if g.s.CircuitFailures <= 0 || firstFailed.IsZero() {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch g.circuit.record().LastRetry(c, firstFailed) {
	case circuit.BlameOperation:
		return true
	case circuit.BlameProvider:
		return !g.lastSuccess.After(firstFailed)
	case circuit.BlameRequest:
	}
	return false
}

// Spare opens the circuit that a call's failures are put down to, for the
// fleet, and returns once that is stored.
func (g *Gate) Spare(ctx context.Context, c circuit.Call, firstFailed time.Time) error {
	if g.s.CircuitFailures <= 0 {
		return nil
	}
	now := g.clock.Now()
	err := g.circuit.do(ctx, func(r circuit.Record) circuit.Record { return r.Spared(c, firstFailed, now, g.s.policy()) })
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tick()
	return err
}
