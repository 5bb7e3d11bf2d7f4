package budget

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
)

// Operations with limits of their own, and calls that count as several.

// someGroups are groups within the limits, and one whose calls are only dear.
func someGroups(rng *rand.Rand, limits, others ledger.Limits) map[string]turns.Group {
	most := 6
	for _, w := range slices.Concat(limits, others) {
		most = min(most, w.N)
	}
	dear := func(n int) int { return 1 + rng.IntN(min(most, n)) }
	slow := ledger.Limits{{N: 1 + rng.IntN(20), Per: time.Duration(1+rng.IntN(40)) * time.Second}}
	both := ledger.Limits{{N: 2 + rng.IntN(3), Per: time.Second}, {N: 5 + rng.IntN(50), Per: time.Minute}}
	return map[string]turns.Group{
		"slow": {Limits: slow, Dearest: dear(slow[0].N)},
		"both": {Limits: both, Dearest: dear(2)},
		"dear": {Dearest: dear(6)},
	}
}

// askOfGroups has agents ask for operations of all groups: some that ask again
// as soon as they have an answer, some now and then, some many at once.
func (s *sim) askOfGroups(rng *rand.Rand) {
	for i, name := range slices.Sorted(maps.Keys(s.groups)) {
		cost := s.groups[name].Dearest
		for _, w := range s.workers {
			if !w.unlimited && rng.IntN(2) == 0 {
				w.again(turns.Ask{Lane: turns.Lane(rng.IntN(int(turns.Lanes))), Shard: 11 + i, Group: name, Cost: 1 + rng.IntN(cost)}, 1+rng.IntN(6), name)
			}
		}
		every := time.Duration(1+rng.IntN(10)) * time.Second
		for range 1 + rng.IntN(40) {
			at, ask := rng.Int64N(int64(s.duration)), turns.Ask{Shard: 14, Group: name, Cost: cost}
			s.after(time.Duration(at), func() { s.limited().ask(ask, name) })
		}
		s.singly(turns.Ask{Shard: 15, Group: name, Cost: 1, Alone: true}, every, name)
	}
}

// again keeps a kind of request coming for ever.
func (w *simWorker) again(ask turns.Ask, n int, kind string) {
	before := w.onDone
	w.onDone = func(w *simWorker, a turns.Ask, done string) {
		if before != nil {
			before(w, a, done)
		}
		if a == ask {
			w.ask(a, kind)
		}
	}
	for range n {
		w.ask(ask, kind)
	}
}

// singly is a kind of request that comes now and then.
func (s *sim) singly(ask turns.Ask, every time.Duration, kind string) {
	s.after(s.exp(every), func() {
		s.limited().ask(ask, kind)
		s.singly(ask, every, kind)
	})
}

// limited is a live worker that has limits: the others know of no groups.
func (s *sim) limited() *simWorker {
	for {
		if w := s.any(); !w.unlimited {
			return w
		}
	}
}
