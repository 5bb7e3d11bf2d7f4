package budget

import (
	"math"
	"slices"
	"time"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
)

// Workers without limits, beside those that have some. Nobody can keep them
// from going over. What can be asked: whoever has a limit never adds a call to
// those that it could know of, if that makes more than the limit.

// freeCall is a call of a worker that has no limit.
type freeCall struct {
	at  ledger.Instant // as it is recorded
	rev uint64         // of the register that has it first; none: never recorded
}

// boundCall is a call of a worker that has limits.
type boundCall struct {
	at  ledger.Instant // at the provider
	rev uint64         // of the register that claimed it
}

const never = math.MaxUint64

// unsaid is a free call that no register has yet.
type unsaid struct {
	*freeCall
	epoch int64
}

// served notes a call that a worker without limits is about to make.
func (w *simWorker) served(g turns.Grant) {
	c := &freeCall{at: g.Block.From, rev: never}
	w.frees[g.Waiter] = c
	if reg, _ := w.planner.Known(); reg.Counts(nil, "") {
		w.unsaid = append(w.unsaid, unsaid{c, g.Block.Epoch})
	}
}

// said notes what a write took with it, and whether it was stored. What is of
// another register than that is recorded nowhere.
func (w *simWorker) said(n int, epoch int64, stored bool) {
	for _, c := range w.unsaid[:n] {
		if stored && c.epoch == epoch {
			c.rev = w.rev
		}
	}
	w.unsaid = w.unsaid[n:]
}

// unrecorded is how many calls without a limit nobody was told of, although
// their workers had half a minute to.
func (s *sim) unrecorded() (n int) {
	for _, w := range s.workers {
		for _, c := range w.unsaid {
			if reg, _ := w.planner.Known(); !w.dead && reg != nil && reg.Epoch == c.epoch && s.now.Sub(c.at) > 30*time.Second {
				n++
			}
		}
	}
	return n
}

// claimed notes which register has a worker's claims first.
func (w *simWorker) claimed(blocks []ledger.Block) {
	for _, b := range blocks {
		if _, ok := w.claims[b.From]; !ok {
			w.claims[b.From] = w.rev
		}
	}
}

// beyond is how many calls more than a limit allows there were, in a window
// that ends with a call of a worker that has it, of those that are in the
// register that its calls were claimed in.
func (s *sim) beyond(l ledger.Window) (most int) {
	slices.SortFunc(s.bound, func(a, b boundCall) int { return int(a.at - b.at) })
	slices.SortFunc(s.free, func(a, b *freeCall) int { return int(a.at - b.at) })
	first, firstFree, lastFree := 0, 0, 0
	for i, end := range s.bound {
		start := end.at.Add(-l.Per)
		for s.bound[first].at <= start {
			first++
		}
		for firstFree < len(s.free) && s.free[firstFree].at <= start {
			firstFree++
		}
		for lastFree < len(s.free) && s.free[lastFree].at <= end.at {
			lastFree++
		}
		known := uint64(0)
		for _, c := range s.bound[first : i+1] {
			known = max(known, c.rev)
		}
		n := i - first + 1
		for _, c := range s.free[firstFree:max(lastFree, firstFree)] {
			if c.rev <= known {
				n++
			}
		}
		most = max(most, n-l.N)
	}
	return most
}

// outpour is what agents ask of the workers without limits besides: now and
// then, many at once.
func (s *sim) outpour(n int, every time.Duration) {
	s.after(s.exp(every), func() {
		var free []*simWorker
		for _, w := range s.workers {
			if w.unlimited && !w.dead {
				free = append(free, w)
			}
		}
		for range n {
			free[s.rng.IntN(len(free))].ask(turns.Ask{Lane: turns.Interactive, Shard: 4}, "free")
		}
		s.outpour(n, every)
	})
}
