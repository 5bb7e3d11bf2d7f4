package budget

import (
	"context"
	"errors"
	"sync"
	"testing"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
)

// memCell is a cell in memory.
type memCell struct {
	mu    sync.Mutex
	value []byte
	rev   uint64
}

func (c *memCell) Get(context.Context) ([]byte, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value, c.rev, nil
}

func (c *memCell) Put(_ context.Context, value []byte, rev uint64) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rev != c.rev {
		return 0, store.ErrStale
	}
	c.value, c.rev = value, c.rev+1
	return c.rev, nil
}

// TestCells: what every cell must do, so that tests over memory say something
// about the bucket.
func TestCells(t *testing.T) {
	suite := func(t *testing.T, c store.Cell) {
		ctx := t.Context()
		value, rev, err := c.Get(ctx)
		if value != nil || rev != 0 || err != nil {
			t.Fatalf("an empty cell: %q, %d, %v", value, rev, err)
		}
		first, err := c.Put(ctx, []byte("a"), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Put(ctx, []byte("b"), 0); !errors.Is(err, store.ErrStale) {
			t.Errorf("created twice: %v", err)
		}
		second, err := c.Put(ctx, []byte("c"), first)
		if err != nil || second <= first {
			t.Fatal(second, err)
		}
		if _, err := c.Put(ctx, []byte("d"), first); !errors.Is(err, store.ErrStale) {
			t.Errorf("replaced a revision that is gone: %v", err)
		}
		if value, rev, err = c.Get(ctx); string(value) != "c" || rev != second || err != nil {
			t.Errorf("%q, %d, %v", value, rev, err)
		}
		// Sixteen who add one byte each, by compare-and-set.
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				for {
					value, rev, err := c.Get(ctx)
					if err != nil {
						t.Error(err)
						return
					}
					if _, err = c.Put(ctx, append(append([]byte(nil), value...), 'x'), rev); err == nil {
						return
					} else if !errors.Is(err, store.ErrStale) {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		if value, _, _ = c.Get(ctx); len(value) != 17 {
			t.Errorf("%d bytes after 16 additions to one", len(value))
		}
		// The ledger over it: claimers that conflict never take more than N.
		shapes := ledger.NewShapes(perMinute(20))
		for value, rev, _ := c.Get(ctx); ; value, rev, _ = c.Get(ctx) {
			_ = value
			if _, err := c.Put(ctx, ledger.New(newEpoch()).Encode(), rev); err == nil {
				break
			}
		}
		var mu sync.Mutex
		got := 0
		for range 8 {
			all.Go(func() {
				for range 10 {
					value, rev, _ := c.Get(ctx)
					r, err := ledger.Decode(value)
					if err != nil {
						t.Error(err)
						return
					}
					next, blocks, _ := r.Claim(shapes, simStart, ledger.Order{Patience: turns.Patience, Class: ledger.Light, Want: 1})
					if _, err := c.Put(ctx, next.Encode(), rev); err == nil {
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
			suite(t, store.At(b.kv, "permits.test"))
			// A deleted key is an empty cell.
			if err := b.kv.Delete(t.Context(), "permits.test"); err != nil {
				t.Fatal(err)
			}
			c := store.At(b.kv, "permits.test")
			if value, rev, err := c.Get(t.Context()); value != nil || rev != 0 || err != nil {
				t.Fatalf("after a delete: %q, %d, %v", value, rev, err)
			}
			if _, err := c.Put(t.Context(), []byte("a"), 0); err != nil {
				t.Error(err)
			}
		})
	})
}
