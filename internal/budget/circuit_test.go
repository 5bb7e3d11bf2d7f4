package budget

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
)

func (b *bench) opened() int {
	return b.told(KindCircuit, func(e Event) bool { return e.State == circuit.Open })
}

// outage makes a gate open the circuit.
func (b *bench) outage(g *Gate) {
	b.Helper()
	for _, request := range []string{"a", "b", "c"} {
		b.call(g, Unreached, request)
	}
}

func TestCircuitOpensForTheFleet(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g, other := b.open("w1", nil), b.open("w2", nil)
		b.call(g, Unreached, "a")
		b.call(other, Unreached, "a") // the same request: once
		b.call(g, Unreached, "b")
		b.call(other, Success, "c") // ends the row
		b.call(g, Unreached, "a")
		b.call(other, Unreached, "b")
		b.call(g, Throttled, "c") // counts nothing
		b.begin(g, asks("z")).Done(Report{Outcome: Success, Remaining: -1})
		settle()
		if s := other.State(); s.Circuit != circuit.Closed || b.opened() != 0 {
			t.Fatalf("circuit %s, opened %d", s.Circuit, b.opened())
		}
		b.call(g, Unreached, "a")
		b.call(other, Unreached, "b")
		waiting := b.begin(other, asks("z"))
		b.call(g, Unreached, "c")
		now := time.Now()
		b.about(b.refused(g, fetchworker.ReasonCircuitOpen), now.Add(time.Minute))
		b.about(b.refused(other, fetchworker.ReasonCircuitOpen), now.Add(time.Minute))
		if b.opened() != 1 {
			t.Errorf("announced %d times", b.opened())
		}
		waiting.Done(Report{Outcome: Success, Remaining: -1}) // an answer is an answer
		settle()
		if s := g.State(); s.Circuit != circuit.Closed {
			t.Errorf("circuit %s after an answer", s.Circuit)
		}
	})
}

func TestFailureHoldsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		for _, request := range []string{"a", "b", "c"} {
			b.begin(g, asks(request)).Done(Report{Outcome: Unreached, Remaining: -1})
		}
		b.refused(g, fetchworker.ReasonCircuitOpen) // before any round trip
	})
}

func TestWaitersAndPermitsOfAnOpenCircuit(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Concurrency = 2 })
		failing := b.begin(g, asks("z"))
		held, err := g.Acquire(t.Context(), asks("z"))
		if err != nil {
			t.Fatal(err)
		}
		waited := make(chan error, 1)
		go func() {
			_, err := g.Acquire(t.Context(), asks("z"))
			waited <- err
		}()
		synctest.Wait()
		if err := g.Spare(t.Context(), circuit.Call{Operation: "quote", Agent: "alice", Key: "z"}, time.Now()); err != nil {
			t.Fatal(err)
		}
		var closed *ClosedError
		if err := <-waited; !errors.As(err, &closed) {
			t.Errorf("who waited got %v", err)
		}
		if err := held.Start(); !errors.Is(err, ErrLapsed) {
			t.Errorf("a permit started into an open circuit: %v", err)
		}
		held.Done(Report{Remaining: -1})
		failing.Done(Report{Outcome: Unreached, Remaining: -1})
	})
}

func TestOneProbeInTheFleet(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		gates := []*Gate{b.open("w1", nil), b.open("w2", nil), b.open("w3", nil)}
		b.outage(gates[0])
		for round := range 3 {
			time.Sleep(time.Minute + 4*time.Second) // the same call again goes last
			type result struct {
				g *Gate
				p *Permit
			}
			results := make(chan result, 9)
			for _, g := range gates {
				for range 3 {
					go func() {
						p, err := g.Acquire(t.Context(), asks("z"))
						var closed *ClosedError
						if err != nil && !errors.As(err, &closed) {
							t.Error(err)
						}
						results <- result{g, p}
					}()
				}
			}
			var probe *Permit
			for range 9 {
				r := <-results
				if r.p == nil {
					continue
				}
				if probe != nil || !r.p.Probe() {
					t.Fatal("more than one call into a half-open circuit")
				}
				probe = r.p
			}
			if probe == nil {
				t.Fatal("no probe")
			}
			if err := probe.Start(); err != nil {
				t.Fatal(err)
			}
			b.refused(gates[round], fetchworker.ReasonCircuitOpen)
			if round < 2 { // it fails: open again
				probe.Done(Report{Outcome: Unreached, Remaining: -1})
				settle()
				for _, g := range gates { // another call of the prober's agent is not the first
					b.about(b.refused(g, fetchworker.ReasonCircuitOpen), time.Now().Add(time.Minute+2*time.Second))
				}
				continue
			}
			probe.Done(Report{Outcome: Success, Remaining: -1})
		}
		settle()
		for _, g := range gates {
			b.call(g, Success, "")
		}
		if n := b.told(KindCircuit, func(e Event) bool { return e.State == circuit.Closed }); n != 1 {
			t.Errorf("the recovery was announced %d times", n)
		}
	})
}

