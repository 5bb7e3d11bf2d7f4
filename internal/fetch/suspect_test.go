package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// vanish delivers a provider's waiting messages n times to somebody who
// vanishes with them.
func (r *rig) vanish(n int) {
	r.t.Helper()
	for range n {
		nc := r.b.Connect(r.t)
		js, err := broker.JetStream(nc)
		if err != nil {
			r.t.Fatal(err)
		}
		var held sync.WaitGroup
		for shard := range wire.Shards {
			c, err := js.CreateOrUpdateConsumer(context.Background(), fetchworker.StreamRequests, broker.RequestConsumer("fmp", fetchworker.LaneInteractive, shard, 256))
			if err != nil {
				r.t.Fatal(err)
			}
			held.Go(func() {
				batch, err := c.Fetch(10, jetstream.FetchMaxWait(time.Second))
				if err != nil {
					r.t.Error(err)
					return
				}
				for range batch.Messages() {
				}
			})
		}
		held.Wait()
		nc.Close()
		time.Sleep(11 * time.Second) // AckWait
	}
}

// running watches for lone runs: the keys that are raised.
func (r *rig) running() (raised func() []string, stop func()) {
	r.t.Helper()
	var mu sync.Mutex
	var all []string
	sub, err := r.b.NC.Subscribe("$KV."+wire.BucketProviders+".suspect.>", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(string(m.Data), "running") {
			all = append(all, m.Subject)
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	flush(r.b.NC)
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), all...)
	}, func() { _ = sub.Unsubscribe() }
}

// cleanOfSuspects waits until nothing stands against any message.
func (r *rig) cleanOfSuspects(within time.Duration) {
	r.t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		left := r.suspects()
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			r.t.Errorf("still stand after %v: %v", within, left)
			return
		}
	}
}

// TestWhatWeHandBackIsNoSuspect has a request that waits for its permit
// through ten restarts of the only worker.
func TestWhatWeHandBackIsNoSuspect(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.env["FMP_REQUESTS_PER_MINUTE"] = "1"
		r.start(nil)() // the consumers are there
		raised, unwatch := r.running()
		defer unwatch()
		first := r.start(nil)
		r.final(r.quote("alice", "first", "FIRST", ""), 5*time.Second)
		waits := r.quote("bob", "second", "SECOND", "")
		time.Sleep(500 * time.Millisecond)
		first()
		for range 9 {
			stop := r.start(nil)
			time.Sleep(500 * time.Millisecond)
			stop()
		}
		defer r.start(nil)()
		if a := r.final(waits, 70*time.Second); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v", a)
		}
		if lone := raised(); len(lone) > 0 {
			t.Errorf("ran alone: %v", lone)
		}
		r.cleanOfSuspects(5 * time.Second)
	})
}

// TestASuspectLeavesNoRecord: one that turns out well is forgotten, and so is
// one whose worker had no time to forget it.
func TestASuspectLeavesNoRecord(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.start(nil)()
		raised, unwatch := r.running()
		defer unwatch()
		id := r.quote("alice", "q", "AAPL", "")
		r.vanish(5)
		if _, err := r.b.KV.PutString(t.Context(), "suspect."+fetchworker.StreamRequests+".4711", `{"handed_back":3}`); err != nil {
			t.Fatal(err)
		}
		defer r.start(nil)()
		if a := r.final(id, 15*time.Second); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v", a)
		}
		if len(raised()) == 0 {
			t.Error("it did not run alone")
		}
		r.cleanOfSuspects(5 * time.Second)
	})
}

// TestARunThatMayStillGoOnIsNoDeath: what an outage of the server leaves in
// the bucket are runs whose workers live. They are waited for, not counted.
func TestARunThatMayStillGoOnIsNoDeath(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.start(nil)()
		id := r.quote("alice", "q", "AAPL", "")
		r.vanish(5)
		key := "suspect." + fetchworker.StreamRequests + ".1"
		if _, err := r.b.KV.PutString(t.Context(), key, `{"running":["cut-off","cut-off","cut-off"]}`); err != nil {
			t.Fatal(err)
		}
		living, die := context.WithCancel(t.Context())
		var lives sync.WaitGroup
		lives.Go(func() { fleet.Present(living, r.b.JS, r.b.KV, fleet.Worker{Name: "cut-off"}, nil) })
		defer lives.Wait()
		defer die()
		defer r.start(nil)()
		time.Sleep(30 * time.Second)
		if a, ok := r.answer(id); ok && a.Final {
			t.Fatalf("%+v %+v", a, a.Problem)
		}
		// The server is back for the worker that was cut off, and it lowers what
		// it had raised.
		if _, err := r.b.KV.PutString(t.Context(), key, `{}`); err != nil {
			t.Fatal(err)
		}
		if a := r.final(id, 10*time.Second); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v %+v", a, a.Problem)
		}
		r.cleanOfSuspects(5 * time.Second)
	})
}

