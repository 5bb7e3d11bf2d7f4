package budget

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/turns"
)

func throttled(after time.Duration) Report {
	return Report{Outcome: Throttled, RetryAfter: after, Remaining: -1}
}

func TestHoldStopsTheFleet(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		gates := []*Gate{b.open("w1", nil), b.open("w2", nil), b.open("w3", nil)}
		begun, err := gates[1].Acquire(t.Context(), turns.Ask{})
		if err != nil {
			t.Fatal(err)
		}
		hold := time.Now()
		b.begin(gates[0], turns.Ask{}).Done(throttled(30 * time.Second))
		settle()
		if err := begun.Start(); !errors.Is(err, ErrLapsed) {
			t.Errorf("a permit of before the hold started: %v", err)
		}
		begun.Done(Report{Remaining: -1})

		// Everyone wants to call; one probe goes after the hold, and the others
		// only when it is answered.
		var p provider
		var probe time.Time
		var all sync.WaitGroup
		for _, g := range gates {
			for range 3 {
				all.Go(func() {
					permit := b.begin(g, turns.Ask{})
					p.mu.Lock()
					if probe.IsZero() {
						probe = time.Now()
					} else if time.Since(probe) < 5*time.Second {
						t.Errorf("a second call %v after the probe started", time.Since(probe))
					}
					p.mu.Unlock()
					p.call(5 * time.Second)
					permit.Done(Report{Outcome: Success, Remaining: -1})
				})
			}
		}
		all.Wait()
		if d := probe.Sub(hold); d < 30*time.Second || d > 32*time.Second {
			t.Errorf("the probe came after %v, want 30 s", d)
		}
		if n := b.told(KindThrottle, func(e Event) bool { return e.Severity == SeverityWarning }); n != 1 {
			t.Errorf("the hold was announced %d times", n)
		}
	})
}

func TestHoldsDouble(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		last := time.Now()
		for strike, seconds := range []int{0, 1, 2, 4, 8, 16} {
			// Two calls under way meet the same 429: one strike, not two.
			p := b.begin(g, turns.Ask{})
			d, want := time.Since(last), time.Duration(seconds)*time.Second
			if strike > 0 && (d < want*8/10 || d > want*12/10+2*time.Second) {
				t.Errorf("probe %d after %v, want about %v", strike, d, want)
			}
			last = time.Now()
			if strike == 0 {
				other := b.begin(g, turns.Ask{})
				p.Done(throttled(0))
				other.Done(throttled(0))
				continue
			}
			p.Done(throttled(0))
		}
		p := b.begin(g, turns.Ask{})
		p.Done(Report{Outcome: Success, Remaining: -1})
		settle()
		last = time.Now()
		b.begin(g, turns.Ask{}).Done(throttled(0))
		b.begin(g, turns.Ask{}).Done(Report{Outcome: Success, Remaining: -1})
		if d := time.Since(last); d > 3*time.Second {
			t.Errorf("a success did not reset the wait: %v", d)
		}
	})
}

func TestLongHoldSendsAway(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g, other := b.open("w1", func(s *Settings) { s.Concurrency = 1 }), b.open("w2", nil)
		p := b.begin(g, turns.Ask{})
		var err error
		var waits sync.WaitGroup
		waits.Go(func() { _, err = g.Acquire(t.Context(), turns.Ask{}) })
		settle()
		now := time.Now()
		p.Done(throttled(10 * time.Minute))
		waits.Wait()
		var closed *ClosedError
		if !errors.As(err, &closed) || closed.Reason != fetchworker.ReasonThrottled {
			t.Fatalf("who waited got %v", err)
		}
		settle()
		b.about(b.refused(other, fetchworker.ReasonThrottled), now.Add(10*time.Minute))
		if err := fleet.Resume(t.Context(), b.kv, "fmp"); err != nil {
			t.Fatal(err)
		}
		settle()
		b.call(other, Success, "")
	})
}

func TestHoldProberDies(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		dying := b.open("dying", func(s *Settings) { s.CallTimeout = 5 * time.Second })
		g := b.open("w2", nil)
		b.begin(dying, turns.Ask{}).Done(throttled(2 * time.Second))
		b.begin(dying, turns.Ask{}) // the probe; its worker dies: no Done
		dying.Close()
		start := time.Now()
		p := b.begin(g, turns.Ask{})
		if d := time.Since(start); d < 8*time.Second || d > 15*time.Second {
			t.Errorf("the next probe came after %v, want the lease of 10 s", d)
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
	})
}

func TestUnusedProbeGoesToTheNext(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		b.begin(g, turns.Ask{}).Done(throttled(2 * time.Second))
		p, err := g.Acquire(t.Context(), turns.Ask{})
		if err != nil {
			t.Fatal(err)
		}
		p.Done(Report{Remaining: -1})
		start := time.Now()
		b.begin(g, turns.Ask{}).Done(Report{Outcome: Neutral, Remaining: -1}) // learns nothing
		b.begin(g, turns.Ask{}).Done(Report{Outcome: Success, Remaining: -1})
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("the next probes took %v", d)
		}
	})
}

func TestRemainingSlowsDown(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		// Somebody else calls with our key: 3 are left by the provider's count.
		b.begin(g, turns.Ask{}).Done(Report{Outcome: Success, Remaining: 3, Reset: 30 * time.Second})
		for shard := range 3 {
			b.begin(g, turns.Ask{Shard: shard, Alone: true}).Done(Report{Outcome: Success, Remaining: 500})
		}
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		if p, err := g.Acquire(ctx, turns.Ask{Shard: 9, Alone: true}); err == nil {
			p.Done(Report{Remaining: -1})
			t.Error("the provider's count did not slow us down")
		}
		time.Sleep(50 * time.Second)
		b.call(g, Success, "") // it is forgotten after a window
	})
}

// A 429 of a call from before the hold is none of its trial's, whoever made both:
// the wait is not doubled for it, and the trial's answer ends it.
func TestALate429IsNotTheTrials(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		late := b.begin(g, asks("late"))
		b.begin(g, asks("a")).Done(throttled(3 * time.Second))
		trial := b.begin(g, asks("b"))
		late.Done(throttled(0))
		settle()
		g.mu.Lock()
		r := g.planner.Effective(g.clock.Read().At)
		g.mu.Unlock()
		if r.Strikes != 1 {
			t.Errorf("%d strikes after one refusal and one that was on its way", r.Strikes)
		}
		trial.Done(Report{Outcome: Success, Remaining: -1})
		settle()
		began := time.Now()
		b.call(g, Success, "c")
		if wait := time.Since(began); wait > time.Second {
			t.Errorf("a call waits for %v after the trial was answered", wait)
		}
	})
}
