package budget

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// memCell is a cell in memory.
type memCell struct {
	mu    sync.Mutex
	value []byte
	rev   uint64
}

func (c *memCell) get(context.Context) ([]byte, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value, c.rev, nil
}

func (c *memCell) put(_ context.Context, value []byte, rev uint64) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rev != c.rev {
		return 0, errStale
	}
	c.value, c.rev = value, c.rev+1
	return c.rev, nil
}

// TestCells: what every cell must do, so that tests over memory say something
// about the bucket.
func TestCells(t *testing.T) {
	suite := func(t *testing.T, c cell) {
		ctx := t.Context()
		value, rev, err := c.get(ctx)
		if value != nil || rev != 0 || err != nil {
			t.Fatalf("an empty cell: %q, %d, %v", value, rev, err)
		}
		first, err := c.put(ctx, []byte("a"), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.put(ctx, []byte("b"), 0); !errors.Is(err, errStale) {
			t.Errorf("created twice: %v", err)
		}
		second, err := c.put(ctx, []byte("c"), first)
		if err != nil || second <= first {
			t.Fatal(second, err)
		}
		if _, err := c.put(ctx, []byte("d"), first); !errors.Is(err, errStale) {
			t.Errorf("replaced a revision that is gone: %v", err)
		}
		if value, rev, err = c.get(ctx); string(value) != "c" || rev != second || err != nil {
			t.Errorf("%q, %d, %v", value, rev, err)
		}
		// Sixteen who add one byte each, by compare-and-set.
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				for {
					value, rev, err := c.get(ctx)
					if err != nil {
						t.Error(err)
						return
					}
					if _, err = c.put(ctx, append(append([]byte(nil), value...), 'x'), rev); err == nil {
						return
					} else if !errors.Is(err, errStale) {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		if value, _, _ = c.get(ctx); len(value) != 17 {
			t.Errorf("%d bytes after 16 additions to one", len(value))
		}
		// The ledger over it: claimers that conflict never take more than N.
		shapes := newShapes(perMinute(20))
		for value, rev, _ := c.get(ctx); ; value, rev, _ = c.get(ctx) {
			_ = value
			if _, err := c.put(ctx, newRegister().encode(), rev); err == nil {
				break
			}
		}
		var mu sync.Mutex
		got := 0
		for range 8 {
			all.Go(func() {
				for range 10 {
					value, rev, _ := c.get(ctx)
					r, err := decodeRegister(value)
					if err != nil {
						t.Error(err)
						return
					}
					next, blocks, _ := r.claim(shapes, simStart, order{class: light, want: 1})
					if _, err := c.put(ctx, next.encode(), rev); err == nil {
						mu.Lock()
						got += len(blocks)
						mu.Unlock()
					}
				}
			})
		}
		all.Wait()
		if got > 20 {
			t.Errorf("%d permits of 20", got)
		}
	}
	t.Run("memory", func(t *testing.T) { suite(t, &memCell{}) })
	t.Run("bucket", func(t *testing.T) {
		bubble(t, func(t *testing.T, b *bench) {
			suite(t, kvCell{b.kv, "permits.test"})
			// A deleted key is an empty cell.
			if err := b.kv.Delete(t.Context(), "permits.test"); err != nil {
				t.Fatal(err)
			}
			c := kvCell{b.kv, "permits.test"}
			if value, rev, err := c.get(t.Context()); value != nil || rev != 0 || err != nil {
				t.Fatalf("after a delete: %q, %d, %v", value, rev, err)
			}
			if _, err := c.put(t.Context(), []byte("a"), 0); err != nil {
				t.Error(err)
			}
		})
	})
}

// TestNeverTwoProbes: workers that see the record late, die and come back
// never probe together, as long as a probe ends within its lease.
func TestNeverTwoProbes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const lease, open = 30 * time.Second, time.Minute
		now := simStart.time()
		type view struct {
			c   Circuit
			rev int
		}
		names := []string{"w1", "w2", "w3"}
		record, rev := Circuit{State: CircuitClosed}, 0
		views := map[string]view{}
		for _, n := range names {
			views[n] = view{c: record}
		}
		probes := map[string]time.Time{} // who probes, and when its call ends at the latest
		write := func(n string, edit func(Circuit) Circuit) bool {
			v := views[n]
			next := edit(v.c)
			if next.equal(v.c) {
				return false
			}
			if v.rev != rev { // lost: read again
				views[n] = view{record, rev}
				return false
			}
			record, rev = next, rev+1
			views[n] = view{record, rev}
			return true
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			n := rapid.SampledFrom(names).Draw(t, "worker")
			for p, until := range probes {
				if !now.Before(until) {
					delete(probes, p)
				}
			}
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				request := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "request")
				write(n, func(c Circuit) Circuit { return c.failed(request, now, 3, open) })
			case 1:
				write(n, func(c Circuit) Circuit { return c.succeeded(now) })
			case 2:
				if write(n, func(c Circuit) Circuit { return c.claimed(n, now, now.Add(lease)) }) {
					probes[n] = now.Add(lease)
				}
			case 3:
				if _, probing := probes[n]; probing {
					o := Outcome(rapid.IntRange(0, int(Neutral)).Draw(t, "outcome"))
					for range 2 { // until it is stored
						write(n, func(c Circuit) Circuit { return c.probed(n, o, now, open) })
					}
					delete(probes, n)
				}
			case 4:
				views[n] = view{record, rev} // the watch
			case 5:
				now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second)
			}
			live := 0
			for _, until := range probes {
				if now.Before(until) {
					live++
				}
			}
			if live > 1 {
				t.Fatalf("%d probes at once: %v", live, probes)
			}
			if len(record.Row) >= 3 && record.State == CircuitClosed {
				t.Fatal("three failed and it is closed")
			}
		}
	})
}
