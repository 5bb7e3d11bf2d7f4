package turns

import (
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"
)

// hold puts a hold into what a lone planner knows, and lets its time pass.
func (l *lone) hold(d time.Duration) {
	now := l.now
	l.Post(now, func(r *ledger.Register, _ ledger.Instant) { r.Throttled(now, "", d, 0, 0.5) })
	l.run(d+time.Millisecond, func(Grant) {})
}

// After a hold one call goes, whoever waits in how many lines.
func TestOneTrialOfAllLines(t *testing.T) {
	l := newLone(perMinute(600), 8, map[string]Group{"deep": {Limits: perMinute(600), Dearest: 3}})
	l.hold(time.Second)
	for range 3 {
		l.Push(&Waiter{Ask: Ask{Shard: 9, Alone: true}})
		l.Push(&Waiter{Ask: Ask{Group: "deep", Shard: 3, Alone: true}})
		l.Push(&Waiter{Ask: Ask{Cost: 3, Shard: 5, Alone: true}})
	}
	var out []Grant
	for end := l.now.Add(5 * time.Second); l.now < end; l.now = l.now.Add(10 * time.Millisecond) {
		grants, _ := l.Serve(l.now, 0)
		out = append(out, grants...)
		if w, _ := l.Plan(l.now); w != nil {
			l.rev++
			l.Won(w, l.rev, l.now)
		}
	}
	if len(out) != 1 || !out[0].Trial {
		t.Errorf("%d calls before the first was answered", len(out))
	}
}

// A trial whose claim was stored and never heard of is this worker's to claim
// again, and not to wait for: none of its calls is one, whatever it called
// before.
func TestATrialThatNobodyHeardOf(t *testing.T) {
	l := newLone(perMinute(600), 8, nil)
	call := func() (trial bool) {
		l.Push(&Waiter{Ask: Ask{Shard: 9, Alone: true}})
		served := false
		l.run(3*time.Second, func(g Grant) {
			if served, trial = true, g.Trial; trial {
				l.Post(l.now, func(r *ledger.Register, _ ledger.Instant) { r.Settled("w") })
			}
		})
		if !served {
			t.Fatal("no permit in three seconds")
		}
		return trial
	}
	if call() {
		t.Error("a trial, and there was no hold")
	}
	l.hold(time.Second)
	if !call() {
		t.Error("no trial after a hold")
	}
	if l.hold(time.Second); l.trials != 0 {
		t.Fatalf("%d trials under way, and nobody calls", l.trials)
	}
	l.Push(&Waiter{Ask: Ask{Shard: 9, Alone: true}})
	w, now := plan(t, l.Planner, l.now)
	if len(w.Blocks) != 1 {
		t.Fatalf("%+v", w.Blocks)
	}
	l.rev++
	l.now = now.Add(10 * time.Millisecond)
	l.Unknown(w, l.now)
	l.Learn(w.Reg, l.rev) // it was stored after all
	l.Drop(func(*Waiter) bool { return true })
	if !call() {
		t.Error("no trial")
	}
}

// Where none is free now but one will be soon, one waits for it.
func TestOneWaitsForAGroupsNext(t *testing.T) {
	l := newLone(perMinute(600), 8, map[string]Group{"deep": {Limits: perMinute(2), Dearest: 2}})
	ask := Ask{Group: "deep", Cost: 2, Shard: 3, Alone: true}
	l.Push(&Waiter{Ask: ask})
	l.run(53*time.Second, func(Grant) {})
	for range 3 {
		l.Push(&Waiter{Ask: ask})
	}
	var away []Away
	for end := l.now.Add(12 * time.Second); l.now < end; l.now = l.now.Add(10 * time.Millisecond) {
		grants, _ := l.Serve(l.now, 0)
		for _, g := range grants {
			l.served["deep interactive"]++
			l.End(g.Turn, true)
		}
		l.Hopeless(l.now, func(_ *Waiter, a Away) { away = append(away, a) })
		if w, _ := l.Plan(l.now); w != nil {
			l.rev++
			l.Won(w, l.rev, l.now)
		}
	}
	if len(away) != 2 || l.served["deep interactive"] != 2 {
		t.Errorf("%d sent away, %v served", len(away), l.served)
	}
}

// Who is sent away for a group's limits is told a moment of its own.
func TestEachIsPromisedAMomentOfItsOwn(t *testing.T) {
	l := newLone(perMinute(600), 8, map[string]Group{"deep": {Limits: ledger.Limits{{N: 1, Per: time.Hour}}, Dearest: 1}})
	ask := Ask{Group: "deep", Shard: 3}
	l.Push(&Waiter{Ask: ask})
	l.run(time.Second, func(Grant) {})
	for range 4 {
		l.Push(&Waiter{Ask: ask})
	}
	seen := map[ledger.Instant]bool{}
	l.Hopeless(l.now, func(_ *Waiter, a Away) {
		if seen[a.Until] || a.Until.Sub(l.now) < 50*time.Minute {
			t.Errorf("promised in %v", a.Until.Sub(l.now))
		}
		seen[a.Until] = true
	})
	if len(seen) != 4 {
		t.Errorf("%d sent away", len(seen))
	}
}
