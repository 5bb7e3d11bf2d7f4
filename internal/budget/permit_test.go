package budget

import (
	"context"
	"errors"
	"math/rand/v2"
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

// What happens between a permit and its call is seen by the last look.
func TestTheLastLook(t *testing.T) {
	for what, c := range map[string]struct {
		happens func(b *bench, g *Gate, p *Permit)
		starts  bool
	}{
		"nothing": {func(*bench, *Gate, *Permit) {}, true},
		"a hold of another worker's": {func(b *bench, _ *Gate, _ *Permit) {
			b.begin(b.gates[1], asks("other")).Done(throttled(time.Minute))
		}, false},
		"the register is lost": {func(b *bench, _ *Gate, _ *Permit) {
			if err := b.kv.Purge(b.Context(), store.PermitsKey("fmp")); err != nil {
				b.Fatal(err)
			}
		}, false},
		"the machine slept": {func(_ *bench, _ *Gate, p *Permit) { p.w.Turn.Wakes-- }, false},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				g := b.open("w1", nil)
				b.open("w2", nil)
				p, err := g.Acquire(t.Context(), asks("a"))
				if err != nil {
					t.Fatal(err)
				}
				c.happens(b, g, p)
				settle()
				if err := p.Start(); (err == nil) != c.starts || err != nil && !errors.Is(err, ErrLapsed) {
					t.Errorf("started: %v", err)
				}
				p.Done(Report{Remaining: -1})
				if s := g.State(); s.InFlight != 0 {
					t.Errorf("%d in flight", s.InFlight)
				}
			})
		})
	}
}

// What its caller says does not undo a call that went, nor make one of what
// did not.
func TestWhatWentCounts(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Limits = perMinute(5); s.CircuitFailures = 1 })
		b.begin(g, asks("a")).Done(Report{Outcome: Unused, Remaining: -1})
		settle()
		if left := g.State().Left; left != 4 {
			t.Errorf("%d of 5 left after a call that is said not to have been made", left)
		}
		for _, o := range []Outcome{Unused, Neutral, Success, Throttled} {
			p, err := g.Acquire(t.Context(), asks("b"))
			if err != nil {
				t.Fatal(err)
			}
			p.Done(Report{Outcome: o, Remaining: -1}) // not started
			settle()
			if s := g.State(); s.Left != 4 || !s.HoldUntil.IsZero() || s.Circuit != "closed" {
				t.Errorf("outcome %v of no call: %d left, hold until %v, circuit %s", o, s.Left, s.HoldUntil, s.Circuit)
			}
		}
	})
}

// After a hold one goes and the others wait for what it learns. What it learns
// nothing from makes the next one go at once.
func TestATrialThatLearntNothing(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g, other := b.open("w1", nil), b.open("w2", nil)
		b.begin(g, turns.Ask{}).Done(throttled(2 * time.Second))
		p := b.begin(g, turns.Ask{})
		got := make(chan time.Time, 1)
		go func() {
			b.begin(other, turns.Ask{}).Done(Report{Outcome: Success, Remaining: -1})
			got <- time.Now()
		}()
		time.Sleep(5 * time.Second)
		select {
		case <-got:
			t.Fatal("a second trial beside the first")
		default:
		}
		ended := time.Now()
		p.Done(Report{Outcome: Neutral, Remaining: -1})
		if d := (<-got).Sub(ended); d > 3*time.Second {
			t.Errorf("the next one %v later, of another worker", d)
		}
	})
}

// Who leaves without a call lets others have the part it had in a circuit.
func TestAPartIsLeft(t *testing.T) {
	for what, leaves := range map[string]func(b *bench, g *Gate){
		"it may widen what is open, and its time ends before it has a permit": func(b *bench, g *Gate) {
			for range 5 {
				b.begin(g, ask("alice", "other", "x")) // all slots are taken
			}
			ctx, cancel := context.WithTimeout(b.Context(), time.Second)
			defer cancel()
			if _, err := g.Acquire(ctx, ask("bob", "quote", "z")); !errors.Is(err, context.DeadlineExceeded) {
				b.Errorf("got %v", err)
			}
		},
		"its permit lapsed, and it gets no other": func(b *bench, g *Gate) {
			p, err := g.Acquire(b.Context(), ask("alice", "quote", "z"))
			if err != nil {
				b.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			if err := p.Start(); !errors.Is(err, ErrLapsed) {
				b.Fatalf("started late: %v", err)
			}
			if err := fleet.Pause(b.Context(), b.kv, "fmp", time.Now().Add(time.Hour), "bea", "too slow"); err != nil {
				b.Fatal(err)
			}
			settle()
			var closed *ClosedError
			if err := p.Renew(b.Context()); !errors.As(err, &closed) {
				b.Errorf("renewed: %v", err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				g := b.open("w1", func(s *Settings) { s.Concurrency = 5 })
				for i := range 3 {
					b.end(g, ask("alice", "quote", string(rune('a'+i))), Failure)
				}
				settle()
				time.Sleep(time.Minute + time.Second) // the next of the operation is its probe
				leaves(b, g)
				settle()
				g.mu.Lock()
				probing, alone := len(g.probing), len(g.alone)
				g.mu.Unlock()
				if probing+alone > 0 {
					t.Errorf("%d probing, %d alone are left", probing, alone)
				}
			})
		})
	}
}

