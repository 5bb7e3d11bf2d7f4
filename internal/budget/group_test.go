package budget

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
)

// withGroups is a provider of 120 calls a minute with an operation that has
// limits of its own, and one whose calls are dear.
func withGroups(s *Settings) {
	s.Groups = map[string]turns.Group{
		"deep": {Limits: ledger.Limits{{N: 4, Per: time.Minute}}, Dearest: 2},
		"":     {Dearest: 50},
	}
}

// Those whose group is out of permits keep nobody else waiting, and are sent
// away with a moment of their own to come back at.
func TestAGroupOutOfPermits(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g, other := b.open("w1", withGroups), b.open("w2", withGroups)
		deep := turns.Ask{Group: "deep", Cost: 2}
		for _, gate := range []*Gate{g, other} {
			b.begin(gate, deep).Done(Report{Outcome: Success, Remaining: -1})
		}
		settle()
		var last time.Time
		for range 5 {
			start := time.Now()
			_, err := g.Acquire(t.Context(), deep)
			var closed *ClosedError
			if !errors.As(err, &closed) || closed.Reason != fetchworker.ReasonQuota || !strings.Contains(closed.Detail, "deep") {
				t.Fatalf("%v", err)
			}
			if d := closed.Until.Sub(start); d < turns.GroupPatience || !closed.Until.After(last) || time.Since(start) > time.Second {
				t.Errorf("sent away until %v, the one before until %v, after %v", d, last, time.Since(start))
			}
			last = closed.Until
			if _, err := other.Acquire(t.Context(), turns.Ask{}); err != nil {
				t.Fatal(err)
			}
			b.call(g, Success, "")
		}
		if s := g.State(); s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("%d in flight, %d waiting", s.InFlight, s.Waiting)
		}
		time.Sleep(time.Minute)
		b.begin(g, deep).Done(Report{Outcome: Success, Remaining: -1})
		v, err := fleet.Watch(t.Context(), b.js, b.kv)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		settle()
		if u := v.Provider("fmp", v.Now()).Groups; len(u) != 1 || u[0].Group != "deep" || u[0].N != 4 || u[0].Left != 2 {
			t.Errorf("the fleet shows %+v", u)
		}
		if u := v.Provider("fmp", v.Now()).Windows; len(u) != 1 || u[0].N != 120 || u[0].Left != 118 {
			t.Errorf("and of the provider %+v", u)
		}
	})
}

// A call that counts as several takes them all at once, or none.
func TestADearCall(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", withGroups)
		dear := turns.Ask{Cost: 50}
		p, err := g.Acquire(t.Context(), dear)
		if err != nil {
			t.Fatal(err)
		}
		p.Done(Report{Remaining: -1}) // not needed: all of it is for others
		for range 2 {
			b.begin(g, dear).Done(Report{Outcome: Success, Remaining: -1})
		}
		settle()
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
		defer stop()
		if _, err := g.Acquire(ctx, dear); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the third of 50 in a minute of 120: %v", err)
		}
		b.call(g, Success, "") // there are 20 left
		if err := fleet.SetLimits(t.Context(), b.kv, "fmp", ledger.Limits{{N: 40, Per: time.Minute}}, time.Time{}, "ann", "x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if until := time.Until(func() time.Time {
			_, err := g.Acquire(t.Context(), dear)
			var closed *ClosedError
			if !errors.As(err, &closed) || closed.Reason != fetchworker.ReasonQuota {
				t.Fatalf("a call that the limit has no room for: %v", err)
			}
			return closed.Until
		}()); until < time.Minute {
			t.Errorf("sent away for %v", until)
		}
	})
}
