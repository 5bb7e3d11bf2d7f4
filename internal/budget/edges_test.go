package budget

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
)

var perMinuteAndDay = ledger.Limits{{N: 60, Per: time.Minute}, {N: 100, Per: 24 * time.Hour}}

// TestLostInAMixedFleet: the loss of a register is seen by a worker that has no
// limits, and counts for those who have.
func TestLostInAMixedFleet(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		free := b.open("free", func(s *Settings) { s.Limits = nil })
		b.call(free, circuit.Success, "")
		if err := b.kv.Purge(t.Context(), store.PermitsKey("fmp")); err != nil {
			t.Fatal(err)
		}
		settle()
		g := b.open("w1", func(s *Settings) { s.Limits = perMinuteAndDay })
		if s := g.State(); s.Left != 0 {
			t.Errorf("%d left after the register was lost", s.Left)
		}
		if d := time.Until(b.refused(g, fetchworker.ReasonQuota)); d < 24*time.Hour || d > 25*time.Hour {
			t.Errorf("the next permit in %v", d)
		}
	})
}

// TestUnlimitedForAWhile: calls that were made while there was no limit count
// when there is one again.
func TestUnlimitedForAWhile(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		day := func(s *Settings) { s.Limits = ledger.Limits{{N: 100, Per: 24 * time.Hour}} }
		g, other := b.open("w1", day), b.open("w2", day)
		for range 10 {
			b.call(g, circuit.Success, "")
		}
		if err := fleet.SetLimits(t.Context(), b.kv, "fmp", nil, time.Now().Add(10*time.Minute), "alice", "they said so"); err != nil {
			t.Fatal(err)
		}
		settle()
		before := g.State().Writes
		for range 500 {
			b.begin(g, turns.Ask{}).Done(Report{Outcome: circuit.Success, Remaining: -1})
			time.Sleep(100 * time.Millisecond)
		}
		if writes := g.State().Writes - before; writes > 110 {
			t.Errorf("%d writes for 50 seconds of calls", writes)
		}
		time.Sleep(10 * time.Minute)
		for _, g := range []*Gate{g, other} {
			if s := g.State(); s.Left != 0 || len(s.Limits) != 1 {
				t.Errorf("%d left of 100 after 510 calls, limits %v", s.Left, s.Limits)
			}
		}
	})
}

// TestSomebodyHasNoLimit: a worker without limits counts its calls for the one
// that has, also before that one makes any.
func TestSomebodyHasNoLimit(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		limited := b.open("w1", func(s *Settings) { s.Limits = perMinuteAndDay })
		free := b.open("free", func(s *Settings) { s.Limits = nil })
		time.Sleep(2 * time.Second)
		for range 30 {
			b.call(free, circuit.Success, "")
		}
		unused, err := free.Acquire(t.Context(), turns.Ask{})
		if err != nil {
			t.Fatal(err)
		}
		unused.Done(Report{Remaining: -1})
		time.Sleep(2 * time.Second)
		if left := limited.State().Left; left != 30 {
			t.Errorf("%d left of 60 after 30 calls", left)
		}
	})
}

// TestNewerRegister: a register that only newer workers can read is theirs.
func TestNewerRegister(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("old", nil)
		b.call(g, circuit.Success, "")
		newer := []byte{9, 1, 2, 3}
		if _, err := b.kv.Put(t.Context(), store.PermitsKey("fmp"), newer); err != nil {
			t.Fatal(err)
		}
		settle()
		late := b.open("old too", nil)
		for _, g := range []*Gate{g, late} {
			p, err := g.Acquire(t.Context(), turns.Ask{})
			var unable *UnableError
			if p != nil || !errors.As(err, &unable) {
				t.Errorf("permit %v, error %v", p != nil, err)
			}
		}
		if err := fleet.Resume(t.Context(), b.kv, "fmp"); !errors.Is(err, ledger.ErrNewer) {
			t.Errorf("resumed: %v", err)
		}
		time.Sleep(5 * time.Minute)
		if e, err := b.kv.Get(t.Context(), store.PermitsKey("fmp")); err != nil || !bytes.Equal(e.Value(), newer) {
			t.Errorf("it was replaced: %v %v", e, err)
		}
		if n := b.told(KindThrottle, func(e Event) bool { return e.Severity == SeverityError }); n != 2 {
			t.Errorf("told %d times", n)
		}
		// Once there is one that it can read, it goes on.
		if _, err := b.kv.Put(t.Context(), store.PermitsKey("fmp"), ledger.New(1).Encode()); err != nil {
			t.Fatal(err)
		}
		settle()
		b.call(g, circuit.Success, "")
	})
}

