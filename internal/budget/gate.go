package budget

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/ledger"
)

// Settings are what one worker knows of one provider.
type Settings struct {
	Provider string
	Worker   string        // unique in the fleet: the owner of leases
	Limits   ledger.Limits // none: unlimited
	Bytes    int64         // of the month, on the wire; 0: no budget

	Concurrency     int           // calls at once in this worker; default 16
	CircuitFailures int           // different requests in a row that open the circuit; 0: never
	CircuitOpen     time.Duration // how long until the probe; default 60 s
	CallTimeout     time.Duration // the longest a call takes: a probe's lease outlives it; default 30 s

	Clock *Clock     // of the server; nil: the gate has its own
	Rand  *rand.Rand // for jitter; nil: seeded by the runtime
}

func (s Settings) withDefaults() Settings {
	if s.Concurrency <= 0 {
		s.Concurrency = 16
	}
	if s.CircuitOpen <= 0 {
		s.CircuitOpen = time.Minute
	}
	if s.CallTimeout <= 0 {
		s.CallTimeout = 30 * time.Second
	}
	if s.Rand == nil {
		s.Rand = newRand()
	}
	return s
}

// lease is how long a probe may take.
func (s Settings) lease() time.Duration { return s.CallTimeout + 5*time.Second }

// Gate says whether a provider may be called now, and if not, when. It is
// safe for concurrent use.
type Gate struct {
	s     Settings
	clock *Clock
	ours  bool // the clock is: Close closes it
	cell  cell // of the permits

	circuit *circuitSync // of the circuit
	bytes   *meter
	events  *announcer

	cancel context.CancelFunc
	tasks  sync.WaitGroup
	poke   chan struct{} // the run loop should look again
	writes chan *write   // to the clerk; the desk has at most one at a time

	mu      sync.Mutex // guards all below; never held while waiting
	desk    *desk
	breaker *circuit.Breaker
	control Control
	epoch   int            // of the clock
	alarm   ledger.Instant // when the run loop looks next
	probing bool           // one of ours is, or waits to become, the probe
	shut    bool

	lastSuccess time.Time // of a call of this worker's
}

// Open starts a provider's gate: it reads what the fleet shares, and watches
// it until Close. The buckets and streams must exist.
func Open(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue, s Settings, on Observer) (*Gate, error) {
	s = s.withDefaults()
	g := &Gate{
		s: s, clock: s.Clock, cell: kvCell{kv, permitsKey(s.Provider)},
		poke: make(chan struct{}, 1), writes: make(chan *write, 1),
		desk: newDesk(s.Worker, s.Limits, s.Concurrency, s.lease(), s.Rand),
	}
	if g.clock == nil {
		clock, err := StartClock(ctx, js)
		if err != nil {
			return nil, err
		}
		g.clock, g.ours = clock, true
	}
	g.breaker = circuit.NewBreaker(s.CircuitFailures)
	g.events = newAnnouncer(s, g.clock, on)
	g.circuit = newCircuitSync(kvCell{kv, circuitKey(s.Provider)}, s.Worker, g.circuitChanged, g.look)
	g.bytes = newMeter(js, kv, s, g.clock, g.events)

	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	g.cancel = cancel
	w := &watch{
		conn: js.Conn(), kv: kv, see: g.see, lost: g.disconnected,
		keys: []string{permitsKey(s.Provider), circuitKey(s.Provider), controlKey(s.Provider)},
	}
	ready := make(chan struct{})
	for _, task := range []func(context.Context){
		func(ctx context.Context) { w.run(ctx, ready) },
		g.run, g.clerk, g.circuit.run, g.bytes.run, g.events.run,
	} {
		g.tasks.Go(func() { task(run) })
	}
	select {
	case <-ready:
	case <-ctx.Done():
		g.Close()
		return nil, fmt.Errorf("open the gate of %s: %w", s.Provider, context.Cause(ctx))
	}
	return g, nil
}

// Close sends everyone who waits away, flushes the bytes counted, and waits
// for every goroutine. Permits out are void; what they claimed counts as used.
func (g *Gate) Close() {
	g.mu.Lock()
	g.shut = true
	g.turnAway(func(*waiter) error { return ErrShut })
	g.mu.Unlock()
	g.cancel()
	g.tasks.Wait()
	g.events.flush()
	if g.ours {
		g.clock.Close()
	}
}

// Acquire waits for a permit and a free slot. It returns a *ClosedError, at
// once or as soon as that becomes true, if the provider may not be called
// within the next 90 s; the context's cause if that ends first.
func (g *Gate) Acquire(ctx context.Context, a Ask) (*Permit, error) {
	a.Shard &= ledger.Shards - 1
	if a.Lane < 0 || a.Lane >= lanes {
		a.Lane = Batch
	}
	w := &waiter{Ask: a, ready: make(chan struct{})}
	g.mu.Lock()
	probe, err := g.enter(w, g.clock.now())
	g.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if probe {
		return g.acquireProbe(ctx, w)
	}
	return g.await(ctx, w)
}

// again lets one whose permit lapsed wait for another, before those who came
// later.
func (g *Gate) again(ctx context.Context, p *Permit) (*Permit, error) {
	w := &waiter{Ask: p.ask, ready: make(chan struct{}), probe: p.probe}
	b := p.block
	if p.started {
		b.N = 0 // a call may have gone: it counts as used
	}
	g.mu.Lock()
	g.desk.giveBack(b, p.trial)
	g.desk.out--
	g.desk.queue.putBack(w)
	g.pump(g.clock.now())
	g.mu.Unlock()
	return g.await(ctx, w)
}

