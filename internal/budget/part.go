package budget

import (
	"context"
	"errors"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/turns"
)

// errLookAgain says that the circuits have changed for one who waits.
var errLookAgain = errors.New("the circuits have changed")

// takePart gives one who comes its part in the circuits, or says why it may
// not be called, or what it must wait for first: others of its kind go one at
// a time. One of the interactive lane takes the turn of another that has no
// permit yet.
func (g *Gate) takePart(w *turns.Waiter, now time.Time) (turn <-chan struct{}, err error) {
	look := g.record.Look(w.Call, now)
	switch {
	case look.Held, look.Probe && g.probing[look.By] != nil:
		return nil, closedBy(look.By, g.record.Of(look.By), w.Call)
	case !look.Probe && len(look.Alone) == 0:
		return nil, nil
	}
	for _, of := range look.Alone {
		holder := g.alone[of]
		if holder == nil || w.Lane == turns.Interactive && g.stepAside(holder) {
			continue
		}
		if g.turn == nil {
			g.turn = make(chan struct{})
		}
		return g.turn, nil
	}
	w.Part = &circuit.Part{Probe: look.Probe, Of: look.By, Alone: look.Alone}
	for _, of := range look.Alone {
		g.alone[of] = w
	}
	if look.Probe {
		g.probing[look.By] = w.Part
	}
	return nil, nil
}

// stepAside sends one away who still waits for its permit in a slower lane.
func (g *Gate) stepAside(w *turns.Waiter) bool {
	if w.Part.Probe || w.Lane == turns.Interactive || !g.planner.Remove(w) {
		return false
	}
	w.End(turns.Turn{}, errLookAgain)
	return true
}

// keepTurn lets one who waits for another permit keep its part.
func (g *Gate) keepTurn(w *turns.Waiter) {
	if w.Part == nil {
		return
	}
	for _, of := range w.Part.Alone {
		if holder := g.alone[of]; holder != nil && holder.Part == w.Part {
			g.alone[of] = w
		}
	}
}

// awaitTurn waits until one who went alone has ended, or the circuits have
// changed.
func awaitTurn(ctx context.Context, turn <-chan struct{}) error {
	select {
	case <-turn:
		return errLookAgain
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// leave ends a part without a permit.
func (g *Gate) leave(p *circuit.Part) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left(p)
}

func (g *Gate) left(p *circuit.Part) {
	if p == nil {
		return
	}
	if g.probing[p.Of] == p {
		delete(g.probing, p.Of)
	}
	for _, of := range p.Alone {
		if holder := g.alone[of]; holder != nil && holder.Part == p {
			delete(g.alone, of)
		}
	}
	g.nextTurn()
}

// nextTurn lets all look again who wait for a turn.
func (g *Gate) nextTurn() {
	if g.turn != nil {
		close(g.turn)
		g.turn = nil
	}
}

// stands reports whether a call may still be made in the part it has.
func (g *Gate) stands(c circuit.Call, p *circuit.Part, now time.Time) bool {
	if p != nil && p.Probe {
		if of, held := g.record.Covers(c); held && of != p.Of {
			return false // the provider's has opened too
		}
		k := g.record.Of(p.Of)
		return !k.Held() || k.ProbeLeased(now) && k.Prober == g.s.Worker || k.MayProbe(c, now)
	}
	look := g.record.Look(c, now)
	for _, of := range look.Alone {
		if holder := g.alone[of]; p == nil || holder == nil || holder.Part != p {
			return false
		}
	}
	return !look.Held && !look.Probe
}

// closedBy says what holds a call.
func closedBy(operation string, c circuit.Circuit, call circuit.Call) *ClosedError {
	return &ClosedError{Reason: fetchworker.ReasonCircuitOpen, Until: c.ProbeAt(call), Operation: operation, Agent: c.Agent, Detail: c.What(operation)}
}