// TestUnusedPermitsOfTheDay: what one worker claimed and did not use another
// has within a second.
func TestUnusedPermitsOfTheDay(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		twice := func(s *Settings) { s.Limits = ledger.Limits{{N: 2, Per: 24 * time.Hour}} }
		a, other := b.open("a", twice), b.open("b", twice)
		for range 2 { // it cannot dial
			p, err := a.Acquire(t.Context(), turns.Ask{})
			if err != nil {
				t.Fatal(err)
			}
			p.Done(Report{Outcome: circuit.Unreached, Remaining: -1})
		}
		time.Sleep(time.Second)
		b.begin(other, turns.Ask{}).Done(Report{Outcome: circuit.Success, Remaining: -1})
		b.begin(other, turns.Ask{}).Done(Report{Outcome: circuit.Success, Remaining: -1})
		b.refused(other, fetchworker.ReasonQuota)
	})
}

// TestStopGivesBack: a worker that stops hands in what it has not used, and the
// hold of its last 429.
func TestStopGivesBack(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		twice := func(s *Settings) { s.Limits = ledger.Limits{{N: 2, Per: 24 * time.Hour}} }
		a, other := b.open("a", twice), b.open("b", twice)
		p, err := a.Acquire(t.Context(), turns.Ask{})
		if err != nil {
			t.Fatal(err)
		}
		p.Done(Report{Remaining: -1})
		a.Close()
		settle()
		if left := other.State().Left; left != 2 {
			t.Errorf("%d left of 2 after a worker stopped that called nobody", left)
		}
		third := b.open("c", twice)
		b.begin(third, turns.Ask{}).Done(Report{Outcome: circuit.Throttled, RetryAfter: time.Minute, Remaining: -1})
		third.Close()
		settle()
		if s := other.State(); s.HoldUntil.IsZero() {
			t.Error("the hold of the last 429 went with its worker")
		}
	})
}

// TestStopWithoutAServer: the last write does not keep a worker from stopping.
func TestStopWithoutAServer(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("a", nil)
		p := b.begin(g, turns.Ask{})
		settle()
		b.stop()
		p.Done(Report{Outcome: circuit.Throttled, RetryAfter: time.Minute, Remaining: -1})
		start := time.Now()
		g.Close()
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("stopped after %v", d)
		}
		b.start()
	})
}

// TestForeignCallsAreTold: a provider's own count slows down for as long as it
// says, and somebody is told.
func TestForeignCallsAreTold(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Limits = ledger.Limits{{N: 100, Per: 24 * time.Hour}} })
		b.begin(g, turns.Ask{}).Done(Report{Outcome: circuit.Success, Remaining: 0, Reset: time.Hour})
		time.Sleep(time.Second)
		if d := time.Until(b.refused(g, fetchworker.ReasonQuota)); d < 59*time.Minute || d > 70*time.Minute {
			t.Errorf("the next permit in %v, the provider counts anew in an hour", d)
		}
		if n := b.told(KindThrottle, func(e Event) bool { return e.Calls == 99 }); n != 1 {
			t.Errorf("told %d times", n)
		}
		if s := g.State(); s.Foreign != 99 {
			t.Errorf("%d foreign calls counted", s.Foreign)
		}
	})
}

// TestForeignCallsAreToldNowAndThen: that somebody else uses the key is told once
// a minute, however often a provider counts more.
func TestForeignCallsAreToldNowAndThen(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", aDay(1000))
		warned := func() int { return b.told(KindThrottle, func(e Event) bool { return e.Calls > 0 }) }
		for n := range 25 {
			b.begin(g, turns.Ask{}).Done(Report{Outcome: circuit.Success, Remaining: 900 - 10*n, Reset: time.Hour})
			time.Sleep(2 * time.Second)
		}
		if n := warned(); n != 1 {
			t.Errorf("told %d times in %v", n, 50*time.Second)
		}
		time.Sleep(time.Minute)
		b.begin(g, turns.Ask{}).Done(Report{Outcome: circuit.Success, Remaining: 100, Reset: time.Hour})
		time.Sleep(2 * time.Second)
		if n := warned(); n != 2 {
			t.Errorf("told %d times, the second a minute later", n)
		}
	})
}