// A request is not sent away for hours while its own claim is on its way: the
// watch may show the last permit as taken before the answer says by whom.
func TestTheLastPermitOfTheDay(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Limits = ledger.Limits{{N: 1, Per: 24 * time.Hour}} })
		acquired := make(chan error, 1)
		go func() {
			p, err := g.Acquire(b.Context(), asks("a"))
			if err == nil {
				p.Done(Report{Remaining: -1})
			}
			acquired <- err
		}()
		synctest.Wait()
		if err := <-acquired; err != nil {
			t.Errorf("the one permit of the day was not had: %v", err)
		}
	})
}

// Two workers that go for a probe in the same moment: one calls, the other is
// told that the circuit is open, and holds nothing afterwards.
func TestTheRaceForAProbe(t *testing.T) {
	theRaceForAProbe(t, "w1", "w2", 7)
}

// So it is with the one that a restarted worker has left, which has its name.
func TestTheRaceForAProbeWithOnesOwnName(t *testing.T) {
	theRaceForAProbe(t, "w1", "w1", 8)
}

func theRaceForAProbe(t *testing.T, one, another string, seed uint64) {
	t.Helper()
	bubble(t, func(t *testing.T, b *bench) {
		wait := func(seed uint64) func(s *Settings) {
			return func(s *Settings) {
				s.Rand = rand.New(rand.NewPCG(7, seed))
				s.Limits = nil // neither waits for its permit
			}
		}
		gates := []*Gate{b.open(one, wait(7)), b.open(another, wait(seed))}
		b.outage(gates[0])
		for _, g := range gates {
			g.circuit.cell = slow{g.circuit.cell, mostProbeWait} // until then the other goes, too
		}
		time.Sleep(time.Minute + time.Second)
		type result struct {
			p   *Permit
			err error
		}
		results := make(chan result, len(gates))
		for _, g := range gates {
			go func() {
				p, err := g.Acquire(b.Context(), asks("z"))
				results <- result{p, err}
			}()
		}
		var probes []*Permit
		for range gates {
			r := <-results
			var closed *ClosedError
			switch {
			case r.err == nil:
				probes = append(probes, r.p)
			case !errors.As(r.err, &closed):
				t.Error(r.err)
			}
		}
		if len(probes) != 1 || probes[0].Start() != nil {
			t.Fatalf("%d may call", len(probes))
		}
		in := 0
		for _, g := range gates {
			in += g.State().InFlight
		}
		if in != 1 {
			t.Errorf("%d in flight, want the probe", in)
		}
		probes[0].Done(Report{Outcome: Success, Remaining: -1})
		time.Sleep(time.Second) // until that is written
		for _, g := range gates {
			b.call(g, Success, "")
		}
	})
}

// The probe of an operation is not made when the provider's own circuit has
// opened meanwhile: that has a probe of its own.
func TestAProbeOfLessThanWhatIsOpen(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g, other := b.open("w1", nil), b.open("w2", nil)
		for _, key := range []string{"1", "2", "3"} {
			b.end(g, ask("alice", "quote", key), Failure)
		}
		time.Sleep(time.Minute + time.Second)
		p, err := g.Acquire(t.Context(), ask("alice", "quote", "1"))
		if err != nil || !p.Probe() {
			t.Fatalf("no probe: %v", err)
		}
		for i := range 3 {
			b.end(other, ask("carol", "search", string(rune('a'+i))), Unreached)
		}
		settle()
		if s := other.State(); s.Circuit != circuit.Open {
			t.Fatalf("the provider's circuit is %s", s.Circuit)
		}
		if err := p.Start(); !errors.Is(err, ErrLapsed) {
			t.Errorf("started: %v", err)
		}
		p.Done(Report{Remaining: -1})
	})
}

// slow is a cell whose writes take a while.
type slow struct {
	store.Cell
	wait time.Duration
}

func (s slow) Put(ctx context.Context, value []byte, rev uint64) (uint64, error) {
	time.Sleep(s.wait)
	return s.Cell.Put(ctx, value, rev) //nolint:wrapcheck // as it is
}

// A worker that stops while it writes also leaves what came meanwhile.
func TestLastWords(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		a, other := b.open("a", nil), b.open("b", nil)
		a.circuit.cell = slow{a.circuit.cell, 50 * time.Millisecond}
		for _, key := range []string{"r1", "r2", "r3"} {
			b.begin(a, asks(key)).Done(Report{Outcome: Failure, Remaining: -1})
			synctest.Wait() // each is on its way
		}
		a.Close()
		settle()
		b.refused(other, fetchworker.ReasonCircuitOpen)
	})
}

// A trial does not start either when one who was on its way before it has met
// another 429.
func TestATrialDuringAnotherHold(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g, other := b.open("w1", nil), b.open("w2", nil)
		late := b.begin(other, asks("late"))
		b.begin(g, asks("a")).Done(throttled(2 * time.Second))
		trial, err := g.Acquire(t.Context(), asks("b"))
		if err != nil {
			t.Fatal(err)
		}
		late.Done(throttled(time.Minute))
		settle()
		if err := trial.Start(); !errors.Is(err, ErrLapsed) {
			t.Errorf("started: %v", err)
		}
		trial.Done(Report{Remaining: -1})
	})
}
