package budget

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
)

// fate is what becomes of a write, and what its writer hears of it.
type fate int

const (
	stored   fate = iota
	beaten        // another's was first
	unheard       // stored, and nobody is told
	vanished      // not stored, and nobody is told
)

func (f fate) String() string { return [...]string{"stored", "beaten", "unheard", "vanished"}[f] }

var errNoReply = errors.New("no reply")

// fated is a cell whose next writes have a fate each; those after them are
// stored. The functions run without a lock, and may be nil.
type fated struct {
	store.Cell
	before func() // a write is stored
	after  func(value []byte, rev uint64)
	get    func(context.Context) error // instead of a read

	mu    sync.Mutex
	fates []fate
}

func (c *fated) meet(fates ...fate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fates = fates
}

func (c *fated) next() (f fate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.fates) > 0 {
		f, c.fates = c.fates[0], c.fates[1:]
	}
	return f
}

func (c *fated) Put(ctx context.Context, value []byte, rev uint64) (uint64, error) {
	if c.before != nil {
		c.before()
	}
	f := c.next()
	switch f {
	case beaten:
		return 0, store.ErrStale
	case vanished:
		return 0, errNoReply
	case stored, unheard:
	}
	next, err := c.Cell.Put(ctx, value, rev)
	if err == nil && c.after != nil {
		c.after(value, next)
	}
	if err == nil && f == unheard {
		return 0, errNoReply
	}
	return next, err //nolint:wrapcheck // as it is
}

func (c *fated) Get(ctx context.Context) ([]byte, uint64, error) {
	if c.get != nil {
		if err := c.get(ctx); err != nil {
			return nil, 0, err
		}
	}
	return c.Cell.Get(ctx) //nolint:wrapcheck // as it is
}

// fatesOf puts a cell with fates in the place of a gate's.
func fatesOf(c *store.Cell) *fated {
	f := &fated{Cell: *c}
	*c = f
	return f
}

func aDay(n int) func(*Settings) {
	return func(s *Settings) { s.Limits = ledger.Limits{{N: n, Per: 24 * time.Hour}} }
}

// What a worker believes after a write of the register is what stands, and that
// is never less than what was called: a permit is given back once at the most,
// whatever its worker heard of that.
func TestWhatBecomesOfAWriteOfPermits(t *testing.T) {
	for _, c := range []struct {
		fates   []fate
		claimed int // of ten a day, after one was asked for
		lost    int // of those, after it was given back with the same fates
		perhaps int // one more: what was given back unheard may have been seen before it was forgotten
	}{
		{[]fate{stored}, 1, 0, 0},
		{[]fate{beaten}, 1, 0, 0},
		{[]fate{beaten, beaten, beaten}, 1, 0, 0},
		// What nobody heard of counts as claimed, and as not given back.
		{[]fate{unheard}, 2, 1, 1},
		{[]fate{vanished}, 1, 1, 0},
		{[]fate{unheard, beaten}, 2, 1, 1},
		{[]fate{vanished, unheard}, 2, 2, 0},
	} {
		t.Run(fmt.Sprint(c.fates), func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				g, other := b.open("w1", aDay(10)), b.open("w2", aDay(10))
				cell := fatesOf(&g.cell)
				for range 2 { // in the same tick: a refund too many would free their places
					b.begin(other, asks("other")).Done(Report{Outcome: Success, Remaining: -1})
				}
				settle()
				cell.meet(c.fates...)
				p, err := g.Acquire(t.Context(), asks("a"))
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Second)
				left := 8 - c.claimed
				for _, g := range b.gates {
					if got := g.State().Left; got != left {
						t.Errorf("%s knows of %d left after the claim, of %d", g.s.Worker, got, left)
					}
				}
				cell.meet(c.fates...)
				p.Done(Report{Remaining: -1})
				time.Sleep(5 * time.Second)
				left = 8 - c.lost
				for _, g := range b.gates {
					if got := g.State().Left; got > left || got < left-c.perhaps {
						t.Errorf("%s knows of %d left after the return, of %d", g.s.Worker, got, left)
					}
				}
			})
		})
	}
}