func TestProberDies(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		dying := b.open("dying", func(s *Settings) { s.CallTimeout = 5 * time.Second })
		g := b.open("w2", nil)
		b.outage(dying)
		time.Sleep(time.Minute)
		b.begin(dying, asks("z"))
		dying.Close()
		settle()
		until := b.refused(g, fetchworker.ReasonCircuitOpen)
		time.Sleep(time.Until(until))
		p := b.begin(g, asks("z"))
		if !p.Probe() {
			t.Error("not a probe")
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
		settle()
		b.call(g, Success, "")
	})
}

func TestProbeWithoutACall(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		b.outage(g)
		time.Sleep(time.Minute)
		p, err := g.Acquire(t.Context(), asks("z"))
		if err != nil {
			t.Fatal(err)
		}
		p.Done(Report{Remaining: -1}) // its request had ended
		settle()
		p = b.begin(g, asks("z"))
		if !p.Probe() {
			t.Error("not a probe")
		}
		p.Done(throttled(time.Second)) // an answer: closed, with a hold
		settle()
		if s := g.State(); s.Circuit != circuit.Closed || s.HoldUntil.IsZero() {
			t.Errorf("circuit %s, hold until %v", s.Circuit, s.HoldUntil)
		}
		b.call(g, Success, "")
	})
}

func TestLapsedProbeIsRenewed(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		b.outage(g)
		time.Sleep(time.Minute)
		p, err := g.Acquire(t.Context(), asks("z"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if err := p.Start(); !errors.Is(err, ErrLapsed) {
			t.Fatal(err)
		}
		if err := p.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.Start(); err != nil || !p.Probe() {
			t.Fatal(err, p.Probe())
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
		settle()
		b.call(g, Success, "")
	})
}

// A probe's connection may turn out closed and be replaced: it starts twice, is
// one call, and its end is the circuit's.
func TestAProbesConnectionIsReplaced(t *testing.T) {
	for outcome, want := range map[Outcome]circuit.State{Success: circuit.Closed, Failure: circuit.Open} {
		bubble(t, func(t *testing.T, b *bench) {
			g := b.open("w1", nil)
			b.outage(g)
			time.Sleep(time.Minute)
			p := b.begin(g, asks("z"))
			for range 2 {
				if err := p.Start(); err != nil || !p.Probe() {
					t.Fatalf("on another connection: %v, a probe %t", err, p.Probe())
				}
			}
			p.Done(Report{Outcome: outcome, Remaining: -1})
			settle()
			if s := g.State(); s.Circuit != want {
				t.Errorf("circuit %s after outcome %d", s.Circuit, outcome)
			}
		})
	}
}

// A probe that gets no other permit in time is none any more: the next may probe
// at once, and does not wait for the end of its lease.
func TestAProbeThatIsNotRenewedLeavesItsLease(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g, other := b.open("w1", nil), b.open("w2", nil)
		b.outage(g)
		time.Sleep(time.Minute)
		p, err := g.Acquire(t.Context(), asks("z"))
		if err != nil || !p.Probe() {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Renew(over); err == nil {
			t.Fatal("renewed for one who has left")
		}
		p.Done(Report{Remaining: -1})
		settle()
		if next := b.begin(other, asks("y")); !next.Probe() {
			t.Error("the next is no probe")
		} else {
			next.Done(Report{Outcome: Success, Remaining: -1})
		}
	})
}

// Two operations that stay open are an outage, also where nobody calls any more.
func TestAnOutageThatNobodyMeets(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Limits = nil })
		for _, key := range []string{"1", "2", "3"} {
			for _, operation := range []string{"quote", "chart"} {
				b.begin(g, ask("alice", operation, key)).Done(Report{Outcome: Failure, Remaining: -1})
			}
		}
		settle()
		if s := g.State(); s.Circuit != circuit.Closed || len(s.Operations) != 2 {
			t.Fatalf("circuit %s, %d operations open", s.Circuit, len(s.Operations))
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if s := g.State(); s.Circuit != circuit.Open {
			t.Errorf("circuit %s, and nothing succeeds", s.Circuit)
		}
	})
}