// TestAnOrdersEndAtAGateAtRest: an order ends when it says, also where nobody has
// called for a while before it came.
func TestAnOrdersEndAtAGateAtRest(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Limits = ledger.Limits{{N: 600, Per: time.Minute}} })
		for rest := 20 * time.Second; rest < 30*time.Second; rest += time.Second { // wherever its looks fall
			time.Sleep(rest)
			if err := fleet.SetLimits(t.Context(), b.kv, "fmp", ledger.Limits{{N: 1, Per: time.Minute}}, time.Now().Add(3*time.Second), "alice", "slowly"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(4200 * time.Millisecond)
			began := time.Now()
			for range 3 {
				b.begin(g, turns.Ask{}).Done(Report{Outcome: circuit.Success, Remaining: -1})
			}
			if wait := time.Since(began); wait > time.Second {
				t.Fatalf("three calls take %v after the order's end", wait)
			}
		}
	})
}

// TestClockThatWasAhead: a claim made while the server's clock was a year ahead
// blocks nobody for longer than a lost register does.
func TestClockThatWasAhead(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		shapes := ledger.NewShapes(perMinute(120))
		ahead := ledger.InstantOf(time.Now().Add(365 * 24 * time.Hour))
		r, _, _ := ledger.New(1).Claim(shapes, ahead, ledger.Order{Class: ledger.Light, Want: 1, Patience: turns.Patience})
		if _, err := b.kv.Put(t.Context(), store.PermitsKey("fmp"), r.Encode()); err != nil {
			t.Fatal(err)
		}
		settle()
		start := time.Now()
		b.call(g, circuit.Success, "")
		if d := time.Since(start); d < time.Minute || d > 65*time.Second {
			t.Errorf("the next call after %v", d)
		}
	})
}

// TestHoldsOfAServerThatIsAway: what waits for the register to be written is
// bounded.
func TestHoldsOfAServerThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := turns.NewPlanner("w", nil, 1, time.Second, newRand())
		for range 5000 {
			p.Post(simStart, func(*ledger.Register, ledger.Instant) {})
		}
		p.Learn(ledger.New(1), 1)
		if w, _ := p.Plan(simStart); w == nil {
			t.Error("nothing is written")
		}
	})
}

// TestStopTellsTheLastFailure: the failure that a worker meets just before it
// stops counts for the fleet.
func TestStopTellsTheLastFailure(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		a, other := b.open("a", nil), b.open("b", nil)
		b.call(other, circuit.Failure, "r1")
		b.call(other, circuit.Failure, "r2")
		b.begin(a, asks("r3")).Done(Report{Outcome: circuit.Failure, Remaining: -1})
		a.Close()
		settle()
		b.refused(other, fetchworker.ReasonCircuitOpen)
	})
}

// TestTwoCallsOfADay: three workers, two calls a day, and a provider that
// refuses connections half of the time: both calls are made.
func TestTwoCallsOfADay(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		clock, err := store.StartClock(t.Context(), b.js) // one for all: it is looked at for days
		if err != nil {
			t.Fatal(err)
		}
		defer clock.Close()
		var gates []*Gate
		for _, name := range []string{"a", "b", "c"} {
			gates = append(gates, b.open(name, func(s *Settings) {
				s.Clock = clock
				s.Limits, s.CircuitFailures = ledger.Limits{{N: 2, Per: 24 * time.Hour}}, 0
			}))
		}
		days := 3
		if testing.Short() {
			days = 1
		}
		for day := range days {
			if day > 0 {
				time.Sleep(25 * time.Hour)
			}
			made := 0
			for try := 0; try < 60 && made < 2; try++ {
				p, err := gates[try%3].Acquire(t.Context(), turns.Ask{Lane: turns.Lane(try % 2 * 2)})
				if err != nil { // another has it still, for less than a second
					time.Sleep(time.Second)
					continue
				}
				if (try/2+day)%2 == 0 { // refused
					p.Done(Report{Outcome: circuit.Failure, Remaining: -1})
					continue
				}
				if err := p.Start(); err != nil {
					t.Fatal(err)
				}
				p.Done(Report{Outcome: circuit.Success, Remaining: -1})
				made++
			}
			if made != 2 {
				t.Errorf("day %d: %d calls of 2", day, made)
			}
			b.refused(gates[day], fetchworker.ReasonQuota)
		}
	})
}
