package budget

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// saturate keeps a lane of a worker full for ever.
func (w *simWorker) saturate(l Lane, shard, n int, kind string) {
	before := w.onDone
	w.onDone = func(w *simWorker, a Ask, done string) {
		if before != nil {
			before(w, a, done)
		}
		if done == kind && a.Shard == shard {
			w.ask(a, kind)
		}
	}
	for range n {
		w.ask(Ask{Lane: l, Shard: shard}, kind)
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

// singles are requests of many agents that ask now and then.
func (s *sim) singles(every time.Duration, kind string) {
	s.after(s.exp(every), func() {
		s.any().ask(Ask{Lane: Interactive, Shard: s.rng.IntN(shards - 1), Alone: true}, kind)
		s.singles(every, kind)
	})
}

// burst is one agent's requests at once.
func (s *sim) burst(n int, l Lane, kind string) {
	for i := range n {
		s.any().ask(Ask{Lane: l, Shard: 3, Alone: i == n-1}, kind)
	}
}

// onebyone is an agent that asks again as soon as it has its answer.
func (s *sim) onebyone(shard int, kind string) {
	before := make(map[int]func(*simWorker, Ask, string))
	for _, w := range s.workers {
		before[w.id] = w.onDone
		w.onDone = func(w *simWorker, a Ask, done string) {
			if f := before[w.id]; f != nil {
				f(w, a, done)
			}
			if done == kind {
				s.any().ask(Ask{Lane: Interactive, Shard: shard, Alone: true}, kind)
			}
		}
	}
	s.any().ask(Ask{Lane: Interactive, Shard: shard, Alone: true}, kind)
}

func perMinute(n int) Limits { return Limits{{n, time.Minute}} }

func (s *sim) summary() string {
	var b strings.Builder
	for _, l := range s.limits {
		fmt.Fprintf(&b, "worst %d of %d in %v, used %.1f %%; ", s.worst(l.Per), l.N, l.Per, 100*s.used(l))
	}
	fmt.Fprintf(&b, "%d calls, %.3f writes a permit, %d lapsed, %d late", len(s.arrivals), float64(s.cas)/float64(max(s.calls(), 1)), s.lapses, s.late)
	return b.String()
}

func (s *sim) wait(kind string) string {
	w := s.waits[kind]
	return fmt.Sprintf("%s ×%d: p50 %.2f s, p99 %.2f s, max %.2f s", kind, len(w), quantile(w, .5).Seconds(), quantile(w, .99).Seconds(), quantile(w, 1).Seconds())
}

func TestSimTable(t *testing.T) {
	hour := time.Hour
	run := func(name string, c simConfig, load func(*sim), kinds ...string) {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			s := newSim(c)
			load(s)
			s.run()
			t.Log(s.summary())
			for _, k := range kinds {
				t.Log(s.wait(k))
			}
			t.Logf("took %v", time.Since(began))
		})
	}
	batch := func(n int) func(*sim) {
		return func(s *sim) {
			for _, w := range s.workers {
				w.saturate(Batch, 0, n, "batch")
			}
		}
	}
	std := simConfig{limits: perMinute(120), workers: 8, skew: 500 * time.Millisecond, warm: 2 * time.Minute, duration: hour}
	run("batch", std, batch(16), "batch")
	for _, n := range []int{30, 60, 90, 120} {
		c := std
		c.warm, c.duration, c.slots = time.Second, 3*time.Minute, 1000
		run(fmt.Sprintf("burst%d", n), c, func(s *sim) { s.after(s.warm, func() { s.burst(n, Interactive, "burst") }) }, "burst")
	}
	c := std
	c.warm, c.duration, c.slots = time.Second, 3*time.Minute, 1000
	run("burstbatch120", c, func(s *sim) { s.after(s.warm, func() { s.burst(120, Batch, "burst") }) }, "burst")
	run("single", std, func(s *sim) { batch(16)(s); s.singles(10*time.Second, "single") }, "single")
	run("behind agent", std, func(s *sim) {
		for _, w := range s.workers {
			w.saturate(Interactive, 15, 2, "neighbour")
		}
		s.singles(10*time.Second, "single")
	}, "single", "neighbour")
	run("behind five agents", std, func(s *sim) {
		for _, w := range s.workers {
			for i := range 5 {
				w.saturate(Interactive, 11+i, 2, "neighbour")
			}
		}
		s.after(s.exp(10*time.Second), func() {})
		s.singlesOf(10, 10*time.Second, "single")
	}, "single", "neighbour")
	run("one by one", std, func(s *sim) {
		batch(16)(s)
		s.onebyone(3, "onebyone")
		s.singlesOf(3, 10*time.Second, "single")
	}, "single", "onebyone", "batch")
	run("lanes", std, func(s *sim) {
		for _, w := range s.workers {
			w.saturate(Batch, 0, 16, "batch")
			w.saturate(Replay, 0, 16, "replay")
			w.saturate(Interactive, 5, 2, "inter")
			w.saturate(Interactive, 6, 2, "inter")
		}
	}, "batch", "replay", "inter")
	c = std
	c.limits = perMinute(5)
	run("5", c, batch(16), "batch")
	run("5 lanes", c, func(s *sim) {
		for _, w := range s.workers {
			w.saturate(Batch, 0, 16, "batch")
			w.saturate(Replay, 0, 16, "replay")
			w.saturate(Interactive, 5, 2, "inter")
			w.saturate(Interactive, 6, 2, "inter")
		}
	}, "batch", "replay", "inter")
	c = std
	c.limits, c.warm, c.duration = Limits{{100, 24 * hour}}, 48*hour, 240*hour
	run("day", c, batch(16), "batch")
	c = std
	c.limits = Limits{{60, time.Minute}, {2, time.Second}}
	run("two", c, batch(16), "batch")
	c = std
	c.limits = Limits{{2, time.Second}}
	c.duration = 10 * time.Minute
	run("2/s", c, batch(16), "batch")
	c = std
	c.workers, c.limits, c.warm, c.duration = 100, Limits{{1000, 10 * time.Second}}, 20*time.Second, time.Minute
	run("100 workers 100/s", c, batch(16), "batch")
	run("100 workers 100/s interactive", c, func(s *sim) {
		for i, w := range s.workers {
			w.saturate(Interactive, i%16, 2, "inter")
			w.saturate(Interactive, (i+1)%16, 2, "inter")
		}
	}, "inter")
	c.workers = 1000
	run("1000 workers 100/s", c, batch(16), "batch")
	run("1000 workers 100/s interactive", c, func(s *sim) {
		for i, w := range s.workers {
			for j := range 8 {
				w.saturate(Interactive, (i+j)%16, 2, "inter")
			}
		}
	}, "inter")
}

// singlesOf are requests of agents of one shard.
func (s *sim) singlesOf(shard int, every time.Duration, kind string) {
	s.after(s.exp(every), func() {
		s.any().ask(Ask{Lane: Interactive, Shard: shard, Alone: true}, kind)
		s.singlesOf(shard, every, kind)
	})
}
