package turns

import (
	"math/rand/v2"
	"slices"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/ledger"
)

// Lane is the lane of a request at the gate: those an agent can publish in,
// and the one of requests that the replayer released.
type Lane int

// The lanes. While all have work they get 6, 3 and 1 of ten permits.
const (
	Interactive Lane = iota
	Replay
	Batch
	Lanes // how many there are
)

var weights = [Lanes]int{6, 3, 1}

// String names the lane for logs and metrics.
func (l Lane) String() string {
	switch l {
	case Interactive:
		return "interactive"
	case Replay:
		return "replay"
	case Batch, Lanes:
	}
	return "batch"
}

// Ask is what a request tells about itself when it asks for a permit.
type Ask struct {
	circuit.Call // who asks for what: circuits are open for some and not for others

	Lane  Lane
	Shard int  // of its agent, 0 to 15: permits go round the shards
	Alone bool // nothing of its shard waits behind it, and no other of the shard is held by this worker

	Group string // of operations that have limits of their own; empty: none
	Cost  int    // how many calls it counts as; 0 is 1
}

// Waiter is a request that waits for a permit. The lock of whoever owns the
// planner guards it, until the wait has ended.
type Waiter struct {
	Ask
	Part  *circuit.Part // in the circuits that are not closed; mostly nil
	Ready chan struct{} // closed by End; nil if nobody has to wait for that
	Turn  Turn          // what it got
	Err   error         // or why it got none
	ended bool
	guest *guest // its agent; set while it waits
}

// End ends the wait, with what it got or why it got nothing.
func (w *Waiter) End(t Turn, err error) {
	w.Turn, w.Err, w.ended = t, err, true
	if w.Ready != nil {
		close(w.Ready)
	}
}

// Await makes Ready, unless the wait has ended already: most are served at
// once, and need none.
func (w *Waiter) Await() {
	if !w.ended {
		w.Ready = make(chan struct{})
	}
}

// Turn is a permit for one call.
type Turn struct {
	Block ledger.Block
	Trial bool           // the one call after a hold: its end decides whether the hold is over
	Seat  ledger.Instant // until when the call must have ended, since others may be made instead; 0: nobody counts
	Wakes int            // of the clock of whoever handed it out: one of before the machine slept is void
	guest *guest         // who holds the place
}

// rota is whose turn it is among the lanes: smooth weighted round robin.
type rota struct{ credit [Lanes]int }

// newRota starts the round robin at a random phase: with few permits a
// minute, workers that all began with interactive would never come to batch.
func newRota(rng *rand.Rand) *rota {
	r := &rota{}
	for range rng.IntN(10) {
		r.choose([Lanes]bool{true, true, true})
	}
	return r
}

// queue is those who wait at one gate for permits of one kind: first come
// first served within a shard, in turn among shards.
type queue struct {
	waiting [Lanes][ledger.Shards][]*Waiter
	n       [Lanes]int
	turn    [Lanes]int // the shard to look at first
}

func newQueue(rng *rand.Rand) *queue {
	q := &queue{}
	for i := range q.turn {
		q.turn[i] = rng.IntN(ledger.Shards)
	}
	return q
}

func (q *queue) total() int { return q.n[Interactive] + q.n[Replay] + q.n[Batch] }

func (q *queue) push(w *Waiter) {
	line := &q.waiting[w.Lane][w.Shard]
	*line = append(*line, w)
	q.n[w.Lane]++
	w.guest.waits++
}

// putBack lets one wait again at the front of its line: its permit lapsed.
func (q *queue) putBack(w *Waiter) {
	line := &q.waiting[w.Lane][w.Shard]
	*line = append([]*Waiter{w}, *line...)
	q.n[w.Lane]++
	w.guest.waits++
}

// remove takes out one who leaves, and reports whether it still waited.
func (q *queue) remove(w *Waiter) bool {
	for i, other := range q.waiting[w.Lane][w.Shard] {
		if other == w {
			q.cut(w.Lane, w.Shard, i)
			return true
		}
	}
	return false
}

