package turns

import (
	"math/rand/v2"
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"
)

// lone is a planner that is alone with its register, and whose writes are all
// stored at once.
type lone struct {
	*Planner
	now    ledger.Instant
	rev    uint64
	served map[string]int // by group and lane
}

func newLone(limits ledger.Limits, slots int, groups map[string]Group) *lone {
	p := NewPlanner("w", limits, slots, time.Minute, rand.New(rand.NewPCG(1, 2)))
	p.Group(groups)
	p.Learn(ledger.New(7), 1)
	return &lone{Planner: p, now: start, rev: 1, served: map[string]int{}}
}

// run goes on for a time; what is granted ends at once.
func (l *lone) run(d time.Duration, granted func(Grant)) {
	for end := l.now.Add(d); l.now < end; l.now = l.now.Add(time.Millisecond) {
		grants, _ := l.Serve(l.now, 0)
		for _, g := range grants {
			l.served[g.Group+" "+g.Lane.String()]++
			l.End(g.Turn, true)
			granted(g)
		}
		l.Hopeless(l.now, func(*Waiter, Away) {})
		if w, _ := l.Plan(l.now); w != nil {
			l.rev++
			l.Won(w, l.rev, l.now)
		}
	}
}

// fill keeps so many waiting in a line.
func (l *lone) fill(n int, a Ask) {
	for l.lineFor(a.Group, a.Cost).queue.n[a.Lane] < n {
		l.Push(&Waiter{Ask: a})
	}
}

// A line without permits takes no place of those who have some: however many
// wait for a group's limits, or for dear calls, a light request goes at once.
func TestALineWithoutPermitsHoldsUpNoOther(t *testing.T) {
	t.Parallel() // it only computes
	for what, c := range map[string]struct {
		limits  ledger.Limits
		slots   int
		groups  map[string]Group
		backlog Ask
		waits   int
	}{
		"a group's":  {perMinute(600), 4, map[string]Group{"deep": {Limits: perMinute(60), Dearest: 1}}, Ask{Group: "deep", Shard: 3}, 40},
		"dear calls": {perMinute(120), 2, map[string]Group{"": {Dearest: 50}}, Ask{Cost: 50, Shard: 3}, 2},
	} {
		t.Run(what, func(t *testing.T) {
			l := newLone(c.limits, c.slots, c.groups)
			for range 30 {
				l.fill(c.waits, c.backlog)
				w := &Waiter{Ask: Ask{Shard: 9, Alone: true}}
				l.Push(w)
				began, took := l.now, time.Hour
				for took == time.Hour && l.now.Sub(began) < 5*time.Second {
					l.run(5*time.Millisecond, func(g Grant) {
						if g.Waiter == w {
							took = l.now.Sub(began)
						}
					})
				}
				if took > time.Second {
					t.Fatalf("a light request waited %v", took)
				}
				l.run(time.Second-min(took, 900*time.Millisecond), func(Grant) {})
			}
		})
	}
}

// A patient permit's turn is not used up by a look at it while another line is
// served.
func TestALookUsesNothingUp(t *testing.T) {
	t.Parallel() // it only computes
	l := newLone(ledger.Limits{{N: 1000, Per: 10 * time.Second}}, 100, map[string]Group{"deep": {Limits: ledger.Limits{{N: 800, Per: 10 * time.Second}}, Dearest: 1}})
	for range 60_000 {
		l.fill(30, Ask{Group: "deep", Lane: Batch, Shard: 3})
		l.fill(30, Ask{Lane: Interactive, Shard: 5})
		l.run(time.Millisecond, func(Grant) {})
	}
	if l.lapsed > 0 || l.served["deep batch"] == 0 {
		t.Errorf("%d permits lapsed; served %v", l.lapsed, l.served)
	}
}

// How far ahead claims may have been is never less than what was claimed, also
// after the limits have changed: a lost register counts as full for so long.
func TestALowerLimitIsClaimedFurtherAhead(t *testing.T) {
	l := newLone(perMinute(6000), 16, map[string]Group{"": {Dearest: 30}})
	for _, n := range []int{60, 6000} {
		l.Limit(perMinute(n))
		if l.dearer < 29*time.Second {
			t.Errorf("at %d a minute %v, and 29 s ahead is claimed at 60", n, l.dearer)
		}
	}
}

// What is given back was booked.
func TestACallThatNeedsNoPermitGivesNoneBack(t *testing.T) {
	l := newLone(nil, 2, map[string]Group{"deep": {Limits: perMinute(5), Dearest: 1}})
	r := ledger.New(7)
	r.Touch(l.shapes, start)
	l.Learn(r, 2)
	l.Push(&Waiter{})
	grants, _ := l.Serve(start, 0)
	if len(grants) != 1 {
		t.Fatalf("%d granted", len(grants))
	}
	l.End(grants[0].Turn, false)
	if len(l.refunds) > len(l.calls) {
		t.Errorf("%d given back, %d booked", len(l.refunds), len(l.calls))
	}
}

// A group's window that is too short for this worker's distance keeps only
// that group from being called here.
func TestAGroupTooFarAway(t *testing.T) {
	l := newLone(perMinute(600), 4, map[string]Group{"deep": {Limits: ledger.Limits{{N: 1, Per: time.Second}}, Dearest: 1}})
	const unsure = 400 * time.Millisecond
	l.Push(&Waiter{Ask: Ask{Group: "deep", Shard: 3}})
	l.Push(&Waiter{Ask: Ask{Shard: 9}})
	l.Serve(l.now, unsure)
	if w, far := l.TooFar(); far {
		t.Errorf("the provider is too far away for %v", w)
	}
	var away []Away
	l.Hopeless(l.now, func(_ *Waiter, a Away) { away = append(away, a) })
	if len(away) != 1 || away[0].Group != "deep" || away[0].Until <= l.now {
		t.Errorf("sent away: %v", away)
	}
	var served []string
	for range 200 {
		if w, _ := l.Plan(l.now); w != nil {
			l.rev++
			l.Won(w, l.rev, l.now)
		}
		l.now = l.now.Add(10 * time.Millisecond)
		grants, _ := l.Serve(l.now, unsure)
		for _, g := range grants {
			served = append(served, g.Group)
		}
	}
	if len(served) != 1 || served[0] != "" {
		t.Errorf("served: %q", served)
	}
}

func perMinute(n int) ledger.Limits { return ledger.Limits{{N: n, Per: time.Minute}} }
