package budget

import (
	"context"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/wait"
)

// probeDue reports whether a probe of the circuit may be claimed.
func (g *Gate) probeDue(now time.Time) bool {
	return !g.shut && g.control.PausedUntil(now).IsZero() && g.circuit.record().Due(now)
}

// probeStands reports whether one who is to be the probe, or is it already,
// may still wait for a permit.
func (g *Gate) probeStands(now time.Time) bool {
	c := g.circuit.record()
	ours := c.ProbeLeased(now) && c.Prober == g.s.Worker
	return ours && !g.shut && g.control.PausedUntil(now).IsZero() || g.probeDue(now)
}

// acquireProbe makes a request the fleet's one probe: a short wait of its
// own, so that a fleet does not claim a permit each; then its permit; then
// the probe by compare-and-set. Whoever loses gives its permit back. A crash
// after the claim leaves a lease that ends by itself.
func (g *Gate) acquireProbe(ctx context.Context, w *turns.Waiter) (*Permit, error) {
	p, err := g.permitForProbe(ctx, w)
	if err == nil {
		err = g.claimProbe(ctx, p)
	}
	if err == nil {
		return p, nil
	}
	g.mu.Lock()
	g.probing = false
	g.mu.Unlock()
	if p != nil {
		p.Done(Report{Remaining: -1})
	}
	return nil, err
}

func (g *Gate) permitForProbe(ctx context.Context, w *turns.Waiter) (*Permit, error) {
	g.mu.Lock()
	jitter := time.Duration(g.s.Rand.Float64() * float64(mostProbeWait))
	g.mu.Unlock()
	if err := wait.For(ctx, jitter); err != nil {
		return nil, err
	}
	g.mu.Lock()
	g.planner.Push(w)
	g.pump(g.clock.Read())
	g.mu.Unlock()
	return g.permit(ctx, w)
}

// mostProbeWait spreads the workers that would probe.
const mostProbeWait = 200 * time.Millisecond

// claimProbe makes the permit's call the probe, or says why it is not to be
// made. If another's probe has just closed the circuit, there is no reason
// any more: it stays an ordinary call.
func (g *Gate) claimProbe(ctx context.Context, p *Permit) error {
	now := g.clock.Now()
	lease := now.Add(g.s.lease())
	err := g.circuit.do(ctx, func(c circuit.Record) circuit.Record { return c.Claimed(g.s.Worker, now, lease) })
	if err != nil {
		return err // a claim that is stored all the same ends with its lease
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.follow(now)
	switch c := g.circuit.record(); {
	case c.State == circuit.Closed:
		g.probing = false
	case c.State == circuit.HalfOpen && c.Prober == g.s.Worker && c.ProbeUntil.Equal(lease):
		p.probe = true
	default:
		return &ClosedError{Reason: fetchworker.ReasonCircuitOpen, Until: c.Until()}
	}
	return nil
}
