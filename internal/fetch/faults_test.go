package fetch_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// TestOfOneFailureOneRequestFails: who waits for the call of an identical
// request has no part in its failure, and makes its own.
func TestOfOneFailureOneRequestFails(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.upstream.SetLatency(300 * time.Millisecond)
		r.upstream.Script(providertest.JSON(500, `{"error":"boom"}`))
		var ids []fetchworker.Identity
		for i := range 5 {
			ids = append(ids, r.quote(fmt.Sprint("agent", i), "same", "AAPL", ""))
		}
		defer r.whole(1, 1)()
		failures, calls := 0, 0
		for _, id := range ids {
			a := r.final(id, 30*time.Second)
			if a.Status != fetchworker.StatusOK {
				t.Errorf("%+v", a)
			}
			failures, calls = failures+a.Failures, calls+a.Calls
		}
		if n := len(r.upstream.Calls()); failures != 1 || calls != n {
			t.Errorf("%d failures of one 500; the answers tell %d calls, and there were %d", failures, calls, n)
		}
	})
}

// TestAWorkerThatDiesOnceItsAnswerIsStored leaves an answer whose request is
// delivered again: no second call, whatever the answer is, and the live copy
// that the death ate comes.
func TestAWorkerThatDiesOnceItsAnswerIsStored(t *testing.T) {
	for name, answer := range map[string]func(*http.Request) *providertest.Step{
		"ok": respond(200, aapl), "not found": respond(404, `{"Error Message":"none"}`), "rejected": respond(400, `{"Error Message":"bad"}`),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.upstream.Fallback = answer
				copies, err := r.b.NC.SubscribeSync("fetch.reply.alice.x")
				if err != nil {
					t.Fatal(err)
				}
				var nc *nats.Conn
				var died atomic.Bool
				ready := make(chan struct{})
				var stop func()
				nc, stop = r.startWorker(func(point string, persisted bool) error {
					<-ready
					if died.Load() || point == "answer" && persisted {
						if !died.Swap(true) {
							nc.Close() // as a kill would
						}
						return errCrash
					}
					return nil
				})
				close(ready)
				id := r.quote("alice", "q", "AAPL", `,"max_age":"0s","reply_to":"fetch.reply.alice.x"`)
				for range 1000 {
					if time.Sleep(10 * time.Millisecond); died.Load() {
						break
					}
				}
				defer stop()
				if a, ok := r.answer(id); !ok || !a.Final {
					t.Fatalf("%+v", a)
				}
				defer r.whole(1, 1)()
				r.drained(fetchworker.StreamRequests, 0, time.Minute)
				if n := len(r.upstream.Calls()); n != 1 {
					t.Errorf("%d calls", n)
				}
				if m, err := next(copies, 10*time.Second); err != nil || m.Header.Get(wire.HeaderFinal) != "true" {
					t.Errorf("the copy: %+v %v", m, err)
				}
			})
		})
	}
}

// TestTwoKillersTakeNobodyAlong: two messages that end their worker, and slow
// ones of others that are in flight each time: these die with it again and
// again, and only the killers are buried.
func TestTwoKillersTakeNobodyAlong(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		killed := make(chan struct{}, 100)
		ok := respond(200, aapl)
		r.upstream.SetLatency(900 * time.Millisecond)
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			if strings.Contains(q.URL.Path, "KILL") {
				killed <- struct{}{}
				step := providertest.JSON(200, aapl)
				step.Latency = 5 * time.Second
				return &step
			}
			return ok(q)
		}
		defer r.startReplayer(nil)()
		killers := []fetchworker.Identity{r.quote("alice", "k1", "KILL1", ""), r.quote("bob", "k2", "KILL2", "")}
		var others []fetchworker.Identity
		for i := range 15 {
			others = append(others, r.quote(fmt.Sprint("agent", i), "n", fmt.Sprint("N", i), ""))
		}
		var mu sync.Mutex
		var stops []func()
		defer func() {
			for _, s := range stops {
				s()
			}
		}()
		start := func() *nats.Conn {
			nc, stop := r.startWorker(nil)
			mu.Lock()
			defer mu.Unlock()
			stops = append(stops, stop)
			return nc
		}
		nc := start()
		deaths := 0
		ended := func(id fetchworker.Identity) bool { a, ok := r.answer(id); return ok && a.Final }
		for deadline := time.Now().Add(20 * time.Minute); time.Now().Before(deadline) && (!ended(killers[0]) || !ended(killers[1])); {
			select {
			case <-killed:
				time.Sleep(200 * time.Millisecond)
				for len(killed) > 0 {
					<-killed
				}
				deaths++
				nc.Close()
				nc = start()
			case <-time.After(time.Second): //nolint:forbidigo // of a bubble
			}
		}
		t.Logf("%d workers died", deaths)
		for _, id := range killers {
			if a := r.final(id, time.Second); a.Problem == nil || a.Problem.Code() != fetchworker.CodePoison || !a.Review {
				t.Errorf("%+v %+v", a, a.Problem)
			}
		}
		for _, id := range others {
			if a := r.final(id, time.Minute); a.Status != fetchworker.StatusOK {
				t.Errorf("%s: %+v", id, a.Problem)
			}
		}
		r.drained(wire.StreamReview, 2, 10*time.Second)
		r.cleanOfSuspects(5 * time.Second)
	})
}

// TestADrainEnds: a stop waits for what is in flight, and no longer than the
// drain time, whatever hangs.
func TestADrainEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.env["FMP_TIMEOUT_SECONDS"] = "300"
		r.upstream.SetLatency(4 * time.Minute)
		stop := r.start(nil)
		r.many("interactive", "HANGS", 3, "alice", "bob")
		time.Sleep(time.Second)
		began := time.Now()
		stop()
		if took := time.Since(began); took > 35*time.Second {
			t.Errorf("a stop with a drain time of 30 s took %v", took)
		}
	})
}

// TestStraysTakeNobodysPlace: messages whose subject can have no answer, as
// many as there are places in their shard and more, hold up nobody behind them.
func TestStraysTakeNobodysPlace(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		defer r.start(nil)()
		subject := "fetch.request.fmp.interactive." + strings.Repeat("o", 3900) + ".alice"
		for i := range 5 {
			if _, err := r.b.JS.PublishMsg(t.Context(), newMsg(subject, fmt.Sprintf(`{"id":"%d%s"}`, i, strings.Repeat("i", 63)))); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		for i := range 4 {
			if a := r.final(r.quote("alice", fmt.Sprint("after", i), fmt.Sprint("S", i), ""), 5*time.Second); a.Status != fetchworker.StatusOK {
				t.Errorf("%+v", a)
			}
		}
		r.drained(fetchworker.StreamRequests, 0, 5*time.Second) // and none of them comes again
	})
}

// TestAUsedIDIsKnownWhateverTheLookComesTo: where the look into the answers
// fails, the answer is read, not thought to be none.
func TestAnAnswerThatCannotBeLookedForIsRead(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		stop := r.start(nil)
		id := r.quote("alice", "q", "AAPL", "")
		r.final(id, 5*time.Second)
		time.Sleep(2 * time.Minute)
		stop()
		// A look that the server refuses: whoever asks it, asks for too much.
		if err := r.b.JS.DeleteStream(t.Context(), "KV_"+wire.BucketCache); err != nil {
			t.Fatal(err)
		}
		defer r.start(nil)()
		r.quote("alice", "q", "AAPL", `,"max_age":"0s"`)
		r.drained(fetchworker.StreamRequests, 0, time.Minute)
		if n := len(r.upstream.Calls()); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}
