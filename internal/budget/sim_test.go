package budget

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
)

// The simulation runs the ledger, the planner and the clock's estimate of real
// workers in virtual time: only the network, the register's server and the
// provider are make-believe.

// sim is a fleet that shares one provider.
type sim struct {
	simConfig
	rng    *rand.Rand
	now    ledger.Instant // true time, which is the server's
	events agenda
	serial int

	reg     *ledger.Register
	rev     uint64
	workers []*simWorker

	arrivals []ledger.Instant            // at the provider, of those who have limits: as often as each counts
	grouped  map[string][]ledger.Instant // those of them that belong to a group
	bound    []boundCall                 // the same, with what was known
	free     []*freeCall                 // of those who have none
	waits    map[string][]time.Duration
	done     map[string][]time.Duration // when each call of a kind arrived, since the start
	cas      int
	late     int // calls that arrived outside of their permit's validity
	lapses   int
}

type simConfig struct {
	limits   ledger.Limits
	groups   map[string]turns.Group // of those who have limits
	workers  int
	slots    int
	seed     uint64
	skew     time.Duration // of the machines' clocks, either way
	oneWay   time.Duration // of the network to the register, on average
	work     time.Duration // a write takes the server, on average
	disk     time.Duration // and at least this long
	dial     time.Duration // a connection takes, where one is needed, between a permit and the last look
	call     time.Duration // the provider answers after
	freeze   time.Duration // the longest freeze; 0: none
	churn    time.Duration // a worker dies and another joins, about this often; 0: never
	unknown  float64       // writes whose outcome the worker does not hear of
	stops    bool          // half of the workers that go stop, and hand in what they have
	loses    time.Duration // the register is lost, about this often; 0: never
	others   ledger.Limits // what every third worker has for limits; nil: the same
	mixed    bool          // every fourth worker, from the second on, has no limits
	warm     time.Duration
	duration time.Duration

	ownClocks bool // what goes wrong if workers trust their machines' clocks
	noLapse   bool // and if a permit is not looked at again before the call
}

func (c simConfig) withDefaults() simConfig {
	c.slots = max(c.slots, 16)
	c.workers = max(c.workers, 1)
	if c.oneWay == 0 {
		c.oneWay = 500 * time.Microsecond
	}
	if c.work == 0 {
		c.work = time.Millisecond
	}
	if c.call == 0 {
		c.call = 150 * time.Millisecond
	}
	return c
}

const simStart = ledger.Instant(1_800_000_000_123_456_789)

func newSim(c simConfig) *sim {
	s := &sim{
		simConfig: c.withDefaults(), rng: rand.New(rand.NewPCG(c.seed, 17)), now: simStart,
		reg: ledger.New(newEpoch()), rev: 1, grouped: map[string][]ledger.Instant{}, waits: map[string][]time.Duration{}, done: map[string][]time.Duration{},
	}
	for range s.simConfig.workers {
		s.join(s.mixed && len(s.workers)%4 == 1)
	}
	if s.churn > 0 {
		s.after(s.exp(s.churn), s.replace)
	}
	if s.loses > 0 {
		s.after(s.exp(s.loses), s.lose)
	}
	return s
}

func (s *sim) after(d time.Duration, run func()) {
	s.serial++
	s.events.add(event{at: s.now.Add(max(d, 0)), serial: s.serial, run: run})
}

func (s *sim) exp(mean time.Duration) time.Duration {
	return time.Duration(s.rng.ExpFloat64() * float64(mean))
}

// hop is one way over the network.
func (s *sim) hop() time.Duration { return s.oneWay/2 + s.exp(s.oneWay/2) }

func (s *sim) run() *sim {
	end := simStart.Add(s.warm + s.duration)
	for len(s.events) > 0 && s.events[0].at <= end {
		e := s.events.next()
		s.now = e.at
		e.run()
	}
	slices.Sort(s.arrivals)
	for _, arrivals := range s.grouped {
		slices.Sort(arrivals)
	}
	return s
}

// simWorker is one process.
type simWorker struct {
	*sim
	id      int
	planner *turns.Planner
	offset  time.Duration // its clock is wrong by
	rate    float64       // and runs this much too fast
	est     store.Estimate
	dead    bool
	thaw    ledger.Instant // frozen until
	wake    ledger.Instant
	kinds   map[*turns.Waiter]simCall
	nth     int

	unlimited bool
	frees     map[*turns.Waiter]*freeCall // on their way
	unsaid    []unsaid
	claims    map[ledger.Instant]uint64 // the revision that has them first

	onDone func(w *simWorker, a turns.Ask, kind string) // what an agent does after its answer
}

type simCall struct {
	kind  string
	since ledger.Instant
	nth   int // of its worker's
}

