package fetch_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

var errCrash = errors.New("crash")

// crashOnce is a hook that stops its caller once, at one point, as a crash
// would: with the write not made, or made and its acknowledgement lost.
func crashOnce(point string, persisted bool) (hook func(string, bool) error, crashed func() bool) {
	var mu sync.Mutex
	done := false
	return func(p string, after bool) error {
			mu.Lock()
			defer mu.Unlock()
			if p == point && after == persisted && !done {
				done = true
				return errCrash
			}
			return nil
		}, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return done
		}
}

// TestACrashAtAnyPointLeavesExactlyOneEnd crashes workers and replayers
// between any two durable steps, for requests that end in every way.
func TestACrashAtAnyPointLeavesExactlyOneEnd(t *testing.T) {
	big := `[{"symbol":"` + strings.Repeat("x", fetchworker.MaxInlineBody) + `"}]`
	type crash struct {
		point    string
		replayer bool
	}
	for _, c := range []crash{
		{"call", false},
		{"answer", false},
		{"letter", false},
		{"body", false},
		{"ack", false},
		{"replay", true},
		{"review", true},
		{"answer", true},
		{"event", true},
		{"ack", true},
	} {
		for _, persisted := range []bool{false, true} {
			if !brokertest.Sampled(4) {
				continue
			}
			t.Run(fmt.Sprintf("%s/replayer=%v/persisted=%v", c.point, c.replayer, persisted), func(t *testing.T) {
				inBubble(t, func(t *testing.T, r *rig) {
					r.circuit = 0
					seen := map[string]int{}
					var mu sync.Mutex
					r.upstream.Fallback = func(q *http.Request) *providertest.Step {
						mu.Lock()
						seen[q.URL.Path]++
						n := seen[q.URL.Path]
						mu.Unlock()
						status, body := 200, aapl
						switch {
						case strings.HasSuffix(q.URL.Path, "FAILS"), strings.HasSuffix(q.URL.Path, "TWICE") && n <= 2:
							status, body = 500, "boom"
						case strings.HasSuffix(q.URL.Path, "BAD"):
							status, body = 422, `{"Error Message":"no"}`
						case strings.HasSuffix(q.URL.Path, "NONE"):
							status, body = 404, `{"Error Message":"none"}`
						case strings.HasSuffix(q.URL.Path, "BIG"):
							body = big
						}
						step := providertest.JSON(status, body)
						return &step
					}
					hook, crashed := crashOnce(c.point, persisted)
					if c.replayer {
						defer r.start(nil)()
						defer r.startReplayer(hook)()
					} else {
						defer r.start(hook)()
						defer r.startReplayer(nil)()
					}
					live, err := r.b.NC.SubscribeSync("fetch.result.>")
					if err != nil {
						t.Fatal(err)
					}
					want := map[fetchworker.Identity]fetchworker.Code{
						r.quote("alice", "ok", "OK", ""):       "",
						r.quote("alice", "big", "BIG", ""):     "",
						r.quote("alice", "twice", "TWICE", ""): "",
						r.quote("alice", "fails", "FAILS", ""): fetchworker.CodeRetriesExhausted,
						r.quote("alice", "bad", "BAD", ""):     fetchworker.CodeRejected,
						r.quote("alice", "none", "NONE", ""):   fetchworker.CodeNotFound,
						r.ask("fetch.request.fmp.batch.quote.alice", wire.ResolveID("", "", 7, time.Now()), "not json"): fetchworker.CodeInvalidRequest,
					}
					time.Sleep(2 * time.Minute)
					if !crashed() {
						t.Fatal("the point was never reached")
					}
					reviews := 0
					for id, code := range want {
						a, ok := r.answer(id)
						if !ok || !a.Final {
							t.Errorf("%s has no end: %+v", id, a)
							continue
						}
						if code == "" && a.Status != fetchworker.StatusOK || code != "" && a.Problem.Code() != code {
							t.Errorf("%s: %s %+v", id, a.Status, a.Problem)
						}
						if a.Failures > 4 {
							t.Errorf("%s: %d failures", id, a.Failures)
						}
						if a.Review {
							reviews++
						}
					}
					finals := map[string]int{}
					for {
						m, err := next(live, time.Millisecond)
						if err != nil {
							break
						}
						if m.Header.Get("Fetch-Final") == "true" {
							finals[m.Subject]++
						}
					}
					for subject, n := range finals {
						if n != 1 {
							t.Errorf("%s: %d final answers", subject, n)
						}
					}
					if n := r.count(wire.StreamReview); n != reviews {
						t.Errorf("%d in review, %d answers say so", n, reviews)
					}
					for _, stream := range []string{fetchworker.StreamRequests, wire.StreamReplay, wire.StreamDLQ} {
						if n := r.count(stream); n != 0 {
							t.Errorf("%s still holds %d", stream, n)
						}
					}
				})
			})
		}
	}
}

// TestAWorkerThatVanishesMidCallIsReplaced leaves a call's answer unstored,
// as a kill does: the message is silent until AckWait gives it to another.
func TestAWorkerThatVanishesMidCallIsReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.upstream.SetLatency(time.Second)
		nc, stop := r.startWorker(nil)
		id := r.quote("alice", "q-1", "AAPL", "")
		time.Sleep(500 * time.Millisecond)
		nc.Close() // nothing it does from here on arrives
		died := time.Now()
		defer stop()
		defer r.start(nil)()
		a := r.final(id, 14*time.Second)
		if a.Status != fetchworker.StatusOK {
			t.Fatalf("%+v", a)
		}
		if took := time.Since(died); took > 13*time.Second {
			t.Errorf("moved on after %v", took)
		}
	})
}

