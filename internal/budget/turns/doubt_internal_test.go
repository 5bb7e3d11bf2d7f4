package turns

import (
	"math/rand/v2"
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"
)

// A write that was planned and never sent changes nothing: the seats that it
// would have given up are still there to call on.
func TestAWriteThatWasNeverSentGivesNoSeatUp(t *testing.T) {
	l, calls := seatedLone(t)
	for _, c := range calls {
		l.End(c, true)
	}
	gone, now := plan(t, l.Planner, l.now)
	if n, _ := gone.Reg.Seats("w"); n != 0 {
		t.Fatalf("it keeps %d seats", n)
	}
	l.GiveUp()
	for range 3 {
		l.Push(&Waiter{Ask: Ask{Shard: 1}})
	}
	if grants, _ := l.Serve(now, 0); len(grants) != 3 {
		t.Errorf("%d calls on 3 seats", len(grants))
	}
}

// A register that was set back does not say who has which seats: nobody calls on
// them until every call of before must be over, and then somebody does.
func TestSeatsOfARegisterThatWasSetBack(t *testing.T) {
	l, calls := seatedLone(t)
	before, rev := l.Known()
	for _, c := range calls {
		l.End(c, true)
	}
	l.Forget()
	l.Learn(before.Clone(), rev-1)
	l.rev = rev
	for range 3 {
		l.Push(&Waiter{Ask: Ask{Shard: 1}})
	}
	since, served := l.now, 0
	for end := l.now.Add(10 * time.Minute); l.now < end && served == 0; l.now = l.now.Add(100 * time.Millisecond) {
		grants, _ := l.Serve(l.now, 0)
		served += len(grants)
		if w, _ := l.Plan(l.now); w != nil {
			l.rev++
			l.Won(w, l.rev, l.now)
		}
	}
	if took := l.now.Sub(since); served == 0 || took < time.Minute || took > 2*time.Minute {
		t.Errorf("%d calls after %v", served, took)
	}
}

// What may have been given up is not called on while nobody knows, and a permit
// whose call may have gone is not given back: whichever way a turn ends, no more
// goes back than was certainly not used.
func TestWhatMayHaveGoneIsNotGivenBack(t *testing.T) {
	for name, end := range map[string]func(p *Planner, w *Waiter, turn Turn){
		"it was called":                   func(p *Planner, _ *Waiter, turn Turn) { p.End(turn, true) },
		"it lapsed after it had started":  func(p *Planner, w *Waiter, turn Turn) { p.Again(&Waiter{Ask: w.Ask}, turn, true) },
		"it was not called":               func(p *Planner, _ *Waiter, turn Turn) { p.End(turn, false) },
		"it lapsed before it had started": func(p *Planner, w *Waiter, turn Turn) { p.Again(&Waiter{Ask: w.Ask}, turn, false) },
	} {
		l := newLone(ledger.Limits{{N: 100, Per: 24 * time.Hour}}, 8, nil)
		w := &Waiter{Ask: Ask{Shard: 1}}
		l.Push(w)
		var turn *Turn
		for until := l.now.Add(10 * time.Second); l.now < until && turn == nil; l.now = l.now.Add(time.Millisecond) {
			grants, _ := l.Serve(l.now, 0)
			for _, g := range grants {
				turn = &g.Turn
			}
			if write, _ := l.Plan(l.now); write != nil {
				l.rev++
				l.Won(write, l.rev, l.now)
			}
		}
		if turn == nil {
			t.Fatal("no permit")
		}
		end(l.Planner, w, *turn)
		back := 0
		for _, r := range l.refunds {
			back += r.N
		}
		want := 0
		if name == "it was not called" || name == "it lapsed before it had started" {
			want = 1
		}
		if back != want {
			t.Errorf("%s: %d go back", name, back)
		}
	}
}

// Whose permit lapsed is before all who came later, in its lane and shard.
func TestWhoseTurnLapsedIsFirstAgain(t *testing.T) {
	q, g := newQueue(rand.New(rand.NewPCG(1, 2))), newGuests()
	waiter := func(agent string) *Waiter {
		w := &Waiter{Ask: Ask{Lane: Batch, Shard: 3}}
		w.guest = g.at(agent, start)
		return w
	}
	first := waiter("alice")
	for _, agent := range []string{"bob", "carol", "alice"} {
		q.push(waiter(agent))
	}
	q.putBack(first)
	if got := q.take(Batch, func(int) bool { return true }, space{few: 1}); got != first {
		t.Errorf("%+v is first", got)
	}
	if q.n[Batch] != 3 {
		t.Errorf("%d wait", q.n[Batch])
	}
}

// After a write that was beaten the next waits a while, the longer the more often
// it was.
func TestWhoWasBeatenWaitsBeforeItWritesAgain(t *testing.T) {
	l := newLone(ledger.Limits{{N: 100, Per: time.Minute}}, 8, nil)
	l.Push(&Waiter{Ask: Ask{Shard: 1}})
	waits := 0
	for range 20 {
		w, now := plan(t, l.Planner, l.now)
		if w == nil {
			t.Fatal("nothing is written")
		}
		if now > l.now {
			waits++
		}
		l.now = now
		l.Conflict(now)
		if w, wake := l.Plan(now); l.retry > now && (w != nil || wake <= now) {
			t.Fatalf("it writes at once, or looks again at once: %v", wake.Sub(now))
		}
	}
	if waits < 10 {
		t.Errorf("%d of 20 have waited", waits)
	}
}

// A permit in hand is used from when it certainly has begun until it has perhaps
// ended, by a time that is not sure.
func TestAPermitInHandByATimeThatIsNotSure(t *testing.T) {
	const unsure = 40 * time.Millisecond
	l := newLone(ledger.Limits{{N: 600, Per: time.Minute}}, 8, nil)
	ln := l.lines[0]
	b := ledger.Block{From: l.now.Add(time.Second), Until: l.now.Add(1200 * time.Millisecond), N: 1, Epoch: 7}
	for at, want := range map[time.Duration]bool{
		990 * time.Millisecond: false, 1010 * time.Millisecond: false, 1039 * time.Millisecond: false, 1041 * time.Millisecond: true,
		1159 * time.Millisecond: true, 1161 * time.Millisecond: false, 1199 * time.Millisecond: false, 1300 * time.Millisecond: false,
	} {
		ln.held = []held{{Block: b}}
		l.refunds = nil
		now := l.now.Add(at)
		l.expire(now, unsure)
		i, _ := ln.find(now, unsure)
		if got := i >= 0 && len(ln.held) == 1; got != want {
			t.Errorf("after %v: %t", at, got)
		}
		if gone := at > 1160*time.Millisecond; gone != (len(l.refunds) == 1) {
			t.Errorf("after %v: %d go back", at, len(l.refunds))
		}
	}
}
