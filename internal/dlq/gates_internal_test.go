package dlq

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// What a gate says as a provider is served, held, paused, given up and served
// again: whether its letters may go, which circuits a letter could probe, what a
// crowd behind them waits for, and when it was last seen to open.
func TestWhatAGateSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.Start(t)
		defer b.Stop()
		ctx := t.Context()
		board, err := fleet.Watch(ctx, b.JS, b.KV)
		if err != nil {
			t.Fatal(err)
		}
		defer board.Close()
		put := func(key string, value []byte) {
			t.Helper()
			if _, err := b.KV.Put(ctx, key, value); err != nil {
				t.Fatal(err)
			}
		}
		ordered := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		g := newGates(board)
		see := func(step string, held fetchworker.Reason, due string, retired bool) gate {
			t.Helper()
			synctest.Wait()
			time.Sleep(2 * gateLasts)
			now := board.Now()
			seen := g.of("fmp", now)
			if got := strings.Join(seen.due(now), " "); seen.held != held || got != due || seen.retired != retired {
				t.Errorf("%s: held %q, due for a probe %q, retired %t", step, seen.held, got, seen.retired)
			}
			return seen
		}

		var running sync.WaitGroup
		defer running.Wait()
		serve := func() (leave func()) {
			lives, end := context.WithCancel(ctx)
			beat := func() { ordered(fleet.Beat(ctx, b.JS, fleet.Worker{Name: "w", Providers: []string{"fmp"}})) }
			beat()
			running.Go(func() {
				for wait.For(lives, 5*time.Second) == nil {
					beat()
				}
				ordered(b.KV.Delete(ctx, "worker.w"))
			})
			return func() { end(); running.Wait() }
		}
		leave := serve()
		see("served", "", "", false)

		// An operation's circuit, and then another agent's.
		open := circuit.Circuit{State: circuit.Open, Agent: "alice", OpenUntil: time.Now()}
		circuits := func(all ...circuit.Operation) {
			value, err := json.Marshal(circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, Operations: all})
			ordered(err)
			put("circuit.fmp", value)
		}
		circuits(circuit.Operation{Name: "quote", Circuit: open})
		alices := see("a circuit of one operation's", "", "quote", false).shut()
		open.Agent = "bob"
		circuits(circuit.Operation{Name: "quote", Circuit: open})
		if bobs := see("and then another agent's", "", "quote", false).shut(); alices == "" || bobs == "" || alices == bobs {
			t.Errorf("a crowd that waits for %q would not see that it is %q now", alices, bobs)
		}

		// A hold opens by itself, and has opened when it was seen to have.
		register := ledger.New(1)
		register.Throttled(ledger.InstantOf(time.Now()), "w", 2*time.Minute, 0, 0.5)
		put(store.PermitsKey("fmp"), register.Encode())
		before := see("throttled", fetchworker.ReasonThrottled, "quote", false)
		time.Sleep(2*time.Minute - time.Second)
		see("throttled for a moment yet", fetchworker.ReasonThrottled, "quote", false)
		time.Sleep(2 * time.Second)
		opened := see("the hold is over", "", "quote", false).lifted
		if !opened.After(before.lifted) {
			t.Errorf("that it opened was not seen: %v", opened)
		}
		time.Sleep(time.Minute)
		if again := see("a minute later", "", "quote", false).lifted; !again.Equal(opened) {
			t.Errorf("it opened at %v, and a minute later at %v", opened, again)
		}

		// What an operator orders, with a worker and without.
		ordered(fleet.Pause(ctx, b.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"))
		see("paused", fetchworker.ReasonPaused, "", false)
		leave()
		see("paused, without a worker", fetchworker.ReasonPaused, "", false)
		ordered(fleet.Resume(ctx, b.KV, "fmp"))
		circuits(circuit.Operation{Name: "quote", Circuit: open}) // which a resumption closes
		if absent := time.Since(see("without a worker", fetchworker.ReasonNoWorker, "", false).absent); absent < 0 || absent > 20*time.Second {
			t.Errorf("the worker that has just left is away for %v", absent)
		}
		ordered(fleet.Retire(ctx, b.KV, "fmp", "ann", "contract ended"))
		see("given up", fetchworker.ReasonNoWorker, "", true)
		leave = serve()
		see("served again, whatever the note says", "", "quote", false)
		leave()
		see("and given up again", fetchworker.ReasonNoWorker, "", true)
	})
}

// Whose turn it is to probe: an agent's that has not probed, then a request's
// that has not failed, then a call's that was not the probe, then who waits for it.
func TestWhoseTurnItIsToProbe(t *testing.T) {
	letter := func(agent, symbol string, failures int, lane fetchworker.Lane) Letter {
		return Letter{
			Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: agent}, Lane: lane,
			Failures: failures, Body: []byte(`{"params":{"symbol":"` + symbol + `"}}`),
		}
	}
	c := circuit.Circuit{State: circuit.Open, Probes: []circuit.Probe{{Agent: "alice", Call: letter("", "A", 0, "").Call().Key}}}
	const interactive, batch = fetchworker.LaneInteractive, fetchworker.LaneBatch
	once := letter("bob", "A", 0, interactive)
	once.History = []Attempt{{Class: wire.ClassTransient}}
	order := []Letter{
		letter("bob", "B", 0, interactive),
		letter("bob", "B", 0, batch),
		letter("bob", "A", 0, interactive),
		letter("bob", "A", 0, batch),
		letter("bob", "B", 1, interactive), // near its end: the probe may be it
		letter("bob", "B", 2, batch),
		once,
		letter("alice", "B", 0, interactive),
		letter("alice", "A", 0, batch),
		letter("alice", "B", 1, interactive),
		letter("alice", "A", 3, batch),
	}
	for i := range len(order) - 1 {
		if before, after := rankOf(order[i], c), rankOf(order[i+1], c); !before.before(after) {
			t.Errorf("%d: %v goes before %v", i, after, before)
		}
	}
}

// Those who release together are counted while letters come so fast that nobody
// waits for any, and those who have left no longer.
func TestWhoReleasesIsCountedInACrowdToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRooms(nil, "", nil)
		for i, c := range []struct {
			after         time.Duration
			waiting, want int
		}{
			{0, 0, 1},
			{0, 3, 3},
			{time.Second, 0, 3},
			{time.Second, 1, 3},
			{3 * time.Second, 0, 3},
			{4 * time.Second, 0, 3},
			{6 * time.Second, 0, 1},
			{time.Second, 2, 2},
			{6 * time.Second, 1, 2},
			{6 * time.Second, 1, 1},
		} {
			time.Sleep(c.after)
			if r.saw(&jetstream.ConsumerInfo{NumWaiting: c.waiting}); r.sharers() != c.want {
				t.Errorf("%d: %d share, want %d", i, r.sharers(), c.want)
			}
		}
	})
}
