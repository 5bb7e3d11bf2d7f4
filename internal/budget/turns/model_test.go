package turns

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"
)

// fleet is some planners over one register, played step by step: they join,
// stop and die, freeze between any two steps, lose races, do not hear what
// became of a write, and forget what they know. After each step all that must
// hold is looked at, and in the end every permit is accounted for.
type fleet struct {
	t      *testing.T
	seed   uint64
	rng    *rand.Rand
	now    ledger.Instant
	limits ledger.Limits
	groups map[string]Group
	sure   bool // no write of unknown outcome, nobody forgets: then the account is exact
	atOnce int  // calls of all at once; 0: any number
	shared bool // two providers share the register

	reg  *ledger.Register
	rev  uint64
	all  []*member
	born int

	calls   []ledger.Instant // once for each unit
	grouped map[string][]ledger.Instant
	under   []*turn // calls begun not long ago, those of the dead included
	busiest int     // calls under way at once
	lost    int     // units of permits that died with their worker: they count as used
}

type member struct {
	*Planner
	slots    int
	free     bool // it has no limits
	u        time.Duration
	out      []*turn
	writing  *Write
	answered bool // the write is stored, or lost its race; its answer is on its way
	stored   bool
	rev      uint64 // of the write, if stored
	wake     ledger.Instant
}

type turn struct {
	Grant
	called bool
	since  ledger.Instant
	ended  bool
}

// callTime is the longest that a call takes here.
const callTime = time.Second

func newFleet(t *testing.T, seed uint64, l ledger.Limits, groups map[string]Group, sure, mixed bool, edit func(*fleet)) *fleet {
	f := &fleet{
		t: t, groups: groups, grouped: map[string][]ledger.Instant{}, seed: seed, rng: rand.New(rand.NewPCG(seed, 8)), now: start, limits: l, sure: sure,
		reg: ledger.New(1), rev: 1,
	}
	edit(f)
	f.reg.Touch(ledger.NewShapes(l), f.now) // somebody has them
	for i := range 3 {
		f.join(mixed && i == 0)
	}
	return f
}

func (f *fleet) join(free bool) *member {
	f.born++
	m := &member{slots: 1 + f.rng.IntN(8), free: free, u: time.Duration(f.rng.IntN(5)) * time.Millisecond}
	l := f.limits
	if free {
		l = nil
	}
	m.Planner = NewPlanner(fmt.Sprint("w", f.born), l, m.slots, callTime, rand.New(rand.NewPCG(f.seed, uint64(f.born))))
	if f.shared {
		m.Share([]string{"x", "y"}[f.born%2])
	}
	if f.born%4 != 0 { // the others have it from the register
		m.AtOnce(f.atOnce)
	}
	if !free {
		m.Group(f.groups)
	}
	m.Learn(f.reg.Clone(), f.rev)
	f.all = append(f.all, m)
	return m
}

func (f *fleet) step() {
	m := f.all[f.rng.IntN(len(f.all))]
	switch n := f.rng.IntN(60); {
	case n == 0: // everybody stands still
		f.now = f.now.Add(time.Duration(f.rng.IntN(2000)) * time.Millisecond)
	case n < 15 && m.wake > f.now && m.wake.Sub(f.now) < time.Minute:
		f.now = m.wake
	default:
		f.now = f.now.Add(time.Duration(f.rng.IntN(20_000)) * time.Microsecond)
	}
	switch f.rng.IntN(16) {
	case 0, 1, 2:
		a := Ask{Lane: Lane(f.rng.IntN(int(Lanes))), Shard: f.rng.IntN(ledger.Shards), Alone: f.rng.IntN(2) == 0}
		if f.groups != nil && !m.free {
			a.Group = []string{"", "a", "b"}[f.rng.IntN(3)]
			a.Cost = 1 + f.rng.IntN(max(f.groups[a.Group].Dearest, 1))
		}
		m.Push(&Waiter{Ask: a})
	case 3, 4:
		f.serve(m)
	case 5, 6, 7:
		f.write(m)
	case 8, 9:
		f.answer(m)
	case 10, 11:
		f.end(m)
	case 12:
		m.Learn(f.reg.Clone(), f.rev) // the watch
	case 13:
		if !f.sure && f.rng.IntN(4) == 0 {
			m.Forget()
		}
	case 14:
		m.Drop(func(*Waiter) bool { return f.rng.IntN(3) == 0 })
	case 15:
		f.turmoil(m)
	}
	if slices.Contains(f.all, m) && f.rng.IntN(4) > 0 { // as after everything that changes something
		f.serve(m)
		f.write(m)
		if f.rng.IntN(3) > 0 {
			f.answer(m)
			f.answer(m)
			f.serve(m)
		}
	}
	f.check(m)
}

