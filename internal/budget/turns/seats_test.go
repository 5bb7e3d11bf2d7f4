package turns

import (
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"
)

// seatedLone is a worker that has three calls under way of three at once.
func seatedLone(t *testing.T) (l *lone, turns []Turn) {
	t.Helper()
	l = newLone(nil, 8, nil)
	l.AtOnce(3)
	for range 3 {
		l.Push(&Waiter{Ask: Ask{Shard: 1}})
	}
	for end := l.now.Add(time.Second); l.now < end; l.now = l.now.Add(time.Millisecond) {
		grants, _ := l.Serve(l.now, 0)
		for _, g := range grants {
			turns = append(turns, g.Turn)
		}
		if w, _ := l.Plan(l.now); w != nil {
			l.rev++
			l.Won(w, l.rev, l.now)
		}
	}
	if len(turns) != 3 {
		t.Fatalf("%d calls of 3", len(turns))
	}
	return l, turns
}

// A write that gives seats up and whose outcome nobody heard may be stored as
// long as the register that it replaces may still be the newest: also after
// the next has been refused, perhaps because of it.
func TestSeatsThatMayHaveGone(t *testing.T) {
	l, calls := seatedLone(t)
	for _, c := range calls {
		l.End(c, true)
	}
	before, rev := l.Known()
	gone, now := plan(t, l.Planner, l.now)
	if n, _ := gone.Reg.Seats("w"); n != 0 {
		t.Fatalf("it keeps %d seats", n)
	}
	l.Unknown(gone, now)
	l.Learn(before.Clone(), rev) // it is on its way still
	asks := func() int {
		l.Push(&Waiter{Ask: Ask{Shard: 1}})
		grants, _ := l.Serve(now, 0)
		for _, g := range grants {
			l.End(g.Turn, false)
		}
		l.Drop(func(*Waiter) bool { return true })
		return len(grants)
	}
	if n := asks(); n != 0 {
		t.Errorf("%d calls on seats that may have gone", n)
	}
	l.Post(now, func(*ledger.Register, ledger.Instant) {})
	_, now = plan(t, l.Planner, now)
	l.Conflict(now) // the first came before it
	if n := asks(); n != 0 {
		t.Errorf("%d calls on seats that have gone", n)
	}
	l.Learn(gone.Reg, rev+1)
	if n := asks(); n != 0 {
		t.Errorf("%d calls without a seat", n)
	}
}

// One that was not stored costs nothing once a newer register shows it.
func TestSeatsThatHaveNotGone(t *testing.T) {
	l, calls := seatedLone(t)
	for _, c := range calls {
		l.End(c, true)
	}
	before, rev := l.Known()
	gone, now := plan(t, l.Planner, l.now)
	l.Unknown(gone, now)
	l.Learn(before.Clone(), rev+1) // another's
	for range 3 {
		l.Push(&Waiter{Ask: Ask{Shard: 1}})
	}
	if grants, _ := l.Serve(now, 0); len(grants) != 3 {
		t.Errorf("%d calls on 3 seats", len(grants))
	}
}

// A clock that was ahead leaves seats of the dead that are good for long: such a
// register is lost, and one that obeys its number has a call when those of before
// must be over.
func TestSeatsOfAClockThatWasAhead(t *testing.T) {
	for _, most := range []int{0, 1} { // whether who lives has the number itself, or the dead had
		l := newLone(nil, 8, nil)
		l.AtOnce(most)
		r := ledger.New(9)
		r.Sit(ledger.SeatOrder{Owner: "gone", Most: 1}, l.now)
		r.Sit(ledger.SeatOrder{Owner: "dead", Most: 1 - most, Want: 1, Term: time.Minute}, l.now.Add(30*time.Minute))
		l.rev = 5
		l.Learn(r, l.rev)
		l.Push(&Waiter{Ask: Ask{Shard: 1}})
		began, writes := l.now, l.rev
		l.run(30*time.Second, func(Grant) { t.Errorf("most %d: a call %v after the loss", most, l.now.Sub(began)) })
		l.run(90*time.Second, func(Grant) {})
		if l.served[" interactive"] != 1 || l.rev-writes > 20 {
			t.Errorf("most %d: %v served, with %d writes", most, l.served, l.rev-writes)
		}
	}
}

// A seat that was given up while a write was on its way is given up in the next:
// that one said nothing of it.
func TestASeatGivenUpDuringAWrite(t *testing.T) {
	l, calls := seatedLone(t)
	r, _ := l.Known()
	r = r.Clone()
	r.Sit(ledger.SeatOrder{Owner: "other", Want: 3, Term: time.Minute}, l.now)
	l.rev++
	l.Learn(r, l.rev) // another waits for all of them
	for range 3 {
		l.Push(&Waiter{Ask: Ask{Shard: 1}})
	}
	l.End(calls[0], true)
	w, now := plan(t, l.Planner, l.now)
	l.End(calls[1], true)
	l.rev++
	l.Won(w, l.rev, now)
	if grants, _ := l.Serve(now, 0); len(grants) > 0 {
		t.Errorf("%d calls on a seat that another waits for", len(grants))
	}
	if w, _ = plan(t, l.Planner, now); w != nil {
		if n, _ := w.Reg.Seats("w"); n > 2 {
			t.Errorf("it keeps %d seats of 3", n)
		}
	}
}

// Whoever has a number of calls at once tells it before it makes one, and again
// before it is forgotten: others obey it meanwhile.
func TestTheNumberOfCallsAtOnceIsToldByWhoIsIdle(t *testing.T) {
	l := newLone(nil, 8, nil)
	l.AtOnce(3)
	l.run(time.Second, func(Grant) {})
	for range 6 {
		if r, _ := l.Known(); r.AtOnce(0, l.now) != 3 {
			t.Fatalf("after %v others may call as often as they like", l.now.Sub(start))
		}
		l.now = l.now.Add(25 * time.Minute)
		l.Learn(func() *ledger.Register { r, _ := l.Known(); return r.Clone() }(), l.rev+1) // as others write it
		l.rev++
		l.run(time.Second, func(Grant) {})
	}
}

// Whoever calls all the time never waits for its own seats to be renewed.
func TestSeatsLastWhileTheyAreUsed(t *testing.T) {
	l, calls := seatedLone(t)
	for i := range 1200 {
		l.End(calls[0], true)
		calls = calls[1:]
		l.Push(&Waiter{Ask: Ask{Shard: 1}})
		grants, _ := l.Serve(l.now, 0)
		if len(grants) != 1 {
			t.Fatalf("call %d, %v after the first: %d begin", i, l.now.Sub(start), len(grants))
		}
		calls = append(calls, grants[0].Turn)
		for range 5 {
			l.now = l.now.Add(50 * time.Millisecond)
			if w, _ := l.Plan(l.now); w != nil {
				l.rev++
				l.Won(w, l.rev, l.now)
			}
		}
	}
	if writes, _, _ := l.Traffic(); writes > 150 {
		t.Errorf("%d writes in five minutes", writes)
	}
}
