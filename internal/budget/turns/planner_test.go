package turns

import (
	"math/rand/v2"
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"
)

const start = ledger.Instant(1_800_000_000_123_456_789)

// planner is one that knows an empty register, and has work.
func planner(l ledger.Limits, waiting int) *Planner {
	p := NewPlanner("w", l, 100, time.Minute, rand.New(rand.NewPCG(1, 2)))
	p.Learn(ledger.New(7), 1)
	for range waiting {
		p.Push(&Waiter{})
	}
	return p
}

// plan is the next write, and when.
func plan(t *testing.T, p *Planner, now ledger.Instant) (*Write, ledger.Instant) {
	t.Helper()
	for range 1000 {
		w, wake := p.Plan(now)
		if w != nil {
			return w, now
		}
		if wake <= now {
			t.Fatalf("nothing to write, and never will be: %v", wake)
		}
		now = wake
	}
	t.Fatal("never")
	return nil, 0
}

// TestHoldWhileAClaimIsWritten: a hold that comes while a claim is on its way
// makes it void, and what it bought goes back.
func TestHoldWhileAClaimIsWritten(t *testing.T) {
	day := ledger.Limits{{N: 100, Per: 24 * time.Hour}}
	p := planner(day, 10)
	w, now := plan(t, p, start)
	if len(w.Blocks) != 1 || w.Blocks[0].N != 10 {
		t.Fatalf("%+v", w.Blocks)
	}
	held := w.Reg.Clone()
	held.Throttled(now, "", 10*time.Second, 0, 0)
	p.Learn(held, 3) // another's 429, seen before our write's answer
	p.Won(w, 2, now)
	if grants, _ := p.Serve(now, 0); len(grants) > 0 {
		t.Error("a call during a hold")
	}
	now = now.Add(time.Second)
	w, now = plan(t, p, now)
	p.Won(w, 4, now)
	if left := p.Left(now.Add(10 * time.Second)); left != 100 {
		t.Errorf("%d left of 100, and nobody has called", left)
	}
}

// TestNobodyWaitsAnyMore: permits in hand go back once nobody waits for them.
func TestNobodyWaitsAnyMore(t *testing.T) {
	p := planner(ledger.Limits{{N: 100, Per: 24 * time.Hour}}, 10)
	w, now := plan(t, p, start)
	p.Won(w, 2, now)
	p.Drop(func(*Waiter) bool { return true })
	began := now
	w, now = plan(t, p, now)
	if d := now.Sub(began); d > time.Second {
		t.Errorf("given back after %v", d)
	}
	p.Won(w, 3, now)
	if left := p.Left(now); left != 100 || p.InHand() != 0 {
		t.Errorf("%d left, %d in hand", left, p.InHand())
	}
}

// TestLapsedPermitsGoBack: what has lapsed is told within a second.
func TestLapsedPermitsGoBack(t *testing.T) {
	p := planner(ledger.Limits{{N: 2, Per: 24 * time.Hour}}, 1)
	w, now := plan(t, p, start)
	p.Won(w, 2, now)
	grants, _ := p.Serve(now, 0)
	if len(grants) != 1 {
		t.Fatalf("%d turns", len(grants))
	}
	p.End(grants[0].Turn, false)
	began := now
	w, now = plan(t, p, now)
	if d := now.Sub(began); d > time.Second {
		t.Errorf("given back after %v", d)
	}
	p.Won(w, 3, now)
	if left := p.Left(now); left != 2 {
		t.Errorf("%d left of 2", left)
	}
	if w, wake := p.Plan(now); w != nil || wake != 0 {
		t.Errorf("and then %+v, %v", w, wake)
	}
}

// TestUnknownWriteOfAnEnd: the end of a throttle that may have been stored is
// booked again, and does not end the next one.
func TestUnknownWriteOfAnEnd(t *testing.T) {
	p := planner(ledger.Limits{{N: 60, Per: time.Minute}}, 1)
	r := ledger.New(7)
	r.Throttled(start.Add(-2*time.Second), "", time.Second, 0, 0)
	p.Learn(r, 2)
	w, now := plan(t, p, start)
	p.Won(w, 3, now)
	p.Post(now, func(r *ledger.Register, _ ledger.Instant) { r.Settled("w") })
	w, now = plan(t, p, now)
	stored := w.Reg.Clone()
	p.Unknown(w, now) // it was stored
	stored.Throttled(now, "", 5*time.Second, 0, 0)
	p.Learn(stored, 5)
	w, now = plan(t, p, now.Add(10*time.Millisecond))
	if w.Reg.Strikes != 1 {
		t.Errorf("%d strikes, another's 429 is wiped", w.Reg.Strikes)
	}
	_ = now
}

