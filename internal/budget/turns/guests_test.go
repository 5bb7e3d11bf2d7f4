package turns

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/ledger"
)

// house is a planner without limits whose calls last until the test ends them.
type house struct {
	*Planner
	t     *testing.T
	now   ledger.Instant
	holds map[string][]Turn
	order []string // in which they were given
}

func newHouse(t *testing.T, places int) *house {
	h := &house{Planner: planner(nil, 0), t: t, now: start, holds: map[string][]Turn{}}
	h.slots = places
	return h
}

// wait lets n calls of an agent wait, and gives places to whoever may have one.
func (h *house) wait(agent string, n int) {
	for range n {
		h.Push(&Waiter{Ask: Ask{Call: circuit.Call{Agent: agent}, Shard: shardOf(agent)}})
	}
	h.serve()
}

func shardOf(agent string) int { return int(agent[0]) % ledger.Shards }

func (h *house) serve() {
	grants, _ := h.Serve(h.now, 0)
	for _, g := range grants {
		h.holds[g.Agent] = append(h.holds[g.Agent], g.Turn)
		h.order = append(h.order, g.Agent)
	}
}

// end ends n calls of an agent, one after the other.
func (h *house) end(agent string, n int) {
	for range n {
		last := len(h.holds[agent]) - 1
		h.End(h.holds[agent][last], true)
		h.holds[agent] = h.holds[agent][:last]
		h.serve()
	}
}

func (h *house) hold(agent string, n int) {
	h.t.Helper()
	if got := len(h.holds[agent]); got != n {
		h.t.Errorf("%s holds %d places, want %d", agent, got, n)
	}
}

// An agent whose calls take long has all places while it is alone, and leaves one
// to each who has called lately, a quarter at the most: so who comes back waits
// for nobody's call.
func TestOneAgentLeavesPlacesToOthers(t *testing.T) {
	t.Parallel() // it only computes
	h := newHouse(t, 16)
	h.wait("a", 40)
	h.hold("a", 16)
	h.wait("b", 1)
	h.hold("b", 0) // it has never been here
	h.end("a", 1)
	h.hold("b", 1)
	h.end("b", 1)
	h.hold("a", 15)
	for range 5 {
		h.wait("b", 1)
		h.hold("b", 1)
		h.end("b", 1)
	}
	for _, agent := range []string{"c", "d", "e", "f", "g"} {
		h.wait(agent, 1)
		h.hold(agent, 1)
		h.end(agent, 1)
	}
	h.end("a", 5)
	h.hold("a", 12)
	h.wait("c", 2)
	h.wait("d", 2)
	h.hold("c", 2)
	h.hold("d", 2)
	h.end("c", 2)
	h.end("d", 2)
	h.now = h.now.Add(lately)
	h.serve()
	h.hold("a", 16) // they are gone
}

// Whoever holds fewest places is next, once half of them are taken: each end of
// an agent's long calls is another's turn until they hold the same. Until then
// the shards take turns, for permits are shared out by turns.
func TestWhoHoldsFewestIsNext(t *testing.T) {
	t.Parallel() // it only computes
	h := newHouse(t, 8)
	h.wait("a", 30)
	h.wait("b", 30)
	h.end("a", 4)
	h.hold("a", 4)
	h.hold("b", 4)
	for range 20 { // its calls are quick, and a's come to no more for it
		h.end("b", 1)
		h.hold("a", 4)
	}
	h.wait("c", 1)
	h.end("b", 1)
	h.hold("c", 1)

	h = newHouse(t, 10)
	h.wait("a", 13)
	h.wait("b", 3)
	h.slots, h.order = 100, nil
	h.serve()
	if got := fmt.Sprint(h.order); got != "[a b a b a b]" && got != "[b a b a b a]" {
		t.Errorf("they began in the order %v", got)
	}
}

// Two agents whose calls take long leave the last places to a third.
func TestTwoAgentsLeavePlacesToAThird(t *testing.T) {
	t.Parallel() // it only computes
	h := newHouse(t, 16)
	h.wait("c", 1)
	h.end("c", 1)
	h.wait("a", 30)
	h.wait("b", 30)
	h.end("a", 4)
	if n := h.UnderWay(); n != 15 {
		t.Errorf("%d places are taken", n)
	}
	h.wait("c", 1)
	h.hold("c", 1)
}