// A record that is older than what the watch has told was set back: the watch is
// opened anew, or what is known now would hide all that comes.
func TestARecordThatWasSetBack(t *testing.T) {
	behind := 0
	s := newCircuitSync(&memCell{rev: 5}, "w", func(_, _ circuit.Record, _ bool) {}, func() {}, func() { behind++ })
	s.learn(circuit.Record{Circuit: circuit.Circuit{State: circuit.Open}, Writer: "other"}, 9)
	s.post(func(r circuit.Record) circuit.Record { return r.Reset() })
	if s.store(t.Context()) || behind != 1 {
		t.Errorf("told %d times that it was set back", behind)
	}
	s.forget() // as the watch does
	for range 2 {
		s.store(t.Context())
	}
	if s.record().Held() || behind != 1 {
		t.Errorf("%+v", s.record())
	}
}

// ask is an agent's call of an operation.
func ask(agent, operation, key string) turns.Ask {
	return turns.Ask{Call: circuit.Call{Operation: operation, Agent: agent, Key: operation + "/" + key}}
}

func (b *bench) end(g *Gate, a turns.Ask, o Outcome) {
	b.Helper()
	b.begin(g, a).Done(Report{Outcome: o, Remaining: -1})
	settle()
}

// TestOneAgentsFailuresAreItsOwn: what one agent's calls of an operation come
// to holds that agent's calls of it, in every worker. Others go on, one at a
// time, until one of them has shown whether it is the agent or the operation.
func TestOneAgentsFailuresAreItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g, other := b.open("w1", nil), b.open("w2", nil)
		for _, key := range []string{"1", "2", "3"} {
			b.end(g, ask("alice", "quote", key), Failure)
		}
		for _, gate := range []*Gate{g, other} {
			var closed *ClosedError
			if _, err := gate.Acquire(t.Context(), ask("alice", "quote", "4")); !errors.As(err, &closed) || closed.Operation != "quote" || closed.Agent != "alice" || closed.Detail == "" {
				t.Errorf("alice's next: %v", err)
			}
			b.end(gate, ask("alice", "profile", "1"), Success)
		}
		if s := g.State(); s.Circuit != circuit.Closed || len(s.Operations) != 1 {
			t.Errorf("the provider is %s, open are %v", s.Circuit, s.Operations)
		}

		first := b.begin(g, ask("bob", "quote", "1"))
		second := make(chan *Permit, 1)
		go func() { // waits for bob's
			p, err := g.Acquire(t.Context(), ask("carol", "quote", "1"))
			if err != nil {
				t.Error(err)
			}
			second <- p
		}()
		synctest.Wait()
		if len(second) != 0 {
			t.Fatal("two of those who may widen a circuit are called at once")
		}
		first.Done(Report{Outcome: Odd, Remaining: -1}) // shows nothing
		p := <-second
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
		settle()
		b.end(other, ask("alice", "quote", "4"), Success)
		if n := b.opened(); n != 1 {
			t.Errorf("announced %d times", n)
		}
	})
}

// TestTheNextFailureWidens: those who wait for their turn are turned away when
// it shows that it is the operation.
func TestTheNextFailureWidens(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		for _, key := range []string{"1", "2", "3"} {
			b.end(g, ask("alice", "quote", key), Failure)
		}
		first := b.begin(g, ask("bob", "quote", "1"))
		waited := make(chan error, 1)
		go func() {
			_, err := g.Acquire(t.Context(), ask("carol", "quote", "1"))
			waited <- err
		}()
		synctest.Wait()
		first.Done(Report{Outcome: Failure, Remaining: -1})
		var closed *ClosedError
		if err := <-waited; !errors.As(err, &closed) || closed.Agent != "" {
			t.Errorf("carol: %v", err)
		}
		settle()
		if n := b.opened(); n != 2 {
			t.Errorf("announced %d times", n)
		}
		b.end(g, ask("carol", "profile", "1"), Success)
	})
}