// TestTooFar: who is too far away for a limit writes nothing, and says so.
func TestTooFar(t *testing.T) {
	p := planner(ledger.Limits{{N: 2, Per: time.Second}, {N: 60, Per: time.Minute}}, 3)
	p.Serve(start, 400*time.Millisecond)
	w, wake := p.Plan(start)
	for ; w != nil || wake > 0; w, wake = p.Plan(wake) { // it says that it has limits, no more
		if w != nil {
			if len(w.Blocks) > 0 {
				t.Fatalf("claimed %+v", w.Blocks)
			}
			p.Won(w, 2, start)
			break
		}
	}
	if far, ok := p.TooFar(); !ok || far.Per != time.Second {
		t.Errorf("%+v %v", far, ok)
	}
	p.Serve(start, 50*time.Millisecond)
	if _, ok := p.TooFar(); ok {
		t.Error("still too far")
	}
}

// TestAWriteThatNobodyHeardOf: what it took with it is not handed in again, and
// nothing is claimed before the register was read.
func TestAWriteThatNobodyHeardOf(t *testing.T) {
	p := planner(ledger.Limits{{N: 10, Per: 24 * time.Hour}}, 2)
	w, now := plan(t, p, start)
	p.Won(w, 2, now)
	grants, _ := p.Serve(now, 0)
	for _, g := range grants {
		p.End(g.Turn, false)
	}
	w, now = plan(t, p, now)
	p.Unknown(w, now)
	if known, _ := p.Known(); known != nil {
		t.Error("what is known is believed")
	}
	if w, _ := p.Plan(now); w != nil {
		t.Errorf("%+v is written", w)
	}
	p.Learn(ledger.New(7), 9)
	if w, wake := p.Plan(now.Add(time.Second)); w != nil && (w.refunds > 0 || len(w.Blocks) > 0) {
		t.Errorf("%+v is written again, %v", w, wake)
	}
}

// TestAWriteTakesWithItWhatItSays: once it is stored that is not said again,
// and what came meanwhile is.
func TestAWriteTakesWithItWhatItSays(t *testing.T) {
	p := planner(ledger.Limits{{N: 10, Per: 24 * time.Hour}}, 0)
	booked := 0
	op := func(*ledger.Register, ledger.Instant) { booked++ }
	p.Post(start, op)
	w, now := plan(t, p, start)
	p.Post(now, op)
	p.Won(w, 2, now)
	w, now = plan(t, p, now)
	p.Won(w, 3, now)
	booked = 0
	p.Effective(now)
	if booked != 0 {
		t.Errorf("%d changes are said again", booked)
	}
}

// TestALostRaceIsNotRunAgainAtOnce: who lost steps aside, the longer the more
// often, and one write at a time is on its way.
func TestALostRaceIsNotRunAgainAtOnce(t *testing.T) {
	p := planner(ledger.Limits{{N: 10, Per: 24 * time.Hour}}, 1)
	now := start
	for range 8 {
		var w *Write
		w, now = plan(t, p, now)
		if w == nil {
			t.Fatal("nothing is written")
		}
		if again, _ := p.Plan(now); again != nil {
			t.Fatal("two writes at once")
		}
		p.Conflict(now)
		if again, wake := p.Plan(now); again != nil || wake <= now {
			t.Errorf("written again at once: %+v at %v", again, wake.Sub(now))
		}
	}
}

// TestPermitsOfOldLimitsGoBack: they are no permits under the new ones.
func TestPermitsOfOldLimitsGoBack(t *testing.T) {
	p := planner(ledger.Limits{{N: 10, Per: 24 * time.Hour}}, 5)
	w, now := plan(t, p, start)
	p.Won(w, 2, now)
	p.Limit(ledger.Limits{{N: 3, Per: 24 * time.Hour}})
	if p.InHand() != 0 {
		t.Errorf("%d permits of the old limit in hand", p.InHand())
	}
	if grants, _ := p.Serve(now, 0); len(grants) > 0 {
		t.Errorf("%d turns", len(grants))
	}
}

