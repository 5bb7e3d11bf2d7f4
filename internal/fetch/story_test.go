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
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// whole is a fleet with its replayers.
func (r *rig) whole(workers, replayers int) (stop func()) {
	stopWorkers := r.fleet(workers)
	stops := make([]func(), replayers)
	for i := range stops {
		stops[i] = r.startReplayer(nil)
	}
	return func() {
		for _, s := range stops {
			s()
		}
		stopWorkers()
	}
}

func TestRetriesRunOutAfterThreeWithTheirGapsAndEndInReview(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.circuit = 0
		r.upstream.Fallback = respond(500, `{"Error Message":"boom"}`)
		defer r.whole(2, 1)()
		ids := r.many("interactive", "R", 20, "alice", "bob")
		time.Sleep(30 * time.Second)
		calls := map[string][]time.Time{}
		for _, c := range r.upstream.Calls() {
			calls[c.Target] = append(calls[c.Target], c.At)
		}
		different := map[string]bool{}
		for target, at := range calls {
			if len(at) != 4 {
				t.Errorf("%s: %d calls", target, len(at))
				continue
			}
			for i, nominal := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
				gap := at[i+1].Sub(at[i])
				if gap < nominal*8/10 || gap > nominal*12/10+500*time.Millisecond {
					t.Errorf("%s: gap %d is %v", target, i+1, gap)
				}
				different[gap.String()] = true
			}
		}
		if len(calls) != 20 || len(different) < 40 {
			t.Errorf("%d symbols, %d different gaps", len(calls), len(different))
		}
		if n := r.count(wire.StreamReview); n != 20 {
			t.Errorf("%d in review", n)
		}
		if n := r.count(wire.StreamDLQ); n != 0 {
			t.Errorf("%d in the DLQ", n)
		}
		for _, id := range ids {
			a, _ := r.answer(id)
			if a.Problem == nil || a.Problem.Code() != fetchworker.CodeRetriesExhausted || !a.Review || a.Calls != 4 || a.Failures != 4 {
				t.Errorf("%s: %+v %v", id, a, a.Problem)
			}
		}
	})
}

// TestAnOutageOfAnyLengthLosesNothing is the promise: all that is asked while
// a provider is down waits, says so, and is answered once it is back.
func TestAnOutageOfAnyLengthLosesNothing(t *testing.T) {
	for _, n := range []int{1, 2, 3, 500} {
		if testing.Short() {
			n = min(n, 50)
		}
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.open = 3 * time.Second
				var up atomic.Bool
				body := respond(200, aapl)
				failure := respond(503, "down")
				r.upstream.Fallback = func(q *http.Request) *providertest.Step {
					if up.Load() {
						return body(q)
					}
					return failure(q)
				}
				defer r.whole(3, 1)()
				ids := r.many("interactive", "O", n, agents(7)...)
				time.Sleep(25 * time.Second)
				calls := len(r.upstream.Calls())
				t.Logf("%d calls while down", calls)
				if calls >= 200 {
					t.Errorf("%d calls while down", calls)
				}
				for _, id := range ids {
					a, ok := r.answer(id)
					if !ok || a.Status != fetchworker.StatusWaiting || a.Problem.Reason() != fetchworker.ReasonCircuitOpen {
						t.Errorf("%s: %+v", id, a)
					}
				}
				up.Store(true)
				back := time.Now()
				for _, id := range ids {
					if a := r.final(id, 40*time.Second-time.Since(back)); a.Status != fetchworker.StatusOK {
						t.Errorf("%s: %+v", id, a.Problem)
					}
				}
				t.Logf("all answered %v after recovery", time.Since(back))
				if n := r.count(wire.StreamReview); n != 0 {
					t.Errorf("%d in review", n)
				}
				r.drained(wire.StreamDLQ, 0, 5*time.Second)
				r.drained(wire.StreamReplay, 0, 5*time.Second)
				r.drained(fetchworker.StreamRequests, 0, 5*time.Second)
			})
		})
	}
}