// TestInteractiveTakesTheTurn of one who waits for its permit in a slower lane.
func TestInteractiveTakesTheTurn(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Concurrency = 1 })
		for _, key := range []string{"1", "2", "3"} {
			b.end(g, ask("alice", "quote", key), Failure)
		}
		busy := b.begin(g, ask("alice", "profile", "1"))
		got := make(chan string, 3)
		come := func(lane turns.Lane, who string) {
			a := ask(who, "quote", "1")
			a.Lane = lane
			go func() {
				p, err := g.Acquire(t.Context(), a)
				if err != nil {
					t.Error(err)
					return
				}
				got <- who
				p.Done(Report{Outcome: Odd, Remaining: -1})
			}()
			synctest.Wait()
		}
		come(turns.Batch, "bob")
		come(turns.Interactive, "carol")
		g.mu.Lock()
		aside := g.stepAside(g.alone["quote"])
		g.mu.Unlock()
		if aside {
			busy.Done(Report{Outcome: Odd, Remaining: -1})
			t.Fatal("who waits in the fastest lane steps aside: they would do so for each other without end")
		}
		come(turns.Interactive, "dave") // of her own lane, who came later
		busy.Done(Report{Outcome: Odd, Remaining: -1})
		if a, b, c := <-got, <-got, <-got; a != "carol" {
			t.Errorf("%s went first, then %s and %s", a, b, c)
		}
		settle()
		if len(g.alone) != 0 || len(g.probing) != 0 {
			t.Errorf("left behind: %v, %v", g.alone, g.probing)
		}
	})
}

// TestEachCircuitIsProbedByItself: the probe of one takes nothing of another's.
func TestEachCircuitIsProbedByItself(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g, other := b.open("w1", nil), b.open("w2", nil)
		for _, operation := range []string{"ratios", "metrics"} {
			for _, key := range []string{"1", "2", "3"} {
				b.end(g, ask("alice", operation, key), Failure)
				b.end(g, ask("bob", "quote", key), Success)
			}
		}
		time.Sleep(time.Minute)
		ratios, metrics := b.begin(g, ask("alice", "ratios", "4")), b.begin(other, ask("alice", "metrics", "4"))
		if !ratios.Probe() || !metrics.Probe() {
			t.Fatal("not both are probes")
		}
		if _, err := other.Acquire(t.Context(), ask("alice", "ratios", "5")); err == nil {
			t.Error("two probes of one operation")
		}
		ratios.Done(Report{Outcome: Success, Remaining: -1})
		metrics.Done(Report{Outcome: Failure, Bytes: 20 << 20, Remaining: -1})
		settle()
		b.end(other, ask("alice", "ratios", "5"), Success)
		if _, err := g.Acquire(t.Context(), ask("alice", "metrics", "5")); err == nil {
			t.Error("a failed probe closed its circuit")
		}
		if n := b.told(KindBudget, func(e Event) bool { return e.Operation == "metrics" && e.Used == 20<<20 }); n != 1 {
			t.Errorf("a dear probe was told of %d times", n)
		}
	})
}

// TestAProbeThatWasNotMadeLeavesNothing: whatever ends it before its call.
func TestAProbeThatWasNotMadeLeavesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		b.outage(g)
		time.Sleep(time.Minute)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := g.Acquire(gone, ask("bob", "quote", "1")); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		p, err := g.Acquire(t.Context(), ask("bob", "quote", "1"))
		if err != nil || !p.Probe() {
			t.Fatal(err)
		}
		p.Done(Report{Remaining: -1})
		settle()
		p = b.begin(g, ask("bob", "quote", "1"))
		if !p.Probe() {
			t.Error("not a probe")
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
		settle()
		if len(g.alone) != 0 || len(g.probing) != 0 {
			t.Errorf("left behind: %v, %v", g.alone, g.probing)
		}
	})
}

