package budget

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/meter"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/wait"
)

// Settings are what one worker knows of one provider.
type Settings struct {
	Provider string
	Worker   string        // unique in the fleet: the owner of leases
	Limits   ledger.Limits // none: unlimited
	Bytes    int64         // of the month, on the wire; 0: no budget

	// Groups of operations that have limits of their own besides, or whose
	// calls count as several; see turns.Ask.
	Groups map[string]turns.Group

	// Quota is the name of one that the provider shares with others, which have
	// the same limits; empty: it shares none.
	Quota string

	Concurrency     int           // calls at once in this worker; default 16
	AtOnce          int           // calls of the whole fleet at once; 0: any number
	CircuitFailures int           // different calls in a row that open a circuit; 0: never
	CircuitOpen     time.Duration // how long until the probe; default 60 s
	CallTimeout     time.Duration // the longest a call takes: a probe's lease outlives it; default 30 s

	// Begin is what must have been done before anybody is let through, in the
	// background: other gates do not wait for it. After an error nobody ever is.
	// nil: nothing.
	Begin func(context.Context) error

	Mirror *store.Mirror // of the bucket, shared by all of a process; nil: the gate has its own
	Clock  *store.Clock  // of the server, for a gate with a mirror of its own; nil: that has one, too
	Rand   *rand.Rand    // for jitter; nil: seeded by the runtime
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

func (s Settings) policy() circuit.Policy {
	return circuit.Policy{Failures: s.CircuitFailures, Open: s.CircuitOpen}
}

// lease is how long a probe may take.
func (s Settings) lease() time.Duration { return s.CallTimeout + 5*time.Second }

// Gate says whether a provider may be called now, and if not, when. It is
// safe for concurrent use.
type Gate struct {
	s      Settings
	kv     jetstream.KeyValue
	mirror *store.Mirror
	clock  *store.Clock
	ours   bool       // the mirror is: Close closes it
	cell   store.Cell // of the permits

	circuit *circuitSync // of the circuit
	bytes   *meter.Meter
	events  *announcer

	cancel  context.CancelFunc
	begun   chan struct{}   // closed when somebody may be let through
	running context.Context //nolint:containedctx // ends with Close
	tasks   sync.WaitGroup
	poke    chan struct{}     // the run loop should look again
	astray  chan struct{}     // permits are not counted where they should be
	found   uint64            // the revision that said so, when moveHome last looked
	writes  chan *turns.Write // to whoever writes the register; the planner has at most one at a time

	mu       sync.Mutex // guards all below; never held while waiting
	unfollow func()     // ends to follow the mirror; nil: it is not followed yet
	planner  *turns.Planner
	breaker  *circuit.Breaker
	control  fleet.Control
	wakes    int            // of the clock
	alarm    ledger.Instant // when the run loop looks next
	still    bool           // it looks seldom: all is quiet
	shut     bool
	unable   unable
	barred   error          // what unable says; nil: it can
	needed   ledger.Instant // when the clock was last told that the time is needed
	untimed  bool           // the register was lost while the time was not known: it cannot be made anew

	record      circuit.Record           // as last followed
	held        bool                     // a circuit of it is not closed
	probing     map[string]*circuit.Part // by circuit: who of ours is, or waits to become, its probe
	alone       map[string]*turns.Waiter // by circuit: who of ours may widen it
	turn        chan struct{}            // closed when one of those has ended; nil while nobody waits for it
	lastSuccess time.Time                // of a call of this worker's
	foreign     int64                    // calls that a provider counted beyond ours, booked here since Open
	toldForeign time.Time
	asked       string // what the last throttled answer asked for, in its own words
}

// Open starts a provider's gate: it reads what the fleet shares, and watches
// it until Close. The buckets and streams must exist.
func Open(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue, s Settings, on Observer) (*Gate, error) {
	s = s.withDefaults()
	g := &Gate{
		s: s, kv: kv, mirror: s.Mirror, cell: register(kv, s.Provider, s.Quota),
		begun: make(chan struct{}),
		poke:  make(chan struct{}, 1), astray: make(chan struct{}, 1), writes: make(chan *turns.Write, 1),
		probing: map[string]*circuit.Part{}, alone: map[string]*turns.Waiter{},
		planner: turns.NewPlanner(s.owner(), s.Limits, s.Concurrency, s.lease(), s.Rand),
	}
	keys := []string{store.PermitsKey(s.Provider), store.CircuitKey(s.Provider), store.ControlKey(s.Provider)}
	if s.Quota != "" {
		g.planner.Share(s.Provider)
		keys = append(keys, store.QuotaKey(s.Quota))
	}
	g.planner.AtOnce(s.AtOnce)
	g.planner.Group(s.Groups)
	if g.mirror == nil {
		mirror, err := store.NewMirror(ctx, js, kv, s.Clock, keys...)
		if err != nil {
			return nil, fmt.Errorf("open the gate of %s: %w", s.Provider, err)
		}
		g.mirror, g.ours = mirror, true
	}
	g.clock = g.mirror.Clock()
	g.breaker = circuit.NewBreaker()
	g.events = newAnnouncer(s, g.clock, on)
	g.circuit = newCircuitSync(store.At(kv, store.CircuitKey(s.Provider)), s.Worker, g.circuitChanged, g.look, g.mirror.Reopen)
	g.bytes = g.newMeter(js, kv)

	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	g.cancel, g.running = cancel, run
	for _, task := range []func(context.Context){g.run, g.writeRegister, g.circuit.run, g.bytes.Run, g.events.run, g.moveHome} {
		g.tasks.Go(func() { task(run) })
	}
	follower := &store.Follower{Keys: keys, See: g.see, Lost: g.disconnected}
	if s.Begin == nil {
		g.follows(follower)
		return g, nil
	}
	g.tasks.Go(func() {
		if s.Begin(run) == nil {
			g.follows(follower)
		}
	})
	return g, nil
}

// Close sends everyone who waits away, flushes the bytes counted, and waits
// for every goroutine. Permits out are void; what they claimed counts as used.
func (g *Gate) Close() {
	g.mu.Lock()
	g.shut = true
	unfollow := g.unfollow
	g.turnAway(func(*turns.Waiter) error { return ErrShut })
	g.mu.Unlock()
	if unfollow != nil {
		unfollow()
	}
	g.cancel()
	g.tasks.Wait()
	g.events.flush()
	if g.ours {
		g.mirror.Close()
	}
}

// Acquire waits for a permit and a free slot. It returns a *ClosedError, at
// once or as soon as that becomes true, if the provider may not be called
// within the next 90 s; the context's cause if that ends first.
func (g *Gate) Acquire(ctx context.Context, a turns.Ask) (*Permit, error) {
	if err := g.waitBegun(ctx); err != nil {
		return nil, err
	}
	a.Shard &= ledger.Shards - 1
	if a.Lane < 0 || a.Lane >= turns.Lanes {
		a.Lane = turns.Batch
	}
	for {
		p := &Permit{g: g, w: turns.Waiter{Ask: a}}
		g.mu.Lock()
		turn, err := g.enter(&p.w, g.clock.Read())
		g.mu.Unlock()
		if err == nil && turn != nil {
			err = awaitTurn(ctx, turn)
		} else if err == nil {
			if err = g.permit(ctx, p); err == nil {
				return p, nil
			}
		}
		if !errors.Is(err, errLookAgain) {
			return nil, err
		}
	}
}

// permit waits for the permit of one who has entered.
func (g *Gate) permit(ctx context.Context, p *Permit) error {
	if p.Probe() {
		return g.acquireProbe(ctx, p)
	}
	err := g.await(ctx, &p.w)
	if err != nil {
		g.leave(p.w.Part)
	}
	return err
}

// again exchanges the turn of a permit that lapsed for another.
func (g *Gate) again(ctx context.Context, p *Permit) (turns.Turn, error) {
	w := &turns.Waiter{Ask: p.w.Ask, Part: p.w.Part}
	g.mu.Lock()
	g.keepTurn(w)
	g.planner.Again(w, p.w.Turn, p.started)
	g.pump(g.clock.Read())
	w.Await()
	g.mu.Unlock()
	err := g.await(ctx, w)
	return w.Turn, err
}

// enter lets a request wait, or says why not, or that it must wait for its
// turn before it waits for a permit.
func (g *Gate) enter(w *turns.Waiter, now store.Reading) (turn <-chan struct{}, err error) {
	if err := g.refused(now); err != nil {
		return nil, err
	}
	if g.held {
		if turn, err := g.takePart(w, now.Time()); turn != nil || err != nil {
			return turn, err
		}
	}
	if w.Part != nil && w.Part.Probe {
		return nil, nil // it waits a little before its permit
	}
	g.push(w, now)
	return nil, nil
}

// push lets a request wait for its permit, which may end at once.
func (g *Gate) push(w *turns.Waiter, now store.Reading) {
	g.planner.Push(w)
	g.pump(now)
	w.Await()
}

// Lasting is a context that hardly ever ends while somebody waits for a place.
type Lasting interface {
	// Stirs is closed before the context ends, or as it does; nil: it may have
	// ended. Until then nobody needs its Done.
	Stirs() <-chan struct{}
}

// await waits for what becomes of a request in the queue.
func (g *Gate) await(ctx context.Context, w *turns.Waiter) error {
	if w.Ready == nil {
		return w.Err
	}
	select {
	case <-w.Ready:
		return w.Err
	default:
	}
	if lasting, ok := ctx.(Lasting); ok {
		if stirs := lasting.Stirs(); stirs != nil {
			select {
			case <-w.Ready:
				return w.Err
			case <-stirs:
			}
		}
	}
	select {
	case <-w.Ready:
		return w.Err
	case <-ctx.Done():
	}
	g.mu.Lock()
	gone := g.planner.Remove(w)
	g.mu.Unlock()
	if !gone { // it was served while it left
		if <-w.Ready; w.Err == nil {
			(&Permit{g: g, w: turns.Waiter{Ask: w.Ask, Turn: w.Turn}}).Done(Report{Remaining: -1})
		}
	}
	return context.Cause(ctx)
}

// refused is why nobody may wait now, or nil. Circuits refuse one and not
// another: they are asked by name.
func (g *Gate) refused(now store.Reading) error {
	if g.shut {
		return ErrShut
	}
	if g.barred != nil {
		return g.barred
	}
	if g.control.Pause != nil {
		if until := g.control.PausedUntil(now.Time()); !until.IsZero() {
			return &ClosedError{Reason: fetchworker.ReasonPaused, Until: until}
		}
	}
	return nil
}

// turnAway ends the wait of everyone for whom why is an error.
func (g *Gate) turnAway(why func(*turns.Waiter) error) {
	g.planner.Drop(func(w *turns.Waiter) bool {
		err := why(w)
		if err != nil {
			w.End(turns.Turn{}, err)
		}
		return err != nil
	})
}

// pump hands out what can start, turns away who waits in vain, and plans the
// next claim. Everything that changes something ends here, under the lock.
func (g *Gate) pump(now store.Reading) {
	if g.still && !g.quiet() {
		g.still = false
		wait.Signal(g.poke) // from now on it looks each second
	}
	if now.Wakes != g.wakes {
		g.wakes = now.Wakes
		g.planner.Void()
	}
	if g.planner.Queued() > 0 {
		g.need(now)
		if err := g.refused(now); err != nil {
			g.turnAway(func(*turns.Waiter) error { return err })
		} else if g.held {
			g.turnAway(func(w *turns.Waiter) error {
				if g.stands(w.Call, w.Part, now.Time()) {
					return nil
				}
				return errLookAgain
			})
		}
	}
	if !now.OK {
		g.alarm = 0
		return // nothing can be decided without the time; run looks again soon
	}
	grants, wake := g.planner.Serve(now.At, now.U)
	g.reach()
	for _, gr := range grants {
		gr.Wakes = now.Wakes
		gr.End(gr.Turn, nil)
	}
	g.planner.Hopeless(now.At, func(w *turns.Waiter, away turns.Away) { w.End(turns.Turn{}, g.usedUp(away, now.At)) })
	w, alarm := g.planner.Plan(now.At)
	if w != nil {
		g.writes <- w // never blocks: the planner has one at a time
	}
	g.wakeAt(wake, alarm)
}

// need says that the time is needed, once a second.
func (g *Gate) need(now store.Reading) {
	if d := now.At.Sub(g.needed); d > time.Second || d < 0 {
		g.needed = now.At
		g.clock.Need()
	}
}

// usedUp says why no permit comes in time.
func (g *Gate) usedUp(away turns.Away, now ledger.Instant) error {
	closed := &ClosedError{Reason: fetchworker.ReasonQuota, Until: away.Until.Time()}
	if away.Group != "" {
		closed.Detail = "the limits of its operation are used up: " + away.Group
	} else if g.planner.Effective(now).Hold.Sub(now) > turns.Patience {
		closed.Reason = fetchworker.ReasonThrottled
	}
	return closed
}