// turmoil is what happens seldom.
func (f *fleet) turmoil(m *member) {
	switch f.rng.IntN(40) {
	case 0: // a 429
		wait, jitter := time.Duration(f.rng.IntN(3000))*time.Millisecond, f.rng.Float64()
		now := f.now
		m.Post(now, func(r *ledger.Register, _ ledger.Instant) { r.Throttled(now, "", wait, 0, jitter) })
	case 1: // it dies
		if m.free || len(f.all) < 2 {
			return
		}
		f.leave(m)
		f.join(false)
	case 2: // it stops: it ends what it has, and says what it has still to say
		if m.free || m.writing != nil || len(f.all) < 2 {
			return
		}
		for len(m.out) > 0 {
			f.end(m)
		}
		m.Drop(func(*Waiter) bool { return true })
		for range 50 {
			m.Learn(f.reg.Clone(), f.rev)
			w := m.Last(f.now)
			if w == nil {
				break
			}
			m.writing, m.answered = w, false
			f.store(m)
			f.hear(m)
		}
		if m.InHand()+len(m.refunds) > 0 {
			f.t.Fatalf("seed %d: one that stopped took %d permits with it", f.seed, m.InHand()+len(m.refunds))
		}
		f.leave(m)
		f.join(false)
	case 3:
		f.join(false)
	case 4: // the machine slept
		m.Void()
	}
}

// leave takes a member out, with all that it had.
func (f *fleet) leave(m *member) {
	for _, h := range inHandOf(m) {
		f.lost += h.Units()
	}
	for _, g := range m.out {
		if !g.called {
			f.lost += g.Block.Units()
		}
	}
	for i, r := range m.refunds {
		if m.writing == nil || !m.stored || !m.answered || i >= m.writing.refunds {
			f.lost += r.N
		}
	}
	if w := m.writing; w != nil && m.answered && m.stored {
		f.lost += permits(w)
	}
	f.all = slices.DeleteFunc(f.all, func(o *member) bool { return o == m })
}

func permits(w *Write) (n int) {
	for _, b := range w.Blocks {
		n += b.Units()
	}
	return n
}

func (f *fleet) serve(m *member) {
	before := m.Effective(f.now)
	grants, wake := m.Serve(f.now, m.u)
	m.wake = wake
	for _, g := range grants {
		if before != nil && (g.Block.Epoch != before.Epoch || f.now < before.Hold) {
			f.t.Fatalf("seed %d: a permit of epoch %d at %d under %+v", f.seed, g.Block.Epoch, f.now, before)
		}
		if !m.free && len(f.limits) > 0 && (f.now < g.Block.From.Add(m.u) || f.now >= g.Block.Until.Add(-m.u)) {
			f.t.Fatalf("seed %d: a permit of [%d, %d) handed out at %d", f.seed, g.Block.From, g.Block.Until, f.now)
		}
		u := &turn{Grant: g}
		if m.out = append(m.out, u); f.rng.IntN(5) > 0 {
			f.start(m, u)
		}
	}
}

// write has a member write, if it wants to.
func (f *fleet) write(m *member) {
	w, wake := m.Plan(f.now)
	if w == nil {
		m.wake = wake
		return
	}
	if m.writing != nil {
		f.t.Fatalf("seed %d: two writes of one worker at once", f.seed)
	}
	m.writing, m.answered = w, false
}

func (f *fleet) store(m *member) {
	w := m.writing
	m.answered, m.stored = true, w.Rev == f.rev
	if m.stored {
		f.rev++
		f.reg, m.rev = w.Reg.Clone(), f.rev
	}
}

// answer stores a write, or lets its member hear what became of it.
func (f *fleet) answer(m *member) {
	switch w := m.writing; {
	case w == nil:
	case m.answered:
		f.hear(m)
	case !f.sure && f.rng.IntN(5) == 0: // nobody hears
		if f.rng.IntN(2) == 0 {
			f.store(m)
		} else {
			m.stored = false
		}
		if m.stored {
			f.lost += permits(w)
		}
		m.writing = nil
		m.Unknown(w, f.now)
	default:
		f.store(m)
	}
}