// TestANewerRecordIsLeftAlone: a worker that cannot read what a later version
// wrote has circuits of its own, and writes nothing.
func TestANewerRecordIsLeftAlone(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		newer := []byte(`{"version":99,"state":{"of":"things"}}`)
		if _, err := b.kv.Put(t.Context(), store.CircuitKey("fmp"), newer); err != nil {
			t.Fatal(err)
		}
		settle()
		b.outage(g)
		b.refused(g, fetchworker.ReasonCircuitOpen)
		time.Sleep(time.Minute + 4*time.Second)
		b.call(g, Success, "a")
		b.call(g, Success, "b")
		e, err := b.kv.Get(t.Context(), store.CircuitKey("fmp"))
		if err != nil || string(e.Value()) != string(newer) {
			t.Errorf("%s, %v", e.Value(), err)
		}
		if err := fleet.Resume(t.Context(), b.kv, "fmp"); !errors.Is(err, circuit.ErrNewer) {
			t.Errorf("resume: %v", err)
		}
		if err := b.kv.Delete(t.Context(), store.CircuitKey("fmp")); err != nil {
			t.Fatal(err)
		}
		settle()
		b.outage(g)
		if e, err = b.kv.Get(t.Context(), store.CircuitKey("fmp")); err != nil {
			t.Fatal(err)
		}
		if r, err := circuit.Decode(e.Value()); err != nil || !r.Held() {
			t.Errorf("%s, %v", e.Value(), err)
		}
	})
}

func TestOutage(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g, other := b.open("w1", nil), b.open("w2", nil)
		a := asks("a").Call
		first := time.Now()
		b.call(g, Unreached, "a")
		if !g.Outage(a, first) {
			t.Error("no success since: an outage")
		}
		b.call(other, Success, "b")
		if g.Outage(a, first) || other.Outage(a, first) {
			t.Error("another call has succeeded since: the request is to blame")
		}
		b.call(g, Unreached, "a")
		second := time.Now()
		b.call(g, Unreached, "a")
		if !g.Outage(a, second) {
			t.Error("no success since the second failure")
		}
		if held := g.Holds(a); held != nil {
			t.Errorf("held before anything is open: %v", held)
		}
		if err := g.Spare(t.Context(), a, second); err != nil {
			t.Fatal(err)
		}
		settle()
		b.refused(g, fetchworker.ReasonCircuitOpen)
		b.refused(other, fetchworker.ReasonCircuitOpen)
		if held := other.Holds(a); held == nil || held.Reason != fetchworker.ReasonCircuitOpen || time.Until(held.Until) < 50*time.Second {
			t.Errorf("held: %+v", held)
		}
		if b.opened() != 1 {
			t.Errorf("announced %d times", b.opened())
		}
	})
}

// What succeeded here counts also where the record does not know of it: it was
// lost meanwhile, and in an empty one no success is news.
func TestOutageAfterTheRecordWasLost(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		first := time.Now()
		b.call(g, Unreached, "a")
		if err := b.kv.Delete(t.Context(), store.CircuitKey("fmp")); err != nil {
			t.Fatal(err)
		}
		settle()
		b.call(g, Success, "b")
		b.call(g, Unreached, "a")
		if g.Outage(asks("a").Call, first) {
			t.Error("another call has succeeded since: the request is to blame")
		}
	})
}

func TestCircuitsOff(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.CircuitFailures = 0 })
		b.outage(g)
		if g.Outage(asks("a").Call, time.Now().Add(-time.Hour)) {
			t.Error("circuits are off")
		}
		b.call(g, Success, "")
	})
}

func TestPauseAndResume(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Concurrency = 1 })
		p := b.begin(g, asks("z"))
		waited := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := g.Acquire(ctx, asks("z"))
			waited <- err
		}()
		synctest.Wait()
		until := time.Now().Add(time.Hour)
		if err := fleet.Pause(t.Context(), b.kv, "fmp", until, "alice", "maintenance"); err != nil {
			t.Fatal(err)
		}
		var closed *ClosedError
		if err := <-waited; !errors.As(err, &closed) || closed.Reason != fetchworker.ReasonPaused || !closed.Until.Equal(until) {
			t.Errorf("who waited got %v", err)
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
		b.refused(g, fetchworker.ReasonPaused)
		orders, err := b.kv.Get(t.Context(), store.ControlKey("fmp"))
		if err != nil {
			t.Fatal(err)
		}
		for _, garbled := range []string{"{", "[]", orders.Key(), string(orders.Value()[:len(orders.Value())-1])} { // what cannot be read is no order
			if _, err := b.kv.PutString(t.Context(), store.ControlKey("fmp"), garbled); err != nil {
				t.Fatal(err)
			}
			settle()
			b.refused(g, fetchworker.ReasonPaused)
		}
		if _, err := b.kv.Put(t.Context(), store.ControlKey("fmp"), orders.Value()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		b.refused(g, fetchworker.ReasonPaused) // no probes
		if err := fleet.Resume(t.Context(), b.kv, "fmp"); err != nil {
			t.Fatal(err)
		}
		settle()
		b.call(g, Success, "")

		b.outage(g)
		if err := fleet.Resume(t.Context(), b.kv, "fmp"); err != nil {
			t.Fatal(err)
		}
		settle()
		b.call(g, Success, "")

		if err := fleet.Pause(t.Context(), b.kv, "fmp", time.Now().Add(time.Minute), "alice", "short"); err != nil {
			t.Fatal(err)
		}
		settle()
		time.Sleep(time.Minute)
		b.call(g, Success, "") // it ends by itself
	})
}

