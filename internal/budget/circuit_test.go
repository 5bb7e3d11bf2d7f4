package budget

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/turns"
)

func (b *bench) opened() int {
	return b.told(KindCircuit, func(e Event) bool { return e.State == circuit.Open })
}

// outage makes a gate open the circuit.
func (b *bench) outage(g *Gate) {
	b.Helper()
	for _, request := range []string{"a", "b", "c"} {
		b.call(g, Failure, request)
	}
}

func TestCircuitOpensForTheFleet(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g, other := b.open("w1", nil), b.open("w2", nil)
		b.call(g, Failure, "a")
		b.call(other, Failure, "a") // the same request: once
		b.call(g, Failure, "b")
		b.call(other, Success, "c") // ends the row
		b.call(g, Failure, "a")
		b.call(other, Failure, "b")
		b.call(g, Throttled, "c") // counts nothing
		b.begin(g, turns.Ask{}).Done(Report{Outcome: Success, Remaining: -1})
		settle()
		if s := other.State(); s.Circuit != circuit.Closed || b.opened() != 0 {
			t.Fatalf("circuit %s, opened %d", s.Circuit, b.opened())
		}
		b.call(g, Failure, "a")
		b.call(other, Failure, "b")
		waiting := b.begin(other, turns.Ask{})
		b.call(g, Failure, "c")
		now := time.Now()
		b.about(b.refused(g, fetchworker.ReasonCircuitOpen), now.Add(time.Minute))
		b.about(b.refused(other, fetchworker.ReasonCircuitOpen), now.Add(time.Minute))
		waiting.Done(Report{Outcome: Success, Remaining: -1}) // began before: changes nothing
		settle()
		if s := g.State(); s.Circuit != circuit.Open || b.opened() != 1 {
			t.Errorf("circuit %s, announced %d times", s.Circuit, b.opened())
		}
	})
}

func TestFailureHoldsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		for _, request := range []string{"a", "b", "c"} {
			b.begin(g, turns.Ask{}).Done(Report{Outcome: Failure, Request: request, Remaining: -1})
		}
		b.refused(g, fetchworker.ReasonCircuitOpen) // before any round trip
	})
}

func TestWaitersAndPermitsOfAnOpenCircuit(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Concurrency = 2 })
		failing := b.begin(g, turns.Ask{})
		held, err := g.Acquire(t.Context(), turns.Ask{})
		if err != nil {
			t.Fatal(err)
		}
		waited := make(chan error, 1)
		go func() {
			_, err := g.Acquire(t.Context(), turns.Ask{})
			waited <- err
		}()
		synctest.Wait()
		if err := g.Trip(t.Context(), "outage"); err != nil {
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
		failing.Done(Report{Outcome: Failure, Request: "z", Remaining: -1})
	})
}

func TestOneProbeInTheFleet(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		gates := []*Gate{b.open("w1", nil), b.open("w2", nil), b.open("w3", nil)}
		b.outage(gates[0])
		for round := range 3 {
			time.Sleep(time.Minute)
			type result struct {
				g *Gate
				p *Permit
			}
			results := make(chan result, 9)
			for _, g := range gates {
				for range 3 {
					go func() {
						p, err := g.Acquire(t.Context(), turns.Ask{})
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
				probe.Done(Report{Outcome: Failure, Request: "a", Remaining: -1})
				settle()
				for _, g := range gates {
					b.about(b.refused(g, fetchworker.ReasonCircuitOpen), time.Now().Add(time.Minute))
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
		b.begin(dying, turns.Ask{})
		dying.Close()
		settle()
		until := b.refused(g, fetchworker.ReasonCircuitOpen)
		time.Sleep(time.Until(until))
		p := b.begin(g, turns.Ask{})
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
		p, err := g.Acquire(t.Context(), turns.Ask{})
		if err != nil {
			t.Fatal(err)
		}
		p.Done(Report{Remaining: -1}) // its request had ended
		settle()
		p = b.begin(g, turns.Ask{})
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
		p, err := g.Acquire(t.Context(), turns.Ask{})
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

func TestOutage(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g, other := b.open("w1", nil), b.open("w2", nil)
		first := time.Now()
		b.call(g, Failure, "a")
		if !g.Outage(first) {
			t.Error("no success since: an outage")
		}
		b.call(other, Success, "b")
		if g.Outage(first) || other.Outage(first) {
			t.Error("another call has succeeded since: the request is to blame")
		}
		b.call(g, Failure, "a")
		second := time.Now()
		b.call(g, Failure, "a")
		if !g.Outage(second) {
			t.Error("no success since the second failure")
		}
		if err := g.Trip(t.Context(), "a would run out of retries"); err != nil {
			t.Fatal(err)
		}
		settle()
		b.refused(g, fetchworker.ReasonCircuitOpen)
		b.refused(other, fetchworker.ReasonCircuitOpen)
		if b.opened() != 1 {
			t.Errorf("announced %d times", b.opened())
		}
	})
}

func TestCircuitsOff(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.CircuitFailures = 0 })
		b.outage(g)
		if g.Outage(time.Now().Add(-time.Hour)) {
			t.Error("circuits are off")
		}
		b.call(g, Success, "")
	})
}

func TestPauseAndResume(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Concurrency = 1 })
		p := b.begin(g, turns.Ask{})
		waited := make(chan error, 1)
		go func() {
			_, err := g.Acquire(t.Context(), turns.Ask{})
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