// join starts a worker with an empty planner and a clock of its own.
func (s *sim) join(unlimited bool) *simWorker {
	w := &simWorker{
		sim: s, id: len(s.workers), unlimited: unlimited,
		kinds: map[*turns.Waiter]simCall{}, frees: map[*turns.Waiter]*freeCall{}, claims: map[ledger.Instant]uint64{},
	}
	w.offset = time.Duration((2*s.rng.Float64() - 1) * float64(s.skew))
	w.rate = (2*s.rng.Float64() - 1) * 100e-6
	limits := s.limits
	if s.others != nil && w.id%3 == 2 {
		limits = s.others
	}
	if unlimited {
		limits = nil
	}
	w.planner = turns.NewPlanner("w", limits, s.slots, 30*time.Second, rand.New(rand.NewPCG(s.seed, uint64(w.id)+99)))
	if !unlimited {
		w.planner.Group(s.groups)
	}
	s.workers = append(s.workers, w)
	w.askTime()
	s.after(s.hop(), func() { w.learn(s.reg, s.rev) })
	if s.freeze > 0 {
		s.after(s.exp(20*time.Second), w.stall)
	}
	return w
}

// lose takes the register away. Whoever sees it first makes a new one.
func (s *sim) lose() {
	s.reg, s.rev = nil, s.rev+1
	s.tell()
	s.after(s.exp(s.loses), s.lose)
}

// tell is the watch of everyone.
func (s *sim) tell() {
	reg, rev := s.reg, s.rev
	for _, w := range s.workers {
		if !w.dead {
			s.after(s.hop(), func() { w.learn(reg, rev) })
		}
	}
}

// stop is what a worker says last.
func (w *simWorker) stop() {
	now, _, ok := w.clock()
	if !ok || w.thaw > w.now {
		return
	}
	if last := w.planner.Last(now); last != nil && last.Rev == w.rev {
		w.reg, w.rev = last.Reg, w.rev+1
		w.said(len(w.unsaid), last.Reg.Epoch, true)
		w.tell()
	}
}

// replace takes one worker away, with all that it has in hand, and starts another.
func (s *sim) replace() {
	var alive []*simWorker
	for _, w := range s.workers {
		if !w.dead {
			alive = append(alive, w)
		}
	}
	dying := alive[s.rng.IntN(len(alive))]
	if s.stops && s.rng.IntN(2) == 0 {
		dying.stop()
	}
	dying.dead = true
	fresh := s.join(dying.unlimited)
	fresh.onDone = dying.onDone
	inOrder := func(a, b *turns.Waiter) int { return dying.kinds[a].nth - dying.kinds[b].nth }
	for _, w := range slices.SortedFunc(maps.Keys(dying.kinds), inOrder) { // the queue delivers them to another
		fresh.enqueue(w.Ask, dying.kinds[w].kind, dying.kinds[w].since)
	}
	s.after(s.exp(s.churn), s.replace)
}

// stall freezes the process: everything it would do comes late.
func (w *simWorker) stall() {
	if w.dead {
		return
	}
	w.thaw = w.now.Add(time.Duration(w.rng.Float64() * float64(w.freeze)))
	w.after(w.thaw.Sub(w.now), w.pump)
	w.after(w.thaw.Sub(w.now)+w.exp(20*time.Second), w.stall)
}

// soon runs something of the worker's: now, or when it has thawed.
func (w *simWorker) soon(run func()) {
	switch {
	case w.dead:
	case w.thaw > w.now:
		w.after(w.thaw.Sub(w.now), func() { w.soon(run) })
	default:
		run()
	}
}

// local is what the worker's machine takes for the time.
func (w *simWorker) local() time.Time {
	t := w.now.Sub(simStart)
	return simStart.Add(w.offset + t + time.Duration(float64(t)*w.rate)).Time()
}

func (w *simWorker) askTime() {
	if w.dead {
		return
	}
	sent, there, back := w.local(), w.hop(), w.hop()
	w.after(there, func() {
		server := w.now
		w.after(back, func() {
			w.soon(func() {
				rtt := w.local().Sub(sent)
				w.est = w.est.Add(store.Sample{At: sent.Add(rtt / 2), Server: server, RTT: rtt})
			})
		})
	})
	w.after(store.SampleEach, func() { w.soon(w.askTime) })
}

func (w *simWorker) clock() (ledger.Instant, time.Duration, bool) {
	if w.ownClocks {
		return ledger.InstantOf(w.local()), time.Millisecond, true
	}
	return w.est.Read(w.local())
}

func (w *simWorker) learn(r *ledger.Register, rev uint64) {
	w.soon(func() {
		if now, _, ok := w.clock(); r != nil {
			w.planner.Learn(r, rev)
		} else if _, known := w.planner.Known(); ok && known < rev {
			w.planner.Lost(rev, now)
		}
		w.pump()
	})
}

func (w *simWorker) ask(a turns.Ask, kind string) { w.enqueue(a, kind, w.now) }

func (w *simWorker) enqueue(a turns.Ask, kind string, since ledger.Instant) {
	waits := &turns.Waiter{Ask: a}
	w.nth++
	w.kinds[waits] = simCall{kind, since, w.nth}
	w.soon(func() {
		w.planner.Push(waits)
		w.pump()
	})
}