// TestRecordsSeenLate do not take a circuit back, unless the server has lost
// what it had and begins anew.
func TestRecordsSeenLate(t *testing.T) {
	told := 0
	s := newCircuitSync(nil, "w", func(_, _ circuit.Record, _ bool) { told++ }, func() {}, func() {})
	open := circuit.Record{Circuit: circuit.Circuit{State: circuit.Open}, Writer: "other"}
	closed := circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, Writer: "other"}
	s.learn(open, 5)
	s.learn(closed, 4)
	s.unreadable(4)
	if !s.record().Held() || s.newer || told != 1 {
		t.Errorf("an older record counts: %+v, told %d times", s.record(), told)
	}
	s.forget()
	s.learn(closed, 1)
	if s.record().Held() {
		t.Error("what a server knows that has begun anew does not count")
	}
	s.unreadable(2)
	s.learn(open, 3)
	if !s.record().Held() || s.newer {
		t.Error("a record that can be read again does not count")
	}
}

// TestNothingIsLeftBehind: whatever becomes of calls (they fail, lapse, end
// before they begin, leave while they wait), once everything is well every
// circuit closes, and no turn or probe is held by nobody.
func TestNothingIsLeftBehind(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		unlimited := func(s *Settings) { s.Limits, s.CircuitOpen, s.Concurrency = nil, 5*time.Second, 4 }
		gates := []*Gate{b.open("w1", unlimited), b.open("w2", unlimited), b.open("w3", unlimited)}
		outcomes := []Outcome{Success, Failure, Failure, Unreached, Unauthorized, Odd, Neutral, Unused}
		var all sync.WaitGroup
		for i := range 36 {
			all.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(i), 7)) // the same calls each time
				for n := range 40 {
					a := ask([]string{"alice", "bob", "carol"}[rng.IntN(3)], []string{"quote", "profile", "chart"}[rng.IntN(3)], fmt.Sprint(rng.IntN(6)))
					a.Lane = turns.Lane(rng.IntN(3))
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(5000))*time.Millisecond)
					p, err := gates[i%3].Acquire(ctx, a)
					if err == nil {
						if rng.IntN(4) == 0 { // it lapses
							time.Sleep(2 * time.Second)
						}
						if err := p.Start(); err != nil && rng.IntN(2) == 0 {
							err = p.Renew(ctx)
							_ = err
						}
						time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
						p.Done(Report{Outcome: outcomes[rng.IntN(len(outcomes))], Remaining: -1})
					}
					cancel()
					time.Sleep(time.Duration(rng.IntN(100*(n%20)+1)) * time.Millisecond)
				}
			})
		}
		all.Wait()
		well := time.Now()
		for gates[0].State().Circuit != circuit.Closed || len(gates[0].State().Operations) > 0 {
			for _, operation := range []string{"quote", "profile", "chart"} {
				for _, agent := range []string{"alice", "bob", "carol"} {
					if p, err := gates[1].Acquire(t.Context(), ask(agent, operation, "well")); err == nil {
						if p.Start() == nil {
							p.Done(Report{Outcome: Success, Remaining: -1})
						}
						p.Done(Report{Remaining: -1})
					}
				}
			}
			time.Sleep(500 * time.Millisecond)
			if time.Since(well) > time.Minute {
				t.Fatalf("open a minute after all is well: %+v", gates[0].circuit.record())
			}
		}
		settle()
		for _, g := range gates {
			if len(g.alone) != 0 || len(g.probing) != 0 || g.State().InFlight != 0 || g.State().Waiting != 0 {
				t.Errorf("left behind: %v, %v, %d in flight, %d waiting", g.alone, g.probing, g.State().InFlight, g.State().Waiting)
			}
			b.end(g, ask("alice", "quote", "last"), Success)
		}
	})
}
