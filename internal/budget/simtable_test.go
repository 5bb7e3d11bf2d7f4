package budget

import (
	"fmt"
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
)

// The loads of the simulation.

// saturate keeps a lane of a worker full for ever.
func (w *simWorker) saturate(l turns.Lane, shard, n int, kind string) {
	before := w.onDone
	w.onDone = func(w *simWorker, a turns.Ask, done string) {
		if before != nil {
			before(w, a, done)
		}
		if done == kind && a.Shard == shard {
			w.ask(a, kind)
		}
	}
	for range n {
		w.ask(turns.Ask{Lane: l, Shard: shard}, kind)
	}
}

// any is a live worker.
func (s *sim) any() *simWorker {
	for {
		if w := s.workers[s.rng.IntN(len(s.workers))]; !w.dead {
			return w
		}
	}
}

// singles are requests of agents of a few shards, who ask now and then.
func (s *sim) singles(shards []int, every time.Duration, kind string) {
	s.after(s.exp(every), func() {
		s.any().ask(turns.Ask{Lane: turns.Interactive, Shard: shards[s.rng.IntN(len(shards))], Alone: true}, kind)
		s.singles(shards, every, kind)
	})
}

// burst is one agent's requests at once.
func (s *sim) burst(n int, l turns.Lane, kind string) {
	for i := range n {
		s.any().ask(turns.Ask{Lane: l, Shard: 3, Alone: i == n-1}, kind)
	}
}

// oneByOne is an agent that asks again as soon as it has its answer.
func (s *sim) oneByOne(shard int, kind string) {
	for _, w := range s.workers {
		before := w.onDone
		w.onDone = func(w *simWorker, a turns.Ask, done string) {
			if before != nil {
				before(w, a, done)
			}
			if done == kind {
				s.any().ask(a, kind)
			}
		}
	}
	s.any().ask(turns.Ask{Lane: turns.Interactive, Shard: shard, Alone: true}, kind)
}

func saturated(l turns.Lane, shard, n int) func(*sim) {
	return func(s *sim) {
		for _, w := range s.workers {
			w.saturate(l, shard, n, l.String())
		}
	}
}

func perMinute(n int) ledger.Limits { return ledger.Limits{{N: n, Per: time.Minute}} }

// scenario is a row of the table in docs/permits.md: a load, and how well it
// must fare.
type scenario struct {
	name string
	simConfig
	load func(*sim)

	used   float64       // at least this share of the first limit
	wait   string        // of whom
	p50    time.Duration // at most
	p99    time.Duration
	max    time.Duration
	writes float64 // a permit, at most
}

func scenarios(full bool) []scenario {
	const sec, ms = time.Second, time.Millisecond
	long, days := 15*time.Minute, 48*time.Hour
	if full {
		long, days = 6*time.Hour, 480*time.Hour
	}
	std := simConfig{limits: perMinute(120), workers: 8, skew: 500 * ms, warm: 2 * time.Minute, duration: long}
	once := std
	once.warm, once.duration, once.slots = sec, 3*time.Minute, 1000
	with := func(c simConfig, edit func(*simConfig)) simConfig { edit(&c); return c }
	neighbours := []int{11, 12, 13, 14, 15}
	backlog := func(shards ...int) func(*sim) {
		return func(s *sim) {
			for _, w := range s.workers {
				for _, shard := range shards {
					w.saturate(turns.Interactive, shard, 2, "neighbour")
				}
			}
		}
	}
	burst := func(n int, l turns.Lane) func(*sim) {
		return func(s *sim) { s.after(s.warm, func() { s.burst(n, l, "burst") }) }
	}
	both := func(loads ...func(*sim)) func(*sim) {
		return func(s *sim) {
			for _, l := range loads {
				l(s)
			}
		}
	}
	single := func(shards ...int) func(*sim) { return func(s *sim) { s.singles(shards, 10*sec, "single") } }
	batch := saturated(turns.Batch, 0, 16)
	all := []scenario{
		{name: "batch backlog", simConfig: std, load: batch, used: 0.98},
		{name: "burst of N/4 after idle", simConfig: once, load: burst(30, turns.Interactive), wait: "burst", max: 100 * ms},
		{name: "burst of N/2", simConfig: once, load: burst(60, turns.Interactive), wait: "burst", max: 200 * ms},
		{name: "burst of 3N/4", simConfig: once, load: burst(90, turns.Interactive), wait: "burst", max: 200 * ms},
		{name: "burst of N", simConfig: once, load: burst(120, turns.Interactive), wait: "burst", p50: 200 * ms, max: 61 * sec},
		{name: "batch burst of N", simConfig: once, load: burst(120, turns.Batch), wait: "burst", max: 61 * sec},
		{name: "single behind a batch backlog", simConfig: std, load: both(batch, single(1, 2, 3, 4, 5)), wait: "single", p50: 500 * ms, p99: 1500 * ms, max: 2700 * ms, used: 0.98},
		{name: "single behind one agent's backlog", simConfig: std, load: both(backlog(15), single(1, 2, 3, 4, 5)), wait: "single", p50: 510 * ms, p99: 1500 * ms, max: 2500 * ms, used: 0.98},
		{name: "single behind five agents' backlogs", simConfig: std, load: both(backlog(neighbours...), single(1, 2, 3, 4, 5)), wait: "single", p50: 560 * ms, p99: 1600 * ms, max: 2800 * ms, used: 0.98},
		{name: "single beside one who asks one by one", simConfig: std, load: both(batch, func(s *sim) { s.oneByOne(9, "one by one") }, single(1, 2, 3, 4, 5)), wait: "single", max: 5 * sec, used: 0.98},
		{name: "5 in 60 s", simConfig: with(std, func(c *simConfig) { c.limits = perMinute(5) }), load: batch, used: 0.97},
		{name: "100 in 24 h", simConfig: with(std, func(c *simConfig) {
			c.limits, c.warm, c.duration = ledger.Limits{{N: 100, Per: 24 * time.Hour}}, 48*time.Hour, days
		}), load: batch, used: 0.97},
		{name: "60 in 60 s and 2 in 1 s", simConfig: with(std, func(c *simConfig) { c.limits = ledger.Limits{{N: 60, Per: time.Minute}, {N: 2, Per: sec}} }), load: batch, used: 0.98},
		{name: "2 in 1 s", simConfig: with(std, func(c *simConfig) { c.limits = ledger.Limits{{N: 2, Per: sec}} }), load: batch, used: 0.89},
		{name: "1000 in 10 s, 100 workers, batch", simConfig: with(std, func(c *simConfig) {
			c.workers, c.limits, c.warm, c.duration = 100, ledger.Limits{{N: 1000, Per: 10 * sec}}, 20*sec, 40*sec
		}), load: batch, used: 0.96, writes: 0.15},
	}
	if !full {
		return all
	}
	fleet := with(std, func(c *simConfig) {
		c.workers, c.limits, c.warm, c.duration = 1000, ledger.Limits{{N: 1000, Per: 10 * sec}}, 20*sec, 2*time.Minute
	})
	return append(all,
		scenario{name: "1000 in 10 s, 1000 workers, batch", simConfig: fleet, load: batch, used: 0.96, writes: 0.12},
		scenario{name: "1000 in 10 s, 1000 workers, interactive", simConfig: fleet, load: saturated(turns.Interactive, 3, 16), used: 0.96, writes: 0.29},
		scenario{name: "1000 in 10 s, 1000 workers, two interactive each", simConfig: fleet, load: saturated(turns.Interactive, 3, 2), used: 0.96},
	)
}