// The last permit goes to one, also when another's claim of it is stored while
// ours is on its way.
func TestAClaimThatWasBeatenIsNone(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g, other := b.open("w1", aDay(1)), b.open("w2", aDay(1))
		cell := fatesOf(&g.cell)
		var faster error
		cell.before = func() {
			cell.before = nil
			p, err := other.Acquire(t.Context(), asks("other"))
			if faster = err; err == nil {
				faster = p.Start()
			}
		}
		p, err := g.Acquire(t.Context(), asks("a"))
		if faster != nil {
			t.Fatal(faster)
		}
		var closed *ClosedError
		if !errors.As(err, &closed) || closed.Reason != fetchworker.ReasonQuota {
			t.Errorf("a second permit of one: %v, %v", p != nil, err)
		}
	})
}

// The watch may show a claim as taken before its writer hears that it has it:
// whoever waits for that claim is not sent away for a day.
func TestAClaimIsSeenBeforeItsAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", aDay(1))
		fatesOf(&g.cell).after = func([]byte, uint64) { time.Sleep(50 * time.Millisecond) }
		p, err := g.Acquire(t.Context(), asks("a"))
		if err != nil {
			t.Fatalf("the one permit of the day was not had: %v", err)
		}
		p.Done(Report{Remaining: -1})
	})
}

// A hold that comes while the register is read again, and whose write is
// planned and not begun when the worker stops, is stored before it has stopped.
func TestAHoldThatIsPlannedWhenItsWorkerStops(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		other := b.open("other", aDay(100))
		const rounds = 10 // which of the two the writer takes is chance
		var gates []*Gate
		var permits, spares []*Permit
		for i := range rounds {
			g := b.open(fmt.Sprint("w", i), aDay(100))
			spare, err := g.Acquire(t.Context(), asks("b"))
			if err != nil {
				t.Fatal(err)
			}
			gates, permits, spares = append(gates, g), append(permits, b.begin(g, asks("a"))), append(spares, spare)
		}
		settle()
		for i, g := range gates {
			cell := fatesOf(&g.cell)
			cell.meet(beaten)
			planned := make(chan struct{})
			cell.get = func(ctx context.Context) error {
				cell.get = nil
				time.Sleep(20 * time.Millisecond) // what was beaten is not tried at once
				permits[i].Done(throttled(time.Duration(i+1) * time.Hour))
				close(planned)
				<-g.running.Done()
				return context.Cause(ctx)
			}
			spares[i].Done(Report{Remaining: -1}) // a write
			<-planned
			if len(g.writes) == 0 {
				t.Fatal("nothing is planned")
			}
			g.Close()
			settle()
			if d := time.Until(other.State().HoldUntil); d < time.Duration(i+1)*time.Hour-time.Minute {
				t.Errorf("worker %d took the hold of its last call with it: %v are left", i, d)
			}
		}
	})
}

// A change of the circuits is stored once, whatever its writer hears, and what
// comes while it is written is stored after it.
func TestWhatBecomesOfAChangeOfTheCircuits(t *testing.T) {
	for _, f := range []fate{stored, beaten, unheard, vanished} {
		t.Run(f.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				g, other := b.open("w1", nil), b.open("w2", nil)
				late := b.begin(g, asks("r3"))
				cell := fatesOf(&g.circuit.cell)
				cell.before = func() {
					cell.before = nil
					late.Done(Report{Outcome: Failure, Remaining: -1})
				}
				cell.meet(f, f)
				b.begin(other, asks("r1")).Done(Report{Outcome: Failure, Remaining: -1})
				settle()
				b.begin(g, asks("r2")).Done(Report{Outcome: Failure, Remaining: -1})
				time.Sleep(time.Second)
				b.refused(other, fetchworker.ReasonCircuitOpen)
				if n := b.opened(); n != 1 {
					t.Errorf("its opening was told %d times", n)
				}
				e, err := b.kv.Get(t.Context(), store.CircuitKey("fmp"))
				if err != nil {
					t.Fatal(err)
				}
				r, err := circuit.Decode(e.Value())
				if err != nil || len(r.Operations) != 1 || len(r.Operations[0].Row) != 3 {
					t.Errorf("%s, %v: want three failures", e.Value(), err)
				}
			})
		})
	}
}