// TestWhatIsForgottenIsReadAgain: after a reconnect nothing is claimed on what
// was known.
func TestWhatIsForgottenIsReadAgain(t *testing.T) {
	p := planner(ledger.Limits{{N: 10, Per: 24 * time.Hour}}, 5)
	p.Forget()
	if w, _ := p.Plan(start); w != nil {
		t.Errorf("%+v is written", w)
	}
	p.Learn(ledger.New(7), 1) // revisions begin anew
	if w, _ := plan(t, p, start); len(w.Blocks) == 0 {
		t.Error("nothing is claimed")
	}
}

// TestATrialGivenBackIsTheNextOnes: who has the trial and does not call lets
// another have it at once, not when its time is over.
func TestATrialGivenBackIsTheNextOnes(t *testing.T) {
	l := ledger.Limits{{N: 60, Per: time.Minute}}
	p := planner(l, 1)
	r := ledger.New(7)
	r.Throttled(start.Add(-2*time.Second), "", time.Second, 0, 0)
	p.Learn(r, 2)
	w, now := plan(t, p, start)
	p.Won(w, 3, now)
	grants, _ := p.Serve(now, 0)
	for ; len(grants) == 0; grants, _ = p.Serve(now, 0) {
		now = now.Add(time.Millisecond)
	}
	if !grants[0].Trial {
		t.Fatalf("%+v", grants[0])
	}
	order := ledger.Order{Class: ledger.Light, Want: 1, Owner: "another", TrialTime: time.Minute}
	if _, blocks, _ := p.Effective(now).Claim(ledger.NewShapes(l), now, order); len(blocks) > 0 {
		t.Fatal("two trials")
	}
	p.End(grants[0].Turn, false)
	if _, blocks, at := p.Effective(now).Claim(ledger.NewShapes(l), now, order); len(blocks) == 0 {
		t.Errorf("the next one may go in %v", at.Sub(now))
	}
}

// TestALostRegistersPermitsAreVoid: those in hand are not handed out.
func TestALostRegistersPermitsAreVoid(t *testing.T) {
	p := planner(ledger.Limits{{N: 10, Per: 24 * time.Hour}}, 5)
	w, now := plan(t, p, start)
	p.Won(w, 2, now)
	p.Learn(ledger.New(8), 3)
	if grants, _ := p.Serve(now, 0); len(grants) > 0 {
		t.Errorf("%d turns of a register that is gone", len(grants))
	}
	if w, _ := plan(t, p, now); w.refunds > 0 {
		t.Error("they free places of the new one")
	}
}

// TestAHoldHoldsThoseWithoutLimitsToo: also one that outlives its throttle, as a
// late 429 leaves it.
func TestAHoldHoldsThoseWithoutLimitsToo(t *testing.T) {
	p := planner(nil, 3)
	r := ledger.New(7)
	r.Hold = start.Add(20 * time.Second)
	p.Learn(r, 2)
	if grants, _ := p.Serve(start, 0); len(grants) > 0 {
		t.Error("a turn during a hold")
	}
	if at := p.Soonest(ledger.Heavy, start); at != r.Hold {
		t.Errorf("the next in %v", at.Sub(start))
	}
	for now := start; now < r.Hold.Add(5*time.Second); now = now.Add(100 * time.Millisecond) {
		if w, _ := p.Plan(now); w != nil {
			p.Won(w, w.Rev+1, now)
		}
		if grants, _ := p.Serve(now, 0); len(grants) > 0 && now < r.Hold {
			t.Fatalf("a turn %v before the hold's end", r.Hold.Sub(now))
		}
	}
	if p.Queued() > 0 {
		t.Errorf("%d still wait after it", p.Queued())
	}
}