// TestFigures: the table of docs/permits.md. With -v it is printed.
func TestFigures(t *testing.T) {
	t.Parallel() // no server, no clock: it only computes
	if underRace {
		t.Skip("one goroutine")
	}
	t.Log("| load | worst window | used | wait p50 / p99 / max | writes a permit |")
	for _, sc := range scenarios(*simFull) {
		s := newSim(sc.simConfig)
		sc.load(s)
		s.run()
		l := s.limits[0]
		for _, l := range s.limits {
			if worst := s.worst(l.Per); worst > l.N {
				t.Errorf("%s: %d calls in %v, of %d", sc.name, worst, l.Per, l.N)
			}
		}
		if s.late > 0 {
			t.Errorf("%s: %d calls outside of their permit", sc.name, s.late)
		}
		used := s.used(l)
		if used < sc.used {
			t.Errorf("%s: %.1f %% used, want %.1f", sc.name, 100*used, 100*sc.used)
		}
		waits := ""
		if sc.wait != "" {
			d := s.waits[sc.wait]
			waits = fmt.Sprintf("%.2f / %.2f / %.2f s", quantile(d, .5).Seconds(), quantile(d, .99).Seconds(), quantile(d, 1).Seconds())
			for _, q := range []struct {
				at   float64
				most time.Duration
			}{{.5, sc.p50}, {.99, sc.p99}, {1, sc.max}} {
				if got := quantile(d, q.at); q.most > 0 && got > q.most {
					t.Errorf("%s: %.0f %% wait up to %v, want %v", sc.name, 100*q.at, got, q.most)
				}
			}
		}
		writes := float64(s.cas) / float64(max(s.calls(), 1))
		if sc.writes > 0 && writes > sc.writes {
			t.Errorf("%s: %.3f writes a permit, want %.3f", sc.name, writes, sc.writes)
		}
		t.Logf("| %s | %d of %d | %.1f %% | %s | %.2f |", sc.name, s.worst(l.Per), l.N, 100*used, waits, writes)
	}
}

// TestLanesShare: 6:3:1 while all lanes have work, also where a minute has
// only five permits.
func TestLanesShare(t *testing.T) {
	t.Parallel() // no server, no clock: it only computes
	if underRace {
		t.Skip("one goroutine")
	}
	for _, n := range []int{120, 5} {
		s := newSim(simConfig{limits: perMinute(n), workers: 4, warm: 2 * time.Minute, duration: time.Duration(100000/n) * time.Second})
		for _, w := range s.workers {
			w.saturate(turns.Batch, 0, 8, "batch")
			w.saturate(turns.Replay, 0, 8, "replay")
			w.saturate(turns.Interactive, 5, 2, "interactive")
			w.saturate(turns.Interactive, 6, 2, "interactive")
		}
		s.run()
		total := float64(s.calls())
		for kind, share := range map[string]float64{"interactive": 0.6, "replay": 0.3, "batch": 0.1} {
			if got := float64(len(s.waits[kind])) / total; got < share-0.02 || got > share+0.02 {
				t.Errorf("%d a minute: %s has %.3f of the permits, want %.1f", n, kind, got, share)
			}
		}
	}
}

// TestNobodyStarves: workers that contend for the same permits get about the
// same, and nobody's request waits for ever.
func TestNobodyStarves(t *testing.T) {
	t.Parallel() // no server, no clock: it only computes
	if underRace {
		t.Skip("one goroutine")
	}
	s := newSim(simConfig{limits: perMinute(120), workers: 8, warm: 2 * time.Minute, duration: 30 * time.Minute})
	saturated(turns.Batch, 0, 4)(s)
	s.run()
	d := s.waits["batch"]
	if p50, most := quantile(d, .5), quantile(d, 1); most > 5*p50 {
		t.Errorf("half wait %v, one %v", p50, most)
	}
}