// What another wrote after us, and what we were told of before the answer to
// our own write, is the newer of the two.
func TestAnOwnChangeIsHeardOfLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cell := &fated{Cell: &memCell{}}
		s := newCircuitSync(cell, "w", func(_, _ circuit.Record, _ bool) {}, func() {}, func() {})
		now := time.Now()
		cell.after = func(value []byte, rev uint64) {
			cell.after = nil
			r, err := circuit.Decode(value)
			if err != nil {
				t.Error(err)
			}
			r = r.Failed(circuit.Call{Operation: "quote", Agent: "bob", Key: "theirs"}, Failure, now, circuit.Policy{Failures: 2, Open: time.Minute})
			r.Writer = "other"
			s.learn(r, rev+1)
		}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { s.run(ctx) })
		err := s.do(t.Context(), func(r circuit.Record) circuit.Record {
			return r.Failed(circuit.Call{Operation: "quote", Agent: "alice", Key: "ours"}, Failure, now, circuit.Policy{Failures: 2, Open: time.Minute})
		})
		if err != nil || !s.record().AnyHeld() {
			t.Errorf("what the other wrote after us is gone: %+v, %v", s.record(), err)
		}
		stop()
		running.Wait()
	})
}

// A server that comes back with an older copy of its files is believed, and what
// this worker knows of the calls since is in it again.
func TestAServerThatIsSetBack(t *testing.T) {
	for name, before := range map[string]bool{
		"to before its register was made": true, "to before its last calls": false,
		"to before it joined a quota": true, "to before its last calls of a quota": false,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				minute := func(s *Settings) {
					s.Limits = ledger.Limits{{N: 10, Per: time.Minute}}
					if strings.Contains(name, "quota") {
						s.Quota = "sec"
					}
				}
				if strings.Contains(name, "quota") {
					b.register("fmp")
				}
				copied := t.TempDir()
				keep := func() {
					b.stop()
					if err := os.CopyFS(copied, os.DirFS(b.dir)); err != nil {
						t.Fatal(err)
					}
					b.start()
					time.Sleep(3 * time.Second)
				}
				if before {
					keep()
				}
				g := b.open("w1", minute)
				b.call(g, Success, "")
				if !before {
					keep()
				}
				for range 6 {
					b.call(g, Success, "")
				}
				b.stop()
				b.dir = copied
				b.start()
				time.Sleep(3 * time.Second)
				synctest.Wait()
				if left := g.State().Left; left > 3 {
					t.Errorf("%d of ten left after seven calls", left)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
				defer cancel()
				for range 5 {
					p, err := g.Acquire(ctx, turns.Ask{})
					if err != nil {
						t.Fatalf("no permit within a window and a half: %v", err)
					}
					p.Done(Report{Remaining: -1})
				}
			})
		})
	}
}

// Permits in hand are void once the machine has slept.
func TestPermitsInHandOfBeforeASleep(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 12 {
			all.Go(func() {
				if p, err := g.Acquire(ctx, turns.Ask{Lane: turns.Batch}); err == nil {
					p.Done(Report{Remaining: -1})
				}
			})
		}
		for g.State().InHand == 0 {
			time.Sleep(time.Millisecond)
		}
		g.mu.Lock()
		g.wakes--
		g.pump(g.clock.Read())
		left := g.planner.InHand()
		g.mu.Unlock()
		if left > 0 {
			t.Errorf("%d permits in hand from before", left)
		}
		cancel()
		all.Wait()
	})
}

// One that waits for another permit keeps the place that only one may have, and
// lets one of a faster lane go before it as long as it has none.
func TestWhoRenewsKeepsItsTurn(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Concurrency = 1 })
		for _, key := range []string{"1", "2", "3"} {
			b.end(g, ask("alice", "quote", key), Failure)
		}
		batch := ask("bob", "quote", "1")
		batch.Lane = turns.Batch
		p, err := g.Acquire(t.Context(), batch)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if err := p.Start(); !errors.Is(err, ErrLapsed) {
			t.Fatalf("started late: %v", err)
		}
		fatesOf(&g.cell).before = func() { time.Sleep(50 * time.Millisecond) }
		renewed := make(chan error, 1)
		go func() { renewed <- p.Renew(t.Context()) }()
		synctest.Wait()
		began := time.Now()
		first, err := g.Acquire(t.Context(), ask("carol", "quote", "1"))
		if err != nil || time.Since(began) > time.Second {
			t.Fatalf("the interactive one waited %v: %v", time.Since(began), err)
		}
		if err := <-renewed; !errors.Is(err, errLookAgain) {
			t.Errorf("renewed: %v", err)
		}
		first.Done(Report{Remaining: -1})
		settle()
		if s := g.State(); len(g.alone) != 0 || s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("left behind: %v, %d in flight, %d waiting", g.alone, s.InFlight, s.Waiting)
		}
	})
}

