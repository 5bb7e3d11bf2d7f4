package budget

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/store"
)

// Whoever begins to follow while the watch is being opened again is told of
// everything, also of what had been told by then.
func TestFollowedWhileTheWatchOpensAgain(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		const keys = 40
		for i := range keys {
			if _, err := b.kv.Put(t.Context(), store.WorkerKey(fmt.Sprint("w", i)), []byte(`{"providers":["fmp"]}`)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		m, err := store.NewMirror(t.Context(), b.js, b.kv, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for round := range 5 { // a beat is believed for eleven seconds
			var later sync.WaitGroup
			var mu sync.Mutex
			told := make([]map[string]bool, keys)
			views, leaves := make([]*fleet.View, keys), make([]func(), keys)
			opening, n := false, 0
			leave := m.Follow(&store.Follower{
				Lost: func() { opening = true },
				See: func(store.Entry) {
					if !opening || n == keys {
						return
					}
					i := n
					n++
					later.Go(func() { // it comes in between this one and some of the next
						leaves[i] = m.Follow(&store.Follower{Lost: func() {}, See: func(e store.Entry) {
							mu.Lock()
							defer mu.Unlock()
							if told[i] == nil {
								told[i] = map[string]bool{}
							}
							told[i][e.Key] = true
						}})
						views[i] = fleet.Follow(m)
					})
				},
			})
			m.Reopen()
			time.Sleep(time.Second)
			synctest.Wait()
			leave()
			later.Wait()
			if n < keys {
				t.Fatalf("%d followers", n)
			}
			mu.Lock()
			for i, keysTold := range told {
				if len(keysTold) != keys {
					t.Fatalf("round %d: follower %d was told of %d keys of %d: %v", round, i, len(keysTold), keys, slices.Sorted(maps.Keys(keysTold)))
				}
			}
			mu.Unlock()
			for i, v := range views {
				if n := len(v.Workers()); n != keys {
					t.Errorf("round %d: view %d has %d workers of %d", round, i, n, keys)
				}
				v.Close()
				leaves[i]()
			}
		}
	})
}