// enter lets a request wait, or says why not. The first that comes when a
// probe is due is to be the probe.
func (g *Gate) enter(w *waiter, now reading) (probe bool, err error) {
	if err := g.refused(now); err != nil {
		if g.shut || g.probing || g.breaker.Closed() || !g.probeDue(now.time()) {
			return false, err
		}
		g.probing, w.probe = true, true
		return true, nil
	}
	g.desk.queue.push(w)
	g.pump(now)
	return false, nil
}

// await waits for what became of a request in the queue.
func (g *Gate) await(ctx context.Context, w *waiter) (*Permit, error) {
	select {
	case <-w.ready:
		return w.permit, w.err
	default:
	}
	select {
	case <-w.ready:
		return w.permit, w.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	gone := g.desk.queue.remove(w)
	g.mu.Unlock()
	if !gone { // it was served while it left
		if <-w.ready; w.permit != nil {
			w.permit.Done(Report{Remaining: -1})
		}
	}
	return nil, context.Cause(ctx)
}

// refused is why nobody may wait now, or nil. The circuit's probe may.
func (g *Gate) refused(now reading) error {
	if g.shut {
		return ErrShut
	}
	if g.control.Pause != nil {
		if until := g.control.PausedUntil(now.time()); !until.IsZero() {
			return &ClosedError{Reason: fetchworker.ReasonPaused, Until: until}
		}
	}
	if !g.breaker.Closed() {
		return &ClosedError{Reason: fetchworker.ReasonCircuitOpen, Until: g.circuit.record().Until()}
	}
	return nil
}

// turnAway ends the wait of everyone for whom why is an error.
func (g *Gate) turnAway(why func(*waiter) error) {
	g.desk.queue.drop(func(w *waiter) bool {
		if w.err = why(w); w.err == nil {
			return false
		}
		close(w.ready)
		return true
	})
}

// pump hands out what can start, turns away who waits in vain, and plans the
// next claim. Everything that changes something ends here, under the lock.
func (g *Gate) pump(now reading) {
	if now.epoch != g.epoch {
		g.epoch = now.epoch
		g.desk.void()
	}
	if g.desk.queue.total() > 0 {
		if err := g.refused(now); err != nil {
			closed := g.breaker.Closed()
			g.turnAway(func(w *waiter) error {
				if w.probe && !closed && g.probeStands(now.time()) {
					return nil
				}
				return err
			})
		}
	}
	if !now.ok {
		g.alarm = 0
		return // nothing can be decided without the time; run looks again soon
	}
	grants, wake := g.desk.serve(now.at, now.u)
	for _, gr := range grants {
		gr.permit = &Permit{g: g, ask: gr.Ask, block: gr.Block, trial: gr.trial, epoch: now.epoch}
		close(gr.ready)
	}
	// While a claim is on its way nobody is sent away: the watch may show it as
	// taken before its answer says that it is ours.
	if g.desk.queue.total() > 0 && len(g.desk.hand) == 0 && !g.desk.writing {
		g.turnAway(g.hopeless(now.at))
	}
	w, alarm := g.desk.plan(now.at)
	if w != nil {
		g.writes <- w // never blocks: the desk has one at a time
	}
	g.wakeAt(wake, alarm)
}

// hopeless says who must come back later, because no permit comes within 90 s.
func (g *Gate) hopeless(now ledger.Instant) func(*waiter) error {
	var errs [ledger.Classes]error
	var known [ledger.Classes]bool
	return func(w *waiter) error {
		c := g.desk.class(w, now)
		if !known[c] {
			known[c] = true
			if at := g.desk.soonest(c, now); at.Sub(now) > patience {
				reason := fetchworker.ReasonQuota
				if g.desk.effective(now).Hold.Sub(now) > patience {
					reason = fetchworker.ReasonThrottled
				}
				errs[c] = &ClosedError{Reason: reason, Until: at.Time()}
			}
		}
		return errs[c]
	}
}

// wakeAt makes sure that the run loop looks at the earliest of some moments.
func (g *Gate) wakeAt(at ...ledger.Instant) {
	var next ledger.Instant
	for _, t := range at {
		if t > 0 && (next == 0 || t < next) {
			next = t
		}
	}
	if g.alarm != next {
		g.alarm = next
		signal(g.poke)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run looks again when the alarm says so, and at least once a second: a
// limit's end, a pause's end and the clock's epoch come with no event.
func (g *Gate) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			g.mu.Lock()
			g.tick()
			g.mu.Unlock()
		case <-g.poke:
		case <-ctx.Done():
			return
		}
		g.mu.Lock()
		d := time.Second
		if now := g.clock.now(); now.ok && g.alarm > 0 {
			d = min(d, max(g.alarm.Sub(now.at), 0))
		}
		g.mu.Unlock()
		timer.Reset(d)
	}
}

// look goes on after something changed outside of the lock.
func (g *Gate) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tick()
}

// tick applies what time alone changes, and what has been learnt, and goes on.
func (g *Gate) tick() {
	now := g.clock.now()
	limits, _ := g.control.limits(g.s.Limits, now.time())
	g.desk.limit(limits)
	g.follow(now.time())
	g.pump(now)
}