// A register that cannot be read is lost, unless a later one is known already;
// and where the time is not known it is looked at once that is.
func TestARegisterThatCannotBeRead(t *testing.T) {
	garbled := []byte{1, 2, 3}
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", aDay(10))
		b.call(g, Success, "")
		left := func(rev func(known uint64) uint64) int {
			g.mu.Lock()
			defer g.mu.Unlock()
			_, known := g.planner.Known()
			g.seePermits(garbled, rev(known))
			return g.planner.Left(g.clock.Read().At)
		}
		if n := left(func(known uint64) uint64 { return known - 1 }); n != 9 {
			t.Errorf("%d left of 9 after an older one", n)
		}
		if n := left(func(known uint64) uint64 { return known + 1 }); n != 0 {
			t.Errorf("%d left after it was lost", n)
		}
	})
	bubble(t, func(t *testing.T, b *bench) {
		knows := errors.New("nobody knows")
		clock := store.NewClock(func(context.Context) (time.Time, error) { return time.Now().Add(time.Hour), knows })
		js, kv := b.connect()
		mirror, err := store.NewMirror(t.Context(), js, kv, clock)
		if err != nil {
			t.Fatal(err)
		}
		defer mirror.Close()
		// No CreateRegister: it is lost.
		g, err := Open(t.Context(), js, kv, Settings{Provider: "fmp", Worker: "w1", Limits: perMinute(60), Mirror: mirror}, nil)
		if err != nil {
			t.Fatal(err)
		}
		b.gates = append(b.gates, g)
		time.Sleep(time.Second)
		if e, err := kv.Get(t.Context(), store.PermitsKey("fmp")); err == nil {
			t.Errorf("written for a moment that nobody knows: %x", e.Value())
		}
		knows = nil
		if err := clock.Sample(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		began := time.Now()
		p, err := g.Acquire(ctx, turns.Ask{})
		if err != nil {
			t.Fatalf("no permit within a window and a half: %v", err)
		}
		if d := time.Since(began); d < time.Minute {
			t.Errorf("a permit after %v: what was lost counts from when the time is known", d)
		}
		p.Done(Report{Remaining: -1})
	})
}

// What waits for the circuits' record to be written is bounded.
func TestCircuitChangesAreBounded(t *testing.T) {
	s := newCircuitSync(nil, "w", func(_, _ circuit.Record, _ bool) {}, func() {}, func() {})
	for range 10 * mostChanges {
		s.post(func(r circuit.Record) circuit.Record { return r })
	}
	if len(s.ops) > mostChanges {
		t.Errorf("%d changes wait", len(s.ops))
	}
}

// Two who change the same value at once both have their change in it.
func TestTwoOrdersAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var all sync.WaitGroup
		for range 8 {
			_, kv := b.connect()
			all.Go(func() {
				for range 5 {
					err := store.Change(t.Context(), kv, store.ControlKey("fmp"), func(v []byte) ([]byte, error) { return append(slices.Clone(v), 'x'), nil })
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if e, err := b.kv.Get(t.Context(), store.ControlKey("fmp")); err != nil || len(e.Value()) != 40 {
			t.Errorf("%d of 40 changes, %v", len(e.Value()), err)
		}
	})
}

// What a provider says of its count in a 429 is not booked: its hold says what
// is to be waited for.
func TestTheCountOfA429(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", aDay(100))
		b.begin(g, turns.Ask{}).Done(Report{Outcome: Throttled, RetryAfter: 2 * time.Second, Remaining: 0})
		time.Sleep(3 * time.Second)
		if s := g.State(); s.Left != 99 || s.Foreign != 0 {
			t.Errorf("%d left of 99, %d counted as others'", s.Left, s.Foreign)
		}
	})
}
