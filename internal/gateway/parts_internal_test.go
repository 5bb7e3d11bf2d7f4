package gateway

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Beside small answers the readers of large ones work for half of the time; a
// gateway that has none to give reads on.
func TestALargeAnswerRestsBesideSmallOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes, parts = 10 * time.Millisecond, 40
		g := &Gateway{parts: make(chan struct{}, partsAtOnce)}
		all := func() time.Duration {
			began := time.Now()
			var readers sync.WaitGroup
			for range 2 * partsAtOnce {
				readers.Go(func() {
					for range parts {
						if err := g.parted(t.Context(), func() error { time.Sleep(takes); return nil }); err != nil {
							t.Error(err)
						}
					}
				})
			}
			readers.Wait()
			return time.Since(began)
		}
		if took := all(); took != 2*parts*takes {
			t.Errorf("alone they take %v", took)
		}
		g.small.Store(time.Now().UnixNano())
		// The last of the small ones counts for a while.
		if took, least := all(), 2*parts*takes+smallWithin/2; took < least-2*takes || took > least+2*takes {
			t.Errorf("beside one small answer they take %v", took)
		}
		ended := errors.New("no such part")
		g.small.Store(time.Now().UnixNano())
		began := time.Now()
		if err := g.parted(t.Context(), func() error { return ended }); !errors.Is(err, ended) || time.Since(began) > 0 {
			t.Errorf("a failure is told after %v: %v", time.Since(began), err)
		}
		stopped, stop := context.WithCancel(t.Context())
		defer stop()
		for range 2 * partsAtOnce { // whatever ends them, their turns are given back
			if err := g.parted(t.Context(), func() error { return ended }); !errors.Is(err, ended) {
				t.Error(err)
			}
			if err := g.parted(stopped, func() error { stop(); time.Sleep(takes); return nil }); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		if n := len(g.parts); n != 0 {
			t.Errorf("%d turns are not given back", n)
		}
	})
}