func TestOneSymbolThatAlwaysFailsEndsInReviewAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		ok, bad := respond(200, aapl), respond(500, "boom")
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			if strings.Contains(q.URL.Path, "BAD") {
				return bad(q)
			}
			return ok(q)
		}
		defer r.whole(2, 1)()
		id := r.quote("alice", "bad", "BAD", "")
		for i := range 100 {
			if a := r.final(r.quote("bob", fmt.Sprint("g", i), fmt.Sprint("GOOD", i), ""), 5*time.Second); a.Status != fetchworker.StatusOK {
				t.Fatalf("%+v", a)
			}
			time.Sleep(200 * time.Millisecond)
		}
		a, _ := r.answer(id)
		if a.Problem == nil || a.Problem.Code() != fetchworker.CodeRetriesExhausted || a.Calls != 4 {
			t.Errorf("%+v", a)
		}
	})
}

func TestWhileOpenOneProbeAtATime(t *testing.T) {
	for _, queued := range []bool{true, false} {
		t.Run(fmt.Sprint("queued ", queued), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.open = 2 * time.Second
				r.upstream.Fallback = respond(503, "down")
				r.upstream.SetLatency(400 * time.Millisecond)
				defer r.whole(4, 1)()
				r.many("interactive", "P", 10, agents(5)...)
				time.Sleep(5 * time.Second)
				from := time.Now()
				for range 16 {
					if queued {
						r.many("interactive", fmt.Sprint("Q", time.Now().Unix()), 3, "zoe")
					}
					time.Sleep(time.Second)
				}
				var calls []time.Time
				for _, c := range r.upstream.Calls() {
					if c.At.After(from) {
						calls = append(calls, c.At)
					}
				}
				t.Logf("%d probes in 16 s", len(calls))
				if len(calls) < 4 {
					t.Errorf("only %d probes", len(calls))
				}
				for i := 1; i < len(calls); i++ {
					if gap := calls[i].Sub(calls[i-1]); gap < 400*time.Millisecond {
						t.Errorf("two calls at a time: %v apart", gap)
					}
				}
			})
		})
	}
}

// A request that happens to be a probe fails for the provider's sake: however
// often, none of its retries is spent.
func TestAFailedProbeIsNobodysFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.open = 2 * time.Second
		r.upstream.Fallback = respond(503, "down")
		defer r.whole(1, 1)()
		r.many("interactive", "P", 10, agents(5)...)
		time.Sleep(5 * time.Second)
		id := r.quote("zoe", "q", "PROBE", "")
		for deadline := time.Now().Add(10 * time.Minute); r.calls("PROBE") < 5; time.Sleep(time.Second) {
			if time.Now().After(deadline) {
				t.Fatalf("it was the probe %d times", r.calls("PROBE"))
			}
		}
		time.Sleep(time.Second)
		raw, ok := r.letter(fetchworker.LaneInteractive, id)
		l, err := dlq.Decode(raw.Subject, raw.Header, raw.Data)
		if !ok || err != nil || l.Calls != r.calls("PROBE") || l.Failures != 0 {
			t.Errorf("a letter: %t, %v: after %d calls it has failed %d times in %d", ok, err, r.calls("PROBE"), l.Failures, l.Calls)
		}
	})
}

func TestAHoldStopsTheWholeFleet(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var mu sync.Mutex
		var held time.Time
		ok := respond(200, aapl)
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			mu.Lock()
			defer mu.Unlock()
			if strings.HasSuffix(q.URL.Path, "H5") && held.IsZero() {
				held = time.Now()
				step := providertest.JSON(429, `{"Error Message":"Limit Reach ."}`)
				step.Header.Set("Retry-After", "5")
				return &step
			}
			return ok(q)
		}
		r.upstream.SetLatency(20 * time.Millisecond)
		defer r.whole(3, 1)()
		time.Sleep(time.Second)
		ids := r.many("batch", "H", 200, agents(8)...)
		for _, id := range ids {
			if a := r.final(id, time.Minute); a.Status != fetchworker.StatusOK {
				t.Errorf("%s: %+v", id, a.Problem)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		for _, c := range r.upstream.Calls() {
			if since := c.At.Sub(held); since > 300*time.Millisecond && since < 5*time.Second {
				t.Errorf("a call %v after the 429", since)
			}
		}
		if n := r.count(wire.StreamReview); n != 0 {
			t.Errorf("%d in review", n)
		}
	})
}

