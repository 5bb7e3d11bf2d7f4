package budget

import (
	"flag"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
)

var (
	simFull  = flag.Bool("sim.full", false, "run the permits simulation in full: minutes instead of seconds")
	simSeeds = flag.Int("sim.seeds", 0, "how many fleets in trouble are simulated; 0: 40, and 2,000 in full")
)

// stressed is a fleet in trouble: machines whose clocks are wrong, workers
// that join, die and freeze, a slow register, writes that nobody hears of.
func stressed(seed uint64, edit func(*simConfig)) *sim {
	rng := rand.New(rand.NewPCG(seed, 4))
	limits := []ledger.Limits{
		perMinute(120), perMinute(120), perMinute(5), perMinute(60),
		{{N: 60, Per: time.Minute}, {N: 2, Per: time.Second}},
		{{N: 2, Per: time.Second}},
		{{N: 1000, Per: 10 * time.Second}},
		{{N: 30, Per: 10 * time.Second}},
		{{N: 60, Per: time.Minute}, {N: 100, Per: 24 * time.Hour}, {N: 50, Per: 12 * time.Hour}},
	}
	c := simConfig{
		limits: limits[rng.IntN(len(limits))], workers: 1 + rng.IntN(24), slots: 1 + rng.IntN(40), seed: seed,
		skew: 500 * time.Millisecond, oneWay: time.Duration(1+rng.IntN(20)) * time.Millisecond,
		work: time.Duration(1+rng.IntN(10)) * time.Millisecond, call: time.Duration(50+rng.IntN(1000)) * time.Millisecond,
		dial: time.Duration(1+rng.IntN(60)) * time.Millisecond, freeze: 10 * time.Second, churn: time.Duration(2+rng.IntN(40)) * time.Second, unknown: 0.02,
		duration: 4 * time.Minute,
	}
	// What stands above is what it was without these; their chance is their own.
	extra := rand.New(rand.NewPCG(seed, 5))
	switch extra.IntN(3) {
	case 1:
		c.oneWay = 15 * time.Millisecond
	case 2:
		c.oneWay = 50 * time.Millisecond
	}
	if extra.IntN(4) == 0 {
		c.disk = 120 * time.Millisecond
	}
	if extra.IntN(3) == 0 {
		c.loses = time.Minute
	}
	c.stops = extra.IntN(2) == 0
	if extra.IntN(3) == 0 { // a roll-out of a smaller limit, or of one more
		c.others = slices.Clone(c.limits)
		c.others[0].N = max(c.others[0].N/2, 1)
		if extra.IntN(2) == 0 {
			c.others = append(c.others, ledger.Window{N: 40, Per: 30 * time.Second})
		}
	}
	c.mixed = c.workers > 1 && extra.IntN(3) == 0
	group := rand.New(rand.NewPCG(seed, 6))
	grouped := group.IntN(4) == 0
	if grouped {
		c.groups = someGroups(group, c.limits, c.others)
	}
	if edit != nil {
		edit(&c)
	}
	s := newSim(c)
	if grouped {
		s.askOfGroups(group)
	}
	if s.mixed {
		s.outpour(1+extra.IntN(c.limits[0].N), time.Duration(5+extra.IntN(30))*time.Second)
	}
	for i, w := range s.workers {
		if w.unlimited {
			continue // they would never have enough
		}
		if rng.IntN(2) == 0 {
			w.saturate(turns.Batch, i%ledger.Shards, 1+rng.IntN(30), "batch")
		}
		if rng.IntN(3) == 0 {
			w.saturate(turns.Replay, 0, 1+rng.IntN(4), "replay")
		}
		if rng.IntN(3) == 0 {
			w.saturate(turns.Interactive, 1+i%8, 2, "backlog")
		}
	}
	s.singles([]int{0, 1, 2, 3, 9, 10}, time.Duration(1+rng.IntN(10))*time.Second, "single")
	for range rng.IntN(4) {
		n, l := 1+rng.IntN(2*c.limits[0].N), turns.Lane(rng.IntN(int(turns.Lanes)))
		s.after(time.Duration(rng.Int64N(int64(c.duration))), func() { s.burst(n, l, "burst") })
	}
	return s.run()
}

// TestStress: whatever happens to the workers, no window holds more than its
// limit, counted at the provider. Where some have no limits, those who have one
// add nothing to what they could know of.
func TestStress(t *testing.T) {
	t.Parallel() // no server, no clock: it only computes
	runs := 40
	if testing.Short() || underRace {
		runs = 4
	}
	if *simFull {
		runs = 2000
	}
	if *simSeeds > 0 {
		runs = *simSeeds
	}
	calls, lapses, free := 0, 0, 0
	for seed := range uint64(runs) {
		s := stressed(seed, nil)
		if l, worst := s.over(); worst > 0 {
			t.Errorf("seed %d: %d calls in %v, of %d", seed, worst, l.Per, l.N)
		}
		if s.late > 0 {
			t.Errorf("seed %d: %d calls outside of their permit", seed, s.late)
		}
		if n := s.unrecorded(); n > 0 {
			t.Errorf("seed %d: %d calls without a limit are written nowhere", seed, n)
		}
		calls, lapses, free = calls+len(s.arrivals), lapses+s.lapses, free+len(s.free)
	}
	t.Logf("%d runs, %d calls, %d beside them without a limit, %d permits lapsed", runs, calls, free, lapses)
}

// over is the limit that was broken, and by how many calls in one window.
func (s *sim) over() (ledger.Window, int) {
	for _, l := range s.limits {
		if worst := s.worst(l.Per); worst > l.N {
			return l, worst
		}
		if beyond := s.beyond(l); beyond > 0 {
			return l, l.N + beyond
		}
	}
	for name, g := range s.groups {
		for _, l := range g.Limits {
			if worst := fullest(s.grouped[name], l.Per); worst > l.N {
				return l, worst
			}
		}
	}
	return ledger.Window{}, 0
}

// TestStressBites: the same stress breaks the promise as soon as one of the
// things that it rests on is left out.
func TestStressBites(t *testing.T) {
	t.Parallel() // no server, no clock: it only computes
	if underRace {
		t.Skip("one goroutine")
	}
	for name, edit := range map[string]func(*simConfig){
		"the machines' clocks":  func(c *simConfig) { c.ownClocks = true },
		"no look before a call": func(c *simConfig) { c.noLapse, c.dial = true, 200*time.Millisecond },
	} {
		broken := false
		for seed := uint64(0); seed < 20 && !broken; seed++ {
			_, worst := stressed(seed, edit).over()
			if broken = worst > 0; broken {
				t.Logf("%s: run %d is over", name, seed+1)
			}
		}
		if !broken {
			t.Errorf("%s: nothing broke", name)
		}
	}
}