// pump is the Gate's.
func (w *simWorker) pump() {
	now, u, ok := w.clock()
	if w.dead || w.thaw > w.now || !ok {
		if !ok {
			w.after(w.oneWay, w.pump)
		}
		return
	}
	grants, wake := w.planner.Serve(now, u)
	for _, g := range grants {
		if w.unlimited {
			w.served(g)
		}
		w.start(g)
	}
	write, alarm := w.planner.Plan(now)
	if write != nil {
		w.store(write)
	}
	for _, at := range []ledger.Instant{wake, alarm} {
		if at > 0 && (w.wake == 0 || at < w.wake) {
			w.wake = at
			w.after(max(at.Sub(now), time.Microsecond), func() {
				w.soon(func() {
					if w.wake == at {
						w.wake = 0
					}
					w.pump()
				})
			})
		}
	}
}

// start is from a permit in hand to its Done: the request is prepared, the
// permit looked at once more, the call made.
func (w *simWorker) start(g turns.Grant) {
	took := w.exp(500 * time.Microsecond)
	if w.rng.IntN(20) == 0 {
		took += w.exp(w.dial)
	}
	w.after(took, func() {
		w.soon(func() {
			now, u, _ := w.clock()
			if now > g.Block.Until.Add(-u) && !w.noLapse {
				w.lapses++
				w.planner.Again(g.Waiter, g.Turn, false)
				delete(w.frees, g.Waiter) // it gives back what it recorded
				w.pump()
				return
			}
			w.call(g)
		})
	})
}

func (w *simWorker) call(g turns.Grant) {
	most := 250 * time.Millisecond
	for _, l := range w.limits {
		most = min(most, l.Per/20)
	}
	for _, l := range w.groups[g.Group].Limits {
		most = min(most, l.Per/20)
	}
	// Nearly all that the network may take.
	at := w.now.Add(time.Duration(w.rng.Float64() * float64(most)))
	if w.now < g.Block.From && !w.unlimited || w.now > g.Block.Until {
		w.late++
	}
	if c := w.frees[g.Waiter]; c != nil {
		w.free = append(w.free, c)
		delete(w.frees, g.Waiter)
	} else {
		for range max(g.Cost, 1) {
			w.arrivals = append(w.arrivals, at)
			w.bound = append(w.bound, boundCall{at, w.claims[g.Block.From]})
			if g.Group != "" {
				w.grouped[g.Group] = append(w.grouped[g.Group], at)
			}
		}
	}
	call := w.kinds[g.Waiter]
	delete(w.kinds, g.Waiter)
	w.done[call.kind] = append(w.done[call.kind], w.now.Sub(simStart))
	if w.now.Sub(simStart) >= w.warm {
		w.waits[call.kind] = append(w.waits[call.kind], w.now.Sub(call.since))
	}
	w.after(at.Sub(w.now)+w.exp(w.simConfig.call), func() {
		w.soon(func() {
			w.planner.End(g.Turn, true)
			if w.onDone != nil {
				w.onDone(w, g.Ask, call.kind)
			}
			w.pump()
		})
	})
}

// store is who writes the register, the register's server and the watch of everyone.
func (w *simWorker) store(write *turns.Write) {
	heard, sent, unsaid := w.rng.Float64() >= w.unknown, w.now, len(w.unsaid)
	w.after(w.hop()+w.disk+w.exp(w.work), func() {
		if w.now.Sub(simStart) >= w.warm {
			w.cas++
		}
		stored := write.Rev == w.rev
		if stored {
			w.reg, w.rev = write.Reg, w.rev+1
			w.claimed(write.Blocks)
			w.tell()
		}
		if stored || !heard {
			w.said(unsaid, write.Reg.Epoch, stored)
		}
		rev := w.rev
		switch {
		case !heard:
			w.after(store.WriteTimeout, func() { w.soon(func() { w.reread(func(now ledger.Instant) { w.planner.Unknown(write, now) }) }) })
		case stored:
			w.after(w.hop(), func() {
				w.soon(func() {
					now, _, _ := w.clock()
					w.planner.Stored(w.now.Sub(sent))
					w.planner.Won(write, rev, now)
					w.pump()
				})
			})
		default:
			w.after(w.hop(), func() {
				w.soon(func() { w.reread(func(now ledger.Instant) { w.planner.Conflict(now) }) })
			})
		}
	})
}

func (w *simWorker) reread(before func(ledger.Instant)) {
	now, _, _ := w.clock()
	before(now)
	w.after(w.hop(), func() {
		reg, rev := w.reg, w.rev
		w.after(w.hop(), func() { w.learn(reg, rev) })
	})
}

// worst is the fullest window of a length, anywhere.
func (s *sim) worst(per time.Duration) (most int) { return fullest(s.arrivals, per) }

func fullest(arrivals []ledger.Instant, per time.Duration) (most int) {
	first := 0
	for i, at := range arrivals {
		for arrivals[first] <= at.Add(-per) {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// calls are those after warming up.
func (s *sim) calls() (n int) {
	for _, at := range s.arrivals {
		if at.Sub(simStart) >= s.warm {
			n++
		}
	}
	return n
}

// used is the share of a limit that was used after warming up.
func (s *sim) used(l ledger.Window) float64 {
	return float64(s.calls()) / (float64(l.N) * float64(s.duration) / float64(l.Per))
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[min(int(q*float64(len(d))), len(d)-1)]
}
