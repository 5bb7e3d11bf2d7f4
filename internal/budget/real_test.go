package budget

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/wait"
)

// TestRealTime: a fleet of gates on real time and a server that syncs every
// write: 16 workers, 100 calls a second. Half a minute, so only in full.
func TestRealTime(t *testing.T) {
	if !*simFull {
		t.Skip("half a minute of real time: -sim.full")
	}
	s, err := server.NewServer(&server.Options{
		Port: -1, Host: "127.0.0.1", JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, SyncAlways: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	limit := ledger.Window{N: 1000, Per: 10 * time.Second}
	var gates []*Gate
	for i := range 16 {
		nc, err := nats.Connect(s.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		kv := topology(t, js)
		if err := CreateRegister(t.Context(), kv, "fmp"); err != nil {
			t.Fatal(err)
		}
		g, err := Open(t.Context(), js, kv, Settings{Provider: "fmp", Worker: string(rune('a' + i)), Limits: ledger.Limits{limit}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		gates = append(gates, g)
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	var mu sync.Mutex
	var arrivals []time.Time
	lapsed := 0
	var all sync.WaitGroup
	for _, g := range gates {
		for range 32 {
			all.Go(func() {
				for {
					p, err := g.Acquire(ctx, turns.Ask{Lane: turns.Batch})
					if err != nil {
						return
					}
					err = p.Start()
					mu.Lock()
					if err == nil {
						arrivals = append(arrivals, time.Now())
					} else {
						lapsed++
					}
					mu.Unlock()
					if err == nil {
						_ = wait.For(ctx, 100*time.Millisecond)
					}
					p.Done(Report{Outcome: Success, Remaining: -1})
				}
			})
		}
	}
	all.Wait()
	var writes, conflicts int64
	for _, g := range gates {
		st := g.State()
		writes, conflicts = writes+st.Writes, conflicts+st.Conflicts
		g.Close()
	}
	s.Shutdown()
	s.WaitForShutdown()
	slices.SortFunc(arrivals, time.Time.Compare)
	worst, steady := 0, 0
	for i, first := 0, 0; i < len(arrivals); i++ {
		for arrivals[i].Sub(arrivals[first]) >= limit.Per {
			first++
		}
		worst = max(worst, i-first+1)
		if arrivals[i].Sub(arrivals[0]) > 10*time.Second {
			steady++
		}
	}
	t.Logf("worst window %d of %d; %.1f calls a second; %.3f writes a permit, %d of %d lost; %d permits lapsed",
		worst, limit.N, float64(steady)/20, float64(writes)/float64(len(arrivals)), conflicts, writes, lapsed)
	if worst > limit.N {
		t.Error("over")
	}
}