// A call that is always told to come back later counts no failure, and each time
// holds the whole provider. From its second time on, whoever waits for the hold's
// end goes before it.
func TestACallThatIsAlwaysThrottledStandsBeforeNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		ok := respond(200, aapl)
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			if !strings.HasSuffix(q.URL.Path, "BAD") {
				return ok(q)
			}
			step := providertest.JSON(429, `{"Error Message":"Limit Reach ."}`)
			step.Header.Set("Retry-After", "120")
			return &step
		}
		defer r.whole(2, 1)()
		time.Sleep(time.Second)
		r.quote("mallory", "bad", "BAD", "")
		for hold := range 6 {
			for r.calls("BAD") < hold+2 {
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(5 * time.Second)
			ids := r.many("interactive", fmt.Sprint("H", hold), 3, "alice")
			time.Sleep(127 * time.Second) // to within ten seconds of the hold's end
			for _, id := range ids {
				if a, _ := r.answer(id); a.Status != fetchworker.StatusOK {
					t.Errorf("in hold %d: %s after its end: %s, %+v", hold, id, a.Status, a.Problem)
				}
			}
		}
	})
}

func TestRequestsThatNobodyServesAreAnswered(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		defer r.whole(1, 1)()
		time.Sleep(2 * time.Second)
		for i, c := range []struct {
			subject, params string
			code            fetchworker.Code
			detail          string // told in it
		}{
			{"fetch.request.polygon.interactive.aggregates.alice", `{}`, fetchworker.CodeProviderNotConfigured, ""},
			{"fetch.request.nobody.batch.x.alice", `{}`, fetchworker.CodeUnknownProvider, "known"},
			{"fetch.request.fpm.batch.quote.alice", `{}`, fetchworker.CodeUnknownProvider, "did you mean fmp?"},
			{"fetch.request.fmp.urgent.quote.alice", `{}`, fetchworker.CodeInvalidRequest, ""},
			{"fetch.request.fmp.batch.nosuch.alice", `{}`, fetchworker.CodeUnknownOperation, "it has "},
			{"fetch.request.fmp.batch.qoute.alice", `{}`, fetchworker.CodeUnknownOperation, "did you mean quote? it has quote,"},
			{"fetch.request.fmp.batch.quote.alice", `{"simbol":"AAPL"}`, fetchworker.CodeInvalidRequest, "did you mean symbol?"},
		} {
			name := fmt.Sprint("x", i)
			id := r.ask(c.subject, name, `{"id":"`+name+`","params":`+c.params+`}`)
			a := r.final(id, 2*time.Second)
			if a.Problem == nil || a.Problem.Code() != c.code || !strings.Contains(a.Problem.Detail, c.detail) {
				t.Errorf("%s: %+v", c.subject, a)
			}
		}
		r.drained(fetchworker.StreamRequests, 0, time.Second)
	})
}

func TestTheSameIDOfTwoAgentsAndTwoProviders(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = respond(200, `{"status":"OK","results":[]}`)
		r.env["POLYGON_API_KEY"], r.env["POLYGON_BASE_URL"] = "polygon-key-0123456789", r.upstream.URL()
		defer r.start(nil)()
		ids := []fetchworker.Identity{
			r.quote("alice", "q-1", "AAPL", ""), r.quote("bob", "q-1", "AAPL", ""),
			r.ask("fetch.request.polygon.interactive.get.alice", "q-1", `{"id":"q-1","params":{"path":"/v1/marketstatus/now"}}`),
		}
		for _, id := range ids {
			r.final(id, 5*time.Second)
		}
		if n := r.count(fetchworker.StreamResults); n != 3 {
			t.Errorf("%d answers", n)
		}
	})
}
