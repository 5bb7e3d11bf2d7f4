package budget

import (
	"context"
	"time"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/wait"
)

// wakeAt makes sure that the run loop looks at the earliest of some moments.
func (g *Gate) wakeAt(at ...ledger.Instant) {
	var next ledger.Instant
	for _, t := range at {
		if t > 0 && (next == 0 || t < next) {
			next = t
		}
	}
	if g.alarm != next {
		g.alarm = next
		wait.Signal(g.poke)
	}
}

// quietEach is how often a gate looks that nobody waits at. There may be
// hundreds, and each look wakes the processor.
const quietEach = 10 * time.Second

// quiet reports whether time alone changes nothing here that anybody could
// notice before something else happens.
func (g *Gate) quiet() bool {
	known, _ := g.planner.Known()
	return known != nil && g.planner.Queued() == 0 && g.planner.InHand() == 0 && g.planner.UnderWay() == 0 && !g.planner.Writing() &&
		!g.held && g.control.Limits == nil && g.control.Pause == nil && g.barred == nil
}

// run looks again when the alarm says so, and at least once a second unless all
// is quiet: a limit's end, a pause's end and a machine that slept come with no
// event.
func (g *Gate) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			g.mu.Lock()
			g.tick()
			g.mu.Unlock()
		case <-g.poke:
		case <-ctx.Done():
			return
		}
		g.mu.Lock()
		d := time.Second
		if g.still = g.quiet(); g.still {
			d = quietEach
		}
		if now := g.clock.Read(); now.OK && g.alarm > 0 {
			d = min(d, max(g.alarm.Sub(now.At), 0))
		}
		g.mu.Unlock()
		timer.Reset(d)
	}
}

// look goes on after something changed outside of the lock.
func (g *Gate) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tick()
}

// tick applies what time alone changes, and what has been learnt, and goes on.
func (g *Gate) tick() {
	now := g.clock.Read()
	if now.OK && g.untimed {
		g.untimed = false
		g.mirror.Reopen() // and it is told once more
	}
	limits, _ := g.control.InForce(g.s.Limits, now.Time())
	g.planner.Limit(limits)
	if g.held && g.record.Suspect(now.Time()) {
		g.circuit.post(func(r circuit.Record) circuit.Record { return r.Reconsidered(now.Time(), g.s.policy()) })
	}
	g.follow(now.Time())
	g.pump(now)
}