func (q *queue) cut(l Lane, shard, i int) {
	line := q.waiting[l][shard]
	line[i].guest.waits--
	copy(line[i:], line[i+1:])
	line[len(line)-1] = nil
	q.waiting[l][shard] = line[:len(line)-1]
	q.n[l]--
}

// take chooses whose turn it is in a lane that has somebody for whom there is
// space: the light before the heavy; where it is tight whoever holds fewest
// places; then the shards in turn.
func (q *queue) take(l Lane, modest func(shard int) bool, s space) *Waiter {
	var chosen *Waiter
	var shard, at int
	for i := range ledger.Shards {
		n := (q.turn[l] + i) % ledger.Shards
		k := s.first(q.waiting[l][n])
		if k < 0 {
			continue
		}
		w, light := q.waiting[l][n][k], l == Interactive && q.isLight(n, modest)
		if chosen == nil || light || s.tight && w.guest.holds < chosen.guest.holds {
			chosen, shard, at = w, n, k
		}
		if light || l != Interactive && !s.tight {
			break
		}
	}
	q.cut(l, shard, at)
	q.turn[l] = (shard + 1) % ledger.Shards
	return chosen
}

// has reports whether somebody waits in a lane for whom there is space.
func (q *queue) has(l Lane, s space) bool {
	return q.n[l] > 0 && (!s.last || slices.ContainsFunc(q.waiting[l][:], func(line []*Waiter) bool { return s.first(line) >= 0 }))
}

// choose is the lane whose turn it is, by weight, of those that are active:
// unused turns are lent.
func (r *rota) choose(active [Lanes]bool) (chosen Lane, ok bool) {
	sum := 0
	for l := range Lanes {
		if !active[l] {
			continue
		}
		r.credit[l] += weights[l]
		sum += weights[l]
		if !ok || r.credit[l] > r.credit[chosen] {
			chosen, ok = l, true
		}
	}
	if ok {
		r.credit[chosen] -= sum
	}
	return chosen, ok
}

// isLight reports whether the interactive requests of a shard are light: there
// are one or two, and nothing behind them.
func (q *queue) isLight(shard int, modest func(int) bool) bool {
	line := q.waiting[Interactive][shard]
	return 0 < len(line) && len(line) <= 2 && line[len(line)-1].Alone && modest(shard)
}

// demand is how many wait in each class, and whose shards the interactive ones
// are, in the order of their turns.
func (q *queue) demand(modest func(int) bool) (n [ledger.Classes]int, lightOf, heavyOf []int) {
	n[ledger.Replay], n[ledger.Batch] = q.n[Replay], q.n[Batch]
	if q.n[Interactive] == 0 {
		return n, nil, nil
	}
	for i := range ledger.Shards {
		s := (q.turn[Interactive] + i) % ledger.Shards
		switch line := q.waiting[Interactive][s]; {
		case len(line) == 0:
		case q.isLight(s, modest):
			n[ledger.Light] += len(line)
			for range line {
				lightOf = append(lightOf, s)
			}
		default:
			n[ledger.Heavy] += len(line)
			for range line {
				heavyOf = append(heavyOf, s)
			}
		}
	}
	return n, lightOf, heavyOf
}

// drop removes everyone for whom gone is true.
func (q *queue) drop(gone func(*Waiter) bool) {
	for l := range Lanes {
		for s := range ledger.Shards {
			for i := len(q.waiting[l][s]) - 1; i >= 0; i-- {
				if gone(q.waiting[l][s][i]) {
					q.cut(l, s, i)
				}
			}
		}
	}
}

// last is who came last of those in the slowest lane, of the shard with most.
func (q *queue) last() *Waiter {
	for l := Lanes - 1; l >= 0; l-- {
		if q.n[l] == 0 {
			continue
		}
		longest := 0
		for s := range ledger.Shards {
			if len(q.waiting[l][s]) > len(q.waiting[l][longest]) {
				longest = s
			}
		}
		line := q.waiting[l][longest]
		return line[len(line)-1]
	}
	return nil
}