func (f *fleet) hear(m *member) {
	w := m.writing
	m.writing = nil
	if m.stored {
		m.Won(w, m.rev, f.now)
		return
	}
	m.Conflict(f.now)
	m.Learn(f.reg.Clone(), f.rev)
}

// end ends one of the turns that are out: with a call or without one, or
// exchanged for another because it has lapsed.
func (f *fleet) end(m *member) {
	if len(m.out) == 0 {
		return
	}
	i := f.rng.IntN(len(m.out))
	g := m.out[i]
	m.out = slices.Delete(m.out, i, i+1)
	defer func() { g.ended = true }()
	if !g.called && f.rng.IntN(2) == 0 {
		f.start(m, g)
	}
	if !m.free && (g.called && f.rng.IntN(8) == 0 || !g.called && f.rng.IntN(2) == 0) {
		m.Again(g.Waiter, g.Turn, g.called)
		return
	}
	m.End(g.Turn, g.called)
	if g.Trial {
		name, answered := m.name, g.called && f.rng.IntN(4) > 0
		m.Post(f.now, func(r *ledger.Register, _ ledger.Instant) {
			if answered {
				r.Settled(name)
			} else {
				r.Release(name)
			}
		})
	}
}

// start makes a call, if it still may be made.
func (f *fleet) start(m *member, g *turn) {
	r := m.Effective(f.now)
	if g.Seat > 0 && f.now.Add(m.u+callTime) > g.Seat {
		return
	}
	if f.now < g.Block.Until.Add(-m.u) && (r == nil || r.Epoch == g.Block.Epoch && f.now >= r.Hold && (r.Strikes == 0 || g.Trial)) {
		g.called, g.since = true, f.now
		f.under = append(f.under, g)
		for range g.Block.Units() {
			f.calls = append(f.calls, f.now)
			f.grouped[g.Block.Group] = append(f.grouped[g.Block.Group], f.now)
		}
	}
}

// check looks at what must hold at any time.
func (f *fleet) check(m *member) {
	if m.UnderWay() != len(m.out) {
		f.t.Fatalf("seed %d: %d calls count as under way, and %d are", f.seed, m.UnderWay(), len(m.out))
	}
	if m.UnderWay() > m.slots || !m.free && m.UnderWay()+m.InHand() > m.slots {
		f.t.Fatalf("seed %d: %d under way and %d in hand for %d slots", f.seed, m.UnderWay(), m.InHand(), m.slots)
	}
	f.under = slices.DeleteFunc(f.under, func(g *turn) bool { return g.ended || f.now.Sub(g.since) > callTime })
	if f.busiest = max(f.busiest, len(f.under)); f.atOnce > 0 && len(f.under) > f.atOnce {
		f.t.Fatalf("seed %d: %d calls at once, of %d", f.seed, len(f.under), f.atOnce)
	}
	for name, g := range f.namedGroups() {
		for _, l := range g.Limits {
			if n := inWindow(f.grouped[name], l.Per); n > l.N {
				f.t.Fatalf("seed %d: %d calls of %s in %v, of %d", f.seed, n, name, l.Per, l.N)
			}
		}
	}
	for _, l := range f.limits {
		if n := inWindow(f.calls, l.Per); n > l.N {
			f.t.Fatalf("seed %d: %d calls in %v, of %d", f.seed, n, l.Per, l.N)
		}
	}
}

// namedGroups are the groups as the register names them.
func (f *fleet) namedGroups() map[string]Group {
	if !f.shared {
		return f.groups
	}
	named := map[string]Group{}
	for name, g := range f.groups {
		named["x/"+name], named["y/"+name] = g, g
	}
	return named
}

// inWindow is the most calls in the windows that end with one of the last.
func inWindow(calls []ledger.Instant, per time.Duration) (most int) {
	for end := max(len(calls)-3, 0); end < len(calls); end++ {
		n := 0
		for i := end; i >= 0 && calls[end].Sub(calls[i]) < per; i-- {
			n++
		}
		most = max(most, n)
	}
	return most
}

// settle lets everybody end what it has and say what it has to say.
func (f *fleet) settle() {
	for quiet := 0; quiet < 20; quiet++ {
		f.now = f.now.Add(100 * time.Millisecond)
		for _, m := range f.all {
			m.Drop(func(*Waiter) bool { return true })
			m.Learn(f.reg.Clone(), f.rev)
			for len(m.out) > 0 {
				f.end(m)
				m.Drop(func(*Waiter) bool { return true })
			}
			f.serve(m)
			f.write(m)
			if m.writing != nil && !m.answered {
				f.store(m)
			}
			if m.writing != nil {
				f.hear(m)
			}
			if len(inHandOf(m))+len(m.refunds)+len(m.ops)+len(m.calls)+len(m.out) > 0 {
				quiet = 0
			}
		}
	}
}

