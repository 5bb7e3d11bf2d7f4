package dlq

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
)

// gates tells of each provider whether its letters may go back to work. The
// board's answer is kept for a moment: a crowd of letters asks for it.
type gates struct {
	board *fleet.View

	mu  sync.Mutex
	all map[string]*knownGate
	met chan struct{} // closed when the first letter of any is met
}

// knownGate is a gate as last looked at.
type knownGate struct {
	gate
	looked time.Time
}

// gateLasts is how long a look at the board is believed.
const gateLasts = 100 * time.Millisecond

// lasts is until when the look is believed: not beyond the end of what it saw.
func (k *knownGate) lasts() time.Time {
	lasts := k.looked.Add(gateLasts)
	if k.until.After(k.looked) && k.until.Before(lasts) {
		return k.until
	}
	return lasts
}

func newGates(board *fleet.View) *gates {
	return &gates{board: board, all: map[string]*knownGate{}, met: make(chan struct{})}
}

// of is the gate of a provider now.
func (g *gates) of(provider string, now time.Time) gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	known := g.all[provider]
	if known != nil && now.Before(known.lasts()) {
		return known.gate
	}
	next := &knownGate{gate: look(g.board, provider, now), looked: now}
	if known != nil {
		if known.held != "" && next.held == "" {
			next.lifted = now
		} else if known.lifted.After(next.lifted) {
			next.lifted = known.lifted
		}
	}
	if len(g.all) == 0 {
		close(g.met) // none is ever taken out again
	}
	g.all[provider] = next
	return next.gate
}

// providers are those whose letters this replayer has met.
func (g *gates) providers() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	names := make([]string, 0, len(g.all))
	for name := range g.all {
		names = append(names, name)
	}
	return names
}

// look reads a provider's gate off the board.
func look(board *fleet.View, provider string, now time.Time) gate {
	view := board.Provider(provider, now)
	g := gate{known: board.Knows(provider), circuits: view.Circuit, succeeded: view.Circuit.LastSuccess, lifted: view.Ordered}
	g.held, g.until = board.Held(provider, now)
	if g.held == "" && view.HoldUntil.After(now) {
		// A hold too short to be worth parking for is waited for here, not in
		// a worker's hands.
		g.held, g.until = fetchworker.ReasonThrottled, view.HoldUntil
	}
	if len(view.Workers) > 0 {
		g.probes = g.held != fetchworker.ReasonPaused
		return g
	}
	g.retired = view.Control.Retired != nil
	// Without a worker nobody probes and nobody claims permits: what an
	// operator has ordered is the better reason, the others are not.
	if g.held != fetchworker.ReasonPaused && (g.held == "" || now.Sub(view.NoneSince) >= LongAbsence) {
		g.held, g.until, g.absent = fetchworker.ReasonNoWorker, time.Time{}, view.NoneSince
	}
	return g
}

// closedTo is the gate as one letter meets it: a circuit may be open for that
// and for no other. A pause and missing workers are the better reasons.
func (g gate) closedTo(l Letter) gate {
	if g.held == fetchworker.ReasonPaused || g.held == fetchworker.ReasonNoWorker || !g.circuits.AnyHeld() {
		return g
	}
	call := l.Call()
	if operation, held := g.circuits.Covers(call); held {
		c := g.circuits.Of(operation)
		g.held, g.until, g.what = fetchworker.ReasonCircuitOpen, c.ProbeAt(call), c.What(operation)
	}
	return g
}

// shut names the circuits that are not closed, with whom each is open for;
// empty: all are closed.
func (g gate) shut() string {
	if !g.circuits.AnyHeld() {
		return ""
	}
	var all strings.Builder
	for _, c := range append([]circuit.Operation{{Circuit: g.circuits.Circuit}}, g.circuits.Operations...) {
		if c.Held() {
			fmt.Fprintf(&all, "%s %s %s\n", c.Name, c.Agent, c.Call)
		}
	}
	return all.String()
}

// due are the circuits that wait for a probe, by operation.
func (g gate) due(now time.Time) []string {
	var due []string
	if !g.probes {
		return nil
	}
	if g.circuits.Due(now) {
		due = append(due, "")
	}
	for _, o := range g.circuits.OpenOperations() {
		if o.Due(now) {
			due = append(due, o.Name)
		}
	}
	return due
}
