package budget

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
)

// load keeps gates busy until stop, and counts what arrives.
func load(ctx context.Context, p *provider, all *sync.WaitGroup, gates ...*Gate) {
	for _, g := range gates {
		for range 3 {
			all.Go(func() {
				for ctx.Err() == nil {
					permit, err := g.Acquire(ctx, turns.Ask{Lane: turns.Batch})
					if err != nil {
						time.Sleep(100 * time.Millisecond)
						continue
					}
					if permit.Start() == nil {
						p.call(10 * time.Millisecond)
						permit.Done(Report{Outcome: circuit.Success, Remaining: -1})
					} else {
						permit.Done(Report{Remaining: -1})
					}
				}
			})
		}
	}
}

func (p *provider) calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.arrivals)
}

// TestBucketMadeAnew: the bucket is deleted and made again, or set back to a
// copy of before, with all connections up and under load.
func TestBucketMadeAnew(t *testing.T) {
	for _, restored := range []bool{false, true} {
		t.Run(fmt.Sprintf("restored %v", restored), func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				limits := func(s *Settings) { s.Limits = ledger.Limits{{N: 50, Per: 10 * time.Second}} }
				gates := []*Gate{b.open("w1", limits), b.open("w2", limits)}
				var p provider
				var all sync.WaitGroup
				ctx, stop := context.WithCancel(t.Context())
				load(ctx, &p, &all, gates...)
				time.Sleep(time.Minute)
				copied, err := b.kv.Get(t.Context(), store.PermitsKey("fmp"))
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(7 * time.Second)
				if err := b.js.DeleteKeyValue(t.Context(), store.Bucket); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				topology(t, b.js)
				if restored {
					// A worker may have made a new one already: a copy of the bucket
					// takes its place.
					if _, err := b.kv.Put(t.Context(), store.PermitsKey("fmp"), copied.Value()); err != nil {
						t.Fatal(err)
					}
				}
				before := p.calls()
				time.Sleep(15 * time.Second)
				if n := p.calls() - before; n < 10 {
					t.Errorf("%d calls in 15 s", n)
				}
				writes := gates[0].State().Writes + gates[1].State().Writes
				time.Sleep(time.Minute)
				if n := p.calls() - before; n < 300 {
					t.Errorf("%d calls in 75 s", n)
				}
				if n := gates[0].State().Writes + gates[1].State().Writes - writes; n > 1000 {
					t.Errorf("%d writes in a minute", n)
				}
				if err := fleet.Pause(t.Context(), b.kv, "fmp", time.Now().Add(time.Minute), "alice", "to see"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				before = p.calls()
				time.Sleep(10 * time.Second)
				if n := p.calls() - before; n > 0 {
					t.Errorf("%d calls during a pause", n)
				}
				stop()
				all.Wait()
				if worst := p.worst(10 * time.Second); worst > 50 {
					t.Errorf("%d calls in 10 s, of 50", worst)
				}
			})
		})
	}
}

// TestIdleBucketMadeAnew: nobody writes, and an order is seen all the same.
func TestIdleBucketMadeAnew(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		for range 20 {
			b.call(g, circuit.Success, "")
		}
		time.Sleep(time.Minute)
		if err := b.js.DeleteKeyValue(t.Context(), store.Bucket); err != nil {
			t.Fatal(err)
		}
		topology(t, b.js)
		time.Sleep(20 * time.Second)
		if err := fleet.Pause(t.Context(), b.kv, "fmp", time.Now().Add(time.Minute), "alice", "to see"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if g.State().PausedUntil.IsZero() {
			t.Error("a pause is not seen after a second")
		}
	})
}