// someGroups are operations with limits of their own, and dear calls.
var someGroups = map[string]Group{
	"a": {Limits: ledger.Limits{{N: 3, Per: 5 * time.Second}}, Dearest: 3},
	"b": {Limits: ledger.Limits{{N: 30, Per: time.Hour}, {N: 2, Per: time.Second}}, Dearest: 1},
	"":  {Dearest: 4},
}

// TestAFleetsAccount: whatever happens, no window holds more than its limit,
// every call is in the register, and every permit that was not used is back,
// once.
func TestAFleetsAccount(t *testing.T) {
	t.Parallel() // it only computes
	const seeds, steps = 40, 1500
	plainly, quota, threeAtOnce := func(*fleet) {}, func(f *fleet) { f.shared = true }, func(f *fleet) { f.atOnce = 3 }
	for _, c := range []struct {
		name        string
		limits      ledger.Limits
		groups      map[string]Group
		sure, mixed bool
		edit        func(*fleet)
	}{
		{"exact", ledger.Limits{{N: 400, Per: 6 * time.Hour}}, nil, true, false, plainly},
		{"unsure", ledger.Limits{{N: 400, Per: 6 * time.Hour}}, nil, false, false, plainly},
		{"some without limits", ledger.Limits{{N: 100_000, Per: 6 * time.Hour}}, nil, true, true, plainly},
		{"short windows", ledger.Limits{{N: 7, Per: 10 * time.Second}, {N: 20, Per: time.Minute}}, nil, false, false, plainly},
		{"groups", ledger.Limits{{N: 400, Per: 6 * time.Hour}}, someGroups, true, false, plainly},
		{"groups, unsure", ledger.Limits{{N: 400, Per: 6 * time.Hour}}, someGroups, false, false, plainly},
		{"short windows and groups", ledger.Limits{{N: 7, Per: 10 * time.Second}, {N: 20, Per: time.Minute}}, someGroups, false, false, plainly},
		{"a quota of two", ledger.Limits{{N: 400, Per: 6 * time.Hour}}, someGroups, true, false, quota},
		{"a quota of two, unsure", ledger.Limits{{N: 7, Per: 10 * time.Second}, {N: 20, Per: time.Minute}}, someGroups, false, false, quota},
		{"three at once", ledger.Limits{{N: 400, Per: 6 * time.Hour}}, nil, true, false, threeAtOnce},
		{"three at once, unsure", ledger.Limits{{N: 400, Per: 6 * time.Hour}}, nil, false, false, threeAtOnce},
		{"one at once, without limits", nil, nil, false, true, func(f *fleet) { f.atOnce = 1 }},
		{"three at once of a quota", ledger.Limits{{N: 7, Per: 10 * time.Second}, {N: 20, Per: time.Minute}}, someGroups, false, false, func(f *fleet) { quota(f); threeAtOnce(f) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			calls, busiest := 0, 0
			seeds := seeds
			if c.groups != nil {
				seeds /= 4
			}
			for seed := range uint64(seeds) {
				f := newFleet(t, seed, c.limits, c.groups, c.sure, c.mixed, c.edit)
				for range steps {
					f.step()
				}
				calls += len(f.calls)
				if f.atOnce > 0 {
					busiest = max(busiest, f.busiest)
				}
				if len(c.limits) != 1 {
					continue // what it counts is forgotten soon
				}
				f.settle()
				known := NewPlanner("known", c.limits, 1, time.Second, f.rng)
				known.Learn(f.reg, f.rev)
				booked := c.limits[0].N - known.Left(f.now)
				switch {
				case booked < len(f.calls):
					t.Errorf("seed %d: %d booked for %d calls", seed, booked, len(f.calls))
				case c.sure && !c.mixed && booked != len(f.calls)+f.lost:
					t.Errorf("seed %d: %d booked for %d calls and %d permits that died", seed, booked, len(f.calls), f.lost)
				}
			}
			if calls < seeds*15 {
				t.Errorf("only %d calls in all", calls)
			}
			t.Logf("%d calls, at most %d at once", calls, busiest)
		})
	}
}

// inHandOf is what a member has claimed and not handed out.
func inHandOf(m *member) (all []held) {
	for _, l := range m.lines {
		all = append(all, l.held...)
	}
	return all
}
