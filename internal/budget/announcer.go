package budget

import (
	"context"
	"fmt"
	"sync"
	"time"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/meter"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/wait"
)

// announcer tells the observer of events in order, from a goroutine of its
// own: whoever has one to tell holds a lock.
type announcer struct {
	s     Settings
	clock *store.Clock
	on    Observer
	poke  chan struct{}

	mu     sync.Mutex
	events []Event
}

func newAnnouncer(s Settings, c *store.Clock, on Observer) *announcer {
	if on == nil {
		on = func(Event) {}
	}
	return &announcer{s: s, clock: c, on: on, poke: make(chan struct{}, 1)}
}

func (a *announcer) tell(e Event) {
	e.Provider, e.Worker, e.Time = a.s.Provider, a.s.Worker, a.clock.Now()
	a.mu.Lock()
	a.events = append(a.events, e)
	a.mu.Unlock()
	wait.Signal(a.poke)
}

func (a *announcer) run(ctx context.Context) {
	for {
		select {
		case <-a.poke:
		case <-ctx.Done():
			return
		}
		a.flush()
	}
}

func (a *announcer) flush() {
	for {
		a.mu.Lock()
		events := a.events
		a.events = nil
		a.mu.Unlock()
		if len(events) == 0 {
			return
		}
		for _, e := range events {
			a.on(e)
		}
	}
}

// circuitChanged tells of circuits that opened, widened, are being probed or
// closed, and of probes that cost much and find out nothing.
func (g *Gate) circuitChanged(before, after circuit.Record, mine bool) {
	for _, change := range circuit.Changes(before, after) {
		was, is := change.Before, change.After
		if dear := is.Spent / dearProbes; dear > was.Spent/dearProbes {
			g.events.tell(Event{
				Kind: KindBudget, Severity: SeverityWarning, Mine: mine, Operation: change.Operation, Agent: is.Agent, Used: is.Spent,
				Why: fmt.Sprintf("probes that failed have cost %d MiB of the month's bytes", is.Spent>>20),
			})
		}
		if was.State == is.State && was.Agent == is.Agent && was.Call == is.Call {
			continue
		}
		e := Event{
			Kind: KindCircuit, Severity: SeverityInfo, Mine: mine,
			State: is.State, Operation: change.Operation, Agent: is.Agent, Why: is.Why,
		}
		switch {
		case !is.Held():
			e.State, e.Agent = circuit.Closed, was.Agent
		case is.State == circuit.Open && was.State == circuit.HalfOpen:
			e.Severity = SeverityWarning
		case is.State == circuit.Open:
			e.Severity = SeverityError
		}
		if is.Held() {
			e.Until = is.Until()
		}
		g.events.tell(e)
	}
}

// dearProbes are so many bytes of probes that failed: each time that as many
// more have been spent, an operator is told.
const dearProbes = 16 << 20

// announceThrottle tells of a hold that came, or that is over.
func (g *Gate) announceThrottle(before, after *ledger.Register, mine bool) {
	switch {
	case before == nil:
	case after.Hold > before.Hold:
		e := Event{
			Kind: KindThrottle, Severity: SeverityWarning, Mine: mine,
			Until: after.Hold.Time(), Strikes: after.Strikes, Why: "the provider asked to wait",
			Wait: after.Hold.Sub(g.clock.Read().At).Round(100 * time.Millisecond).String(),
		}
		if mine {
			e.Sent = g.asked // by the answer that this worker met last
		}
		g.events.tell(e)
	case before.Strikes > 0 && after.Strikes == 0:
		g.events.tell(Event{Kind: KindThrottle, Severity: SeverityInfo, Mine: mine, Why: "the provider answers again"})
	}
}

// announceForeign tells that the provider has counted calls that are not ours,
// and not more often than once a minute.
func (g *Gate) announceForeign(w *turns.Write) {
	if w.Foreign == 0 {
		return
	}
	g.foreign += int64(w.Foreign)
	now := g.clock.Now()
	if now.Sub(g.toldForeign) < time.Minute {
		return
	}
	g.toldForeign = now
	f := w.Reg.ForeignCalls(ledger.InstantOf(now))
	g.events.tell(Event{
		Kind: KindThrottle, Severity: SeverityWarning, Mine: true, Until: f.Until.Time(), Calls: f.N,
		Why: fmt.Sprintf("the provider has counted %d calls that this fleet did not make: somebody else uses the key", f.N),
	})
}

// seeControl takes an operator's orders.
func (g *Gate) seeControl(c fleet.Control) {
	now := g.clock.Now()
	before := g.control
	g.control = c
	if was, is := before.PausedUntil(now), c.PausedUntil(now); !was.Equal(is) {
		e := Event{Kind: KindControl, Severity: SeverityInfo, Until: is, Why: "resumed"}
		if !is.IsZero() {
			e.Severity, e.Why, e.By = SeverityWarning, "paused: "+c.Pause.Reason, c.Pause.By
		}
		g.events.tell(e)
	}
	was, _ := before.InForce(g.s.Limits, now)
	is, until := c.InForce(g.s.Limits, now)
	if was.String() != is.String() {
		e := Event{Kind: KindControl, Severity: SeverityInfo, Limits: is.String(), Until: until, Why: "limits reset"}
		if c.Limits != nil {
			e.By, e.Why = c.Limits.By, "limits changed: "+c.Limits.Reason
		}
		g.events.tell(e)
	}
}

// budgetPassed tells of a threshold of the month's bytes.
func (g *Gate) budgetPassed(p meter.Passed) {
	severity := SeverityInfo
	switch {
	case p.Percent >= 95:
		severity = SeverityError
	case p.Percent >= 85:
		severity = SeverityWarning
	}
	g.events.tell(Event{
		Kind: KindBudget, Severity: severity, Mine: p.First,
		Percent: p.Percent, Used: p.Used, Limit: p.Limit, Month: p.Month, Until: p.Until,
	})
}