// TestEveryPathGivesItsPermitBack walks the life of a request through each
// fault that can be put between its permit and its end, and counts what the
// gate believes to be in flight.
func TestEveryPathGivesItsPermitBack(t *testing.T) {
	inFlight := func(r *rig) (n int) {
		for _, g := range r.gates {
			n += g.State().InFlight
		}
		return n
	}
	settled := func(t *testing.T, r *rig) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); inFlight(r) != 0; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("%d permits are out, and nobody uses them", inFlight(r))
				return
			}
		}
	}
	answers := map[string]func(*http.Request) *providertest.Step{
		"ok": respond(200, aapl), "server error": respond(500, "boom"), "throttled": respond(429, "Limit Reach"),
		"refused": respond(400, `{"Error Message":"bad"}`), "no key": respond(401, `{"Error Message":"Invalid API KEY"}`),
		"not found": respond(404, "[]"), "unreadable": respond(200, "{"),
	}
	for name, answer := range answers {
		for _, point := range []string{"", "call", "letter", "answer", "ack"} {
			for _, persisted := range []bool{false, true} {
				if persisted && point != "letter" && point != "answer" || point != "" && strings.Contains("not found, throttled, unreadable", name) {
					continue // as another
				}
				if !brokertest.Sampled(3) {
					continue
				}
				t.Run(fmt.Sprintf("%s, crash at %s %t", name, point, persisted), func(t *testing.T) {
					inBubble(t, func(t *testing.T, r *rig) {
						r.upstream.Fallback = answer
						r.circuit = 2
						var crashed atomic.Bool
						defer r.start(func(at string, done bool) error {
							if at == point && done == persisted && crashed.CompareAndSwap(false, true) {
								return errCrash
							}
							return nil
						})()
						for i := range 5 {
							r.quote(fmt.Sprint("agent", i), fmt.Sprint("q", i), fmt.Sprint("S", i), `,"ttl":"20s"`)
						}
						time.Sleep(25 * time.Second)
						settled(t, r)
					})
				})
			}
		}
	}

	// Between the permit and the call: a suspect whose record cannot be read,
	// is another worker's, or says that it is poison.
	for name, record := range map[string]string{
		"third death": `{"running":["gone","gone","gone"]}`,
		"elsewhere":   `{"running":["alive"]}`,
		"unreadable":  "",
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.env["FMP_REQUESTS_PER_MINUTE"] = "1"
				r.well()
				r.start(nil)()
				r.quote("alice", "suspect", "SUSPECT", "")
				r.vanish(5)
				if _, err := r.b.KV.PutString(t.Context(), "worker.alive", "{}"); err != nil {
					t.Fatal(err)
				}
				stop := r.start(nil)
				defer stop()
				first := r.quote("bob", "first", "FIRST", "") // one of the two has the minute's permit
				time.Sleep(5 * time.Second)
				_ = first
				key := "suspect." + fetchworker.StreamRequests + ".1"
				switch {
				case record != "":
					if _, err := r.b.KV.PutString(t.Context(), key, record); err != nil {
						t.Fatal(err)
					}
				default:
					if err := r.b.JS.DeleteKeyValue(t.Context(), wire.BucketProviders); err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) {
						t.Fatal(err)
					}
				}
				time.Sleep(90 * time.Second)
				if _, err := r.b.KV.PutString(t.Context(), key, `{}`); err != nil && record != "" {
					t.Fatal(err)
				}
				settled(t, r)
			})
		})
	}

	// Between the permit and the call, who has waited: another has the body
	// meanwhile, or is at it; and what is then done with it fails.
	for _, c := range []struct {
		apart time.Duration // permits become free so far from each other
		every int64         // so many answers, one is not stored; 0: all are
	}{{0, 0}, {0, 3}, {5 * time.Second, 0}, {5 * time.Second, 3}} {
		t.Run(fmt.Sprintf("late look, permits %v apart, one in %d answers fails", c.apart, c.every), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.well()
				r.upstream.SetLatency(500 * time.Millisecond)
				r.env["FMP_REQUESTS_PER_MINUTE"] = "12"
				var answers atomic.Int64
				hook := func(at string, done bool) error {
					if at == "answer" && !done && c.every > 0 && answers.Add(1)%c.every == 0 {
						return errCrash
					}
					return nil
				}
				for range 3 {
					defer r.start(hook)()
				}
				for i := range 12 {
					r.final(r.quote("before", fmt.Sprint("before-", i), fmt.Sprint("BEFORE", i), ""), time.Minute)
					time.Sleep(c.apart)
				}
				var ids []fetchworker.Identity
				for i := range 60 {
					ids = append(ids, r.quote(fmt.Sprint("agent-", i%20), fmt.Sprint("q-", i), fmt.Sprint("SAME", i%4), ""))
				}
				for _, id := range ids {
					r.final(id, 5*time.Minute)
				}
				settled(t, r)
			})
		})
	}

	// A stop while calls are out and others wait.
	t.Run("stop", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *rig) {
			r.well()
			r.upstream.SetLatency(3 * time.Second)
			r.env["FMP_REQUESTS_PER_MINUTE"] = "5"
			stop := r.start(nil)
			r.many("interactive", "S", 12, agents(12)...)
			time.Sleep(time.Second)
			stop()
			if n := inFlight(r); n != 0 {
				t.Errorf("%d permits are out after the stop", n)
			}
		})
	})
}