// TestARaisedLimitIsUsedAtOnce: who waits for the slot of a limit that is raised
// waits no longer for it.
func TestARaisedLimitIsUsedAtOnce(t *testing.T) {
	l := newLone(perMinute(1), 8, nil)
	for range 3 {
		l.Push(&Waiter{Ask: Ask{Shard: 1}})
	}
	l.run(5*time.Second, func(Grant) {})
	if l.served[" interactive"] != 1 {
		t.Fatalf("%v served under one a minute", l.served)
	}
	l.Limit(perMinute(60))
	if l.run(time.Second, func(Grant) {}); l.served[" interactive"] != 3 {
		t.Errorf("%v served a second after the limit was raised", l.served)
	}
}

// TestAClockThatWasAheadIsFoundOutLate: a register that no clock of today can have
// written is lost, also where one that was possible has been seen before it.
func TestAClockThatWasAheadIsFoundOutLate(t *testing.T) {
	l := newLone(perMinute(60), 8, nil)
	l.Push(&Waiter{Ask: Ask{Shard: 1}})
	l.run(time.Second, func(Grant) {})
	r, _ := l.Known()
	ahead, blocks, _ := r.Claim(ledger.NewShapes(perMinute(60)), l.now.Add(24*time.Hour), ledger.Order{Class: ledger.Light, Want: 60, Patience: Patience})
	if len(blocks) == 0 {
		t.Fatal("nothing is claimed a day ahead")
	}
	l.rev++
	l.Learn(ahead, l.rev)
	l.run(time.Second, func(Grant) {}) // who waits just then is sent away
	l.Push(&Waiter{Ask: Ask{Shard: 1}})
	if l.run(2*time.Minute, func(Grant) {}); l.served[" interactive"] != 2 {
		t.Errorf("%v served", l.served)
	}
}

// TestWhatWasKnownOutlastsTwoBreaks: whoever looks again after two of them, and
// finds the bucket set back, still has in it what it knew before the first.
func TestWhatWasKnownOutlastsTwoBreaks(t *testing.T) {
	for breaks := 1; breaks < 4; breaks++ {
		p := planner(ledger.Limits{{N: 10, Per: 24 * time.Hour}}, 3)
		known, _ := p.Known()
		before := known.Clone()
		w, now := plan(t, p, start)
		p.Won(w, 2, now)
		for range breaks {
			p.Forget()
		}
		p.Learn(before, 1)
		w, now = plan(t, p, now)
		if left := w.Reg.Left(p.shapes, now); left != 7 {
			t.Errorf("after %d breaks %d of 10 are left, and three are in hand", breaks, left)
		}
	}
}

// TestEachCallWithoutALimitIsCounted: also those that begin while a write is on
// its way, be it that it is stored or not.
func TestEachCallWithoutALimitIsCounted(t *testing.T) {
	others := ledger.NewShapes(ledger.Limits{{N: 100_000, Per: 24 * time.Hour}})
	for name, ends := range map[string]func(p *Planner, w *Write, now ledger.Instant){
		"stored": func(p *Planner, w *Write, now ledger.Instant) { p.Won(w, w.Rev+1, now) },
		"beaten, then stored": func(p *Planner, w *Write, now ledger.Instant) {
			if w.Rev%2 == 0 {
				p.Won(w, w.Rev+1, now)
				return
			}
			p.Conflict(now)
			p.Learn(w.Before.Clone(), w.Rev+1)
		},
	} {
		p := NewPlanner("w", nil, 100, time.Minute, rand.New(rand.NewPCG(1, 2)))
		r := ledger.New(7)
		r.Touch(others, start)
		p.Learn(r, 1)
		calls, now := 0, start
		call := func() {
			p.Push(&Waiter{})
			grants, _ := p.Serve(now, 0)
			for _, g := range grants {
				p.End(g.Turn, true)
			}
			calls += len(grants)
		}
		for ; now < start.Add(5*time.Second); now = now.Add(5 * time.Millisecond) {
			call()
			if w, _ := p.Plan(now); w != nil {
				call()
				now = now.Add(5 * time.Millisecond)
				call()
				ends(p, w, now)
			}
		}
		for end := now.Add(2 * time.Second); now < end; now = now.Add(5 * time.Millisecond) {
			if w, _ := p.Plan(now); w != nil {
				ends(p, w, now)
			}
		}
		reg, _ := p.Known()
		if left := reg.Left(others, now); calls < 500 || left != 100_000-calls {
			t.Errorf("%s: %d calls, and %d of 100,000 are left", name, calls, left)
		}
	}
}