// Somebody behind an agent that may have no more, in the line of their shard,
// has its place all the same; and so has one of another lane.
func TestNobodyStandsBehindWhoMayNot(t *testing.T) {
	t.Parallel() // it only computes
	for what, w := range map[string]*Waiter{
		"of the same shard": {Ask: Ask{Call: circuit.Call{Agent: "q"}, Shard: shardOf("a")}},
		"of a slower lane":  {Ask: Ask{Call: circuit.Call{Agent: "q"}, Lane: Batch}},
	} {
		h := newHouse(t, 16)
		h.wait("q", 1)
		h.end("q", 1)
		h.wait("a", 30)
		h.hold("a", 15)
		h.Push(w)
		h.serve()
		if len(h.holds["q"]) != 1 {
			t.Errorf("%s: it waits", what)
		}
	}
}

// No permit is claimed for who may not begin: it would lapse.
func TestNothingIsClaimedForWhoMayNotBegin(t *testing.T) {
	t.Parallel() // it only computes
	l := newLone(ledger.Limits{{N: 1000, Per: 24 * time.Hour}}, 16, nil)
	call := func(agent string) Ask { return Ask{Call: circuit.Call{Agent: agent}, Shard: shardOf(agent)} }
	var held []Turn
	serve := func() {
		for range 2000 {
			l.now = l.now.Add(time.Millisecond)
			grants, _ := l.Serve(l.now, 0)
			for _, g := range grants {
				if g.Agent == "q" {
					l.End(g.Turn, true)
				} else {
					held = append(held, g.Turn)
				}
			}
			if w, _ := l.Plan(l.now); w != nil {
				l.rev++
				l.Won(w, l.rev, l.now)
			}
		}
	}
	l.Push(&Waiter{Ask: call("q")})
	serve()
	for range 30 {
		l.Push(&Waiter{Ask: call("a")})
	}
	serve()
	if len(held) != 15 || l.InHand() > 1 { // one that was claimed before
		t.Errorf("%d calls, %d permits in hand", len(held), l.InHand())
	}
	writes, _, lapsed := l.Traffic()
	serve()
	if again, _, more := l.Traffic(); again != writes || more != lapsed {
		t.Errorf("%d writes and %d lapsed meanwhile", again-writes, more-lapsed)
	}
	l.Push(&Waiter{Ask: call("q")})
	serve()
	if l.Queued() != 15 || l.InHand() != 0 {
		t.Errorf("%d wait, %d permits in hand", l.Queued(), l.InHand())
	}
}

// Whatever agents do: places are never more than there are, none is idle beyond
// what is kept, each is somebody's, and who is gone is forgotten.
func TestPlacesAddUp(t *testing.T) {
	t.Parallel() // it only computes
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 3))
		h := newHouse(t, 1+rng.IntN(40))
		agents := 1 + rng.IntN(300)
		for range 2000 {
			h.now = h.now.Add(time.Duration(rng.IntN(int(100 * time.Millisecond))))
			agent := fmt.Sprint(string(rune('a'+rng.IntN(16))), rng.IntN(1+agents/16))
			switch of := h.holds[agent]; {
			case len(of) > 0 && rng.IntN(3) > 0:
				h.end(agent, 1)
			case len(of) > 0 && rng.IntN(4) == 0: // it lapses, and waits again
				h.holds[agent] = of[:len(of)-1]
				h.Again(&Waiter{Ask: Ask{Call: circuit.Call{Agent: agent}, Shard: shardOf(agent)}}, of[len(of)-1], false)
				h.serve()
			case rng.IntN(50) == 0:
				h.Drop(func(w *Waiter) bool { return w.Agent == agent })
			default:
				h.wait(agent, 1+rng.IntN(4))
			}
			held, waits := 0, 0
			for _, one := range h.guests.of {
				held, waits = held+one.holds, waits+one.waits
			}
			if held != h.UnderWay() || held > h.slots || waits != h.Queued() {
				t.Fatalf("seed %d: %d held, %d under way of %d; %d wait, %d are queued", seed, held, h.UnderWay(), h.slots, waits, h.Queued())
			}
			if idle := h.slots - held; waits > 0 && idle > h.slots/4 {
				t.Fatalf("seed %d: %d of %d places idle while %d wait", seed, idle, h.slots, waits)
			}
		}
	}
	h := newHouse(t, 4)
	for i := range 10_000 {
		agent := fmt.Sprint("a", i)
		h.wait(agent, 1)
		h.end(agent, 1)
		h.now = h.now.Add(time.Second)
	}
	if n := len(h.guests.of); n > 4*fewGuests {
		t.Errorf("%d agents are remembered", n)
	}
}