// TestARequestParkedAgainBeforeItsFirstLetterIsAckedIsNotLost holds back the
// replayer's ack of the first letter until the second one has replaced it.
func TestARequestParkedAgainBeforeItsFirstLetterIsAckedIsNotLost(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.circuit = 0
		var recovered, held atomic.Bool
		bad, ok := respond(500, "boom"), respond(200, aapl)
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			if recovered.Load() {
				return ok(q)
			}
			return bad(q)
		}
		defer r.start(nil)()
		defer r.startReplayer(func(point string, persisted bool) error {
			if point == "ack" && !persisted && held.CompareAndSwap(false, true) {
				time.Sleep(500 * time.Millisecond) // the worker has long failed again
			}
			return nil
		})()
		id := r.quote("alice", "q-1", "AAPL", "")
		time.Sleep(2500 * time.Millisecond)
		recovered.Store(true)
		if a := r.final(id, 15*time.Second); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v", a)
		}
		if !held.Load() {
			t.Error("no ack was held back")
		}
	})
}

func TestAStopFinishesWhatIsInFlightAndHandsBackTheRest(t *testing.T) {
	// With calls that take longer than a message may be silent, and shorter ones.
	for _, latency := range []time.Duration{10 * time.Second, time.Second} {
		inBubble(t, func(t *testing.T, r *rig) {
			r.well()
			r.env["FMP_TIMEOUT_SECONDS"] = "20"
			r.upstream.SetLatency(latency)
			stop := r.start(nil)
			ids := r.many("batch", "S", 100, agents(16)...)
			time.Sleep(2500 * time.Millisecond)
			inFlight := len(r.upstream.Calls())
			stop()
			done := 0
			for _, id := range ids {
				if a, ok := r.answer(id); ok && a.Status == fetchworker.StatusOK {
					done++
				}
			}
			if done != inFlight || len(r.upstream.Calls()) != inFlight || inFlight == 0 || done == len(ids) {
				t.Errorf("%d of %d in flight were finished, %d calls", done, inFlight, len(r.upstream.Calls()))
			}
			r.upstream.SetLatency(time.Millisecond)
			defer r.start(nil)()
			next := time.Now()
			for _, id := range ids {
				r.final(id, 2*time.Second)
			}
			// What was handed back did not have to wait for AckWait.
			if took := time.Since(next); took > time.Second {
				t.Errorf("the rest took %v", took)
			}
		})
	}
}

func TestRollingRestartsBuryNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.upstream.SetLatency(200 * time.Millisecond)
		r.env["FMP_REQUESTS_PER_MINUTE"] = "600"
		ids := r.many("batch", "ROLL", 300, agents(20)...)
		stops := []func(){r.start(nil), r.start(nil)}
		defer r.startReplayer(nil)()
		for i := range 10 {
			time.Sleep(2 * time.Second)
			stops[i%2]()
			stops[i%2] = r.start(nil)
		}
		defer stops[0]()
		defer stops[1]()
		for _, id := range ids {
			if a := r.final(id, 2*time.Minute); a.Status != fetchworker.StatusOK {
				t.Errorf("%s: %+v", id, a.Problem)
			}
		}
		if n := r.count(wire.StreamReview); n != 0 {
			t.Errorf("%d in review", n)
		}
	})
}

// TestWhatKillsItsWorkerEndsAsPoisonAndTakesNobodyAlong has a message that
// ends every worker that runs it: as a kill would, the worker's connection
// goes with all that it holds.
func TestWhatKillsItsWorkerEndsAsPoisonAndTakesNobodyAlong(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		killed := make(chan struct{}, 100)
		ok := respond(200, aapl)
		r.upstream.SetLatency(50 * time.Millisecond)
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			if strings.HasSuffix(q.URL.Path, "KILL") {
				killed <- struct{}{}
				step := providertest.JSON(200, aapl)
				step.Latency = time.Second
				return &step
			}
			return ok(q)
		}
		defer r.startReplayer(nil)()
		id := r.quote("alice", "killer", "KILL", "")
		var others []fetchworker.Identity
		for i := range 15 {
			others = append(others, r.quote(fmt.Sprint("agent", i), "n", fmt.Sprint("N", i), ""))
		}
		var stops []func()
		defer func() {
			for _, s := range stops {
				s()
			}
		}()
		nc, stop := r.startWorker(nil)
		stops = append(stops, stop)
		deaths := 0
		for deadline := time.Now().Add(10 * time.Minute); time.Now().Before(deadline); time.Sleep(time.Second) {
			if a, done := r.answer(id); done && a.Final {
				break
			}
			select {
			case <-killed:
				deaths++
				nc.Close()
				nc, stop = r.startWorker(nil)
				stops = append(stops, stop)
			default:
			}
		}
		a := r.final(id, time.Second)
		if a.Problem == nil || a.Problem.Code() != fetchworker.CodePoison || !a.Review {
			t.Errorf("%+v %+v", a, a.Problem)
		}
		for _, other := range others {
			if a := r.final(other, 30*time.Second); a.Status != fetchworker.StatusOK {
				t.Errorf("%s: %+v", other, a.Problem)
			}
		}
		r.drained(wire.StreamReview, 1, 10*time.Second)
		t.Logf("%d workers died of it", deaths)
	})
}
