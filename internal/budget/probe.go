package budget

import (
	"context"
	"time"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/wait"
)

// acquireProbe makes a request a circuit's one probe in the fleet: a short
// wait of its own, so that a fleet does not claim a permit each; then its
// permit; then the probe by compare-and-set. Whoever loses gives its permit
// back. A crash after the claim leaves a lease that ends by itself.
func (g *Gate) acquireProbe(ctx context.Context, p *Permit) error {
	if err := g.permitForProbe(ctx, &p.w); err != nil {
		g.leave(p.w.Part)
		return err
	}
	err := g.claimProbe(ctx, p)
	if err != nil {
		p.Done(Report{Remaining: -1}) // a claim that is stored all the same is given back
	}
	return err
}

func (g *Gate) permitForProbe(ctx context.Context, w *turns.Waiter) error {
	g.mu.Lock()
	jitter := time.Duration(g.s.Rand.Float64() * float64(mostProbeWait))
	g.mu.Unlock()
	if err := wait.For(ctx, jitter); err != nil {
		return err
	}
	g.mu.Lock()
	g.push(w, g.clock.Read())
	g.mu.Unlock()
	return g.await(ctx, w)
}

// mostProbeWait spreads the workers that would probe.
const mostProbeWait = 200 * time.Millisecond

// claimProbe makes the permit's call the probe, or says why it is not to be
// made. If the circuit has just closed, there is no reason any more: it stays
// an ordinary call.
func (g *Gate) claimProbe(ctx context.Context, p *Permit) error {
	now := g.clock.Now()
	lease := now.Add(g.s.lease())
	of, call := p.w.Part.Of, p.w.Call
	err := g.circuit.do(ctx, func(r circuit.Record) circuit.Record { return r.Claimed(of, call, g.s.Worker, now, lease) })
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.follow(now)
	switch c := g.record.Of(of); {
	case !c.Held():
		delete(g.probing, of)
		p.w.Part.Probe = false
	case c.State == circuit.HalfOpen && c.Prober == g.s.Worker && c.ProbeUntil.Equal(lease):
	default:
		return closedBy(of, c, call)
	}
	return nil
}
