package fetch_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/cache"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/record"

	"go.uber.org/zap"
)

// elsewhere is another worker's side of the fleet's cache.
type elsewhere struct {
	*cache.Cache
	r *rig
}

func (r *rig) elsewhere() *elsewhere {
	r.t.Helper()
	c, err := cache.New(r.b.JS, r.b.JS, nil, zap.NewNop(), func() {})
	if err != nil {
		r.t.Fatal(err)
	}
	return &elsewhere{c, r}
}

// key is the fleet's for a quote.
func (r *rig) key(symbol string) string {
	r.t.Helper()
	call, err := r.serving[0].Provider.Plan("quote", []byte(fmt.Sprintf(`{"symbol":%q}`, symbol)))
	if err != nil {
		r.t.Fatal(err)
	}
	return call.Key
}

func (e *elsewhere) claim(symbol string) (over func()) {
	e.r.t.Helper()
	key := e.r.key(symbol)
	claim, err := e.Claim(context.Background(), key, time.Hour)
	if err != nil || !claim.Mine {
		e.r.t.Fatalf("a claim: %+v, %v", claim, err)
	}
	return func() {
		e.Over(key, claim)
		e.written()
	}
}

// has puts a body there, as if it had come elsewhere, younger than all requests.
func (e *elsewhere) has(symbol string) {
	e.Put(e.r.key(symbol), &cache.Entry{FetchedAt: time.Now(), CameAt: time.Now(), HTTPStatus: 200, ContentType: "application/json", Body: []byte(aapl)})
	e.written()
}

func (e *elsewhere) written() {
	writing, over := context.WithCancel(context.Background())
	over()
	e.Run(writing)
	flush(e.r.b.NC)
}

// Whatever a request waits for, what comes meanwhile is looked at before it is
// called for: a cancel, its deadline, its body, a pause, the end of the month's
// bytes, the stop of its worker.
func TestWhatComesWhileARequestWaits(t *testing.T) {
	waits := map[string]struct {
		limits string
		calls  int  // by others that it waits for
		early  bool // it is told of a pause at once
		begin  func(r *rig, e *elsewhere) (over func())
	}{
		"for a permit": {"1", 0, true, func(r *rig, _ *elsewhere) func() {
			r.final(r.quote("zoe", "before", "OTHER", ""), 5*time.Second)
			return func() { time.Sleep(time.Minute) }
		}},
		"for an identical call": {"0", 1, false, func(r *rig, _ *elsewhere) func() {
			step := providertest.JSON(500, "boom")
			step.Latency = 20 * time.Second
			r.upstream.Script(step)
			r.quote("zoe", "before", "AAPL", "")
			time.Sleep(100 * time.Millisecond)
			return func() { time.Sleep(20 * time.Second) }
		}},
		"for another worker's call": {"600", 0, false, func(_ *rig, e *elsewhere) func() { return e.claim("AAPL") }},
	}
	comes := map[string]struct {
		more   string
		does   func(r *rig, e *elsewhere)
		want   string // status, and code, reason or source
		soon   bool   // at once, else when the wait is over
		called int
	}{
		"nothing":           {"", func(*rig, *elsewhere) {}, "ok origin", false, 1},
		"a cancel":          {"", func(r *rig, _ *elsewhere) { r.cancelAll("alice", fetchworker.CancelFilter{Provider: "fmp"}) }, "failed cancelled", true, 0},
		"its deadline":      {`,"ttl":"3s"`, func(*rig, *elsewhere) { time.Sleep(2 * time.Second) }, "failed deadline_exceeded", true, 0},
		"its body":          {"", func(_ *rig, e *elsewhere) { e.has("AAPL") }, "ok cache", false, 0},
		"the month's bytes": {"", func(r *rig, _ *elsewhere) { r.gates[0].AddBytes(2 << 30) }, "failed budget_exhausted", false, 0},
		"a pause": {"", func(r *rig, _ *elsewhere) {
			if err := fleet.Pause(r.t.Context(), r.b.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
				r.t.Fatal(err)
			}
		}, "waiting paused", false, 0},
	}
	for name, w := range waits {
		for what, c := range comes {
			t.Run(name+": "+what, func(t *testing.T) {
				inBubble(t, func(t *testing.T, r *rig) {
					r.well()
					r.circuit = 0
					r.env["FMP_TIMEOUT_SECONDS"], r.env["FMP_REQUESTS_PER_MINUTE"], r.env["FMP_BANDWIDTH_LIMIT_GB"] = "30", w.limits, "1"
					defer r.start(nil)()
					e := r.elsewhere()
					defer e.Close()
					over := w.begin(r, e)
					id := r.quote("alice", "q", "AAPL", c.more)
					time.Sleep(time.Second)
					if a, ok := r.answer(id); ok {
						t.Fatalf("it does not wait: %+v %+v", a, a.Problem)
					}
					c.does(r, e)
					time.Sleep(500 * time.Millisecond)
					if a, told := r.answer(id); told != (c.soon || what == "a pause" && w.early) {
						t.Errorf("told at once: %t: %+v", told, a)
					}
					over()
					a := r.until(id, 2*time.Second, func(fetchworker.Answer) bool { return true })
					end := string(a.Status) + " " + string(a.Source)
					if p := a.Problem; p != nil {
						end = string(a.Status) + " " + string(p.Code()) + string(p.Reason())
					}
					if end != c.want || a.Calls != c.called || a.Failures != 0 {
						t.Errorf("%s, after %d calls: %+v %+v", end, a.Calls, a, a.Problem)
					}
					time.Sleep(time.Second)
					if n := r.calls("/AAPL"); n != w.calls+c.called {
						t.Errorf("%d calls, %d of them others'", n, w.calls)
					}
					if n := strings.Count(r.logs.String(), `"request_id":"q"`); n != 1 {
						t.Errorf("it had %d ends", n)
					}
					r.allGivenBack()
				})
			})
		}

		// Not a word of it is lost, nor said late, when its worker stops.
		t.Run(name+": a stop", func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.well()
				r.circuit = 0
				r.env["FMP_TIMEOUT_SECONDS"], r.env["FMP_REQUESTS_PER_MINUTE"] = "30", w.limits
				stop := r.start(nil)
				e := r.elsewhere()
				defer e.Close()
				over := w.begin(r, e)
				id := r.quote("alice", "q", "AAPL", "")
				time.Sleep(time.Second)
				before := r.deliveries()
				stopped := make(chan struct{})
				go func() { defer close(stopped); stop() }()
				time.Sleep(100 * time.Millisecond)
				defer r.start(nil)()
				time.Sleep(900 * time.Millisecond)
				if n := r.deliveries() - before; n != 1 {
					t.Errorf("delivered %d times within a second of the stop", n)
				}
				<-stopped
				over()
				if a := r.final(id, time.Minute); a.Status != fetchworker.StatusOK || a.Calls != 1 {
					t.Errorf("%+v %+v", a, a.Problem)
				}
				r.allGivenBack()
			})
		})
	}
}

// Whatever a request waits for, a server that was started again meanwhile is
// noticed before the call: whoever else has it in hand gets two seconds, its end
// is looked for then, and a deadline is kept all the same.
func TestARestartIsNoticedWhateverIsWaitedFor(t *testing.T) {
	waits := map[string]func(r *rig) (begin func(), due time.Duration){
		"for a permit": func(r *rig) (func(), time.Duration) {
			r.env["FMP_REQUESTS_PER_MINUTE"] = "1"
			return func() { r.final(r.quote("zoe", "before", "OTHER", ""), 5*time.Second) }, time.Minute
		},
		"for its connection": func(r *rig) (func(), time.Duration) {
			r.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				time.Sleep(3 * time.Second)
				return r.upstream.DialContext(ctx, network, addr)
			}
			return func() {}, 3 * time.Second
		},
	}
	for name, prepare := range waits {
		for what, c := range map[string]struct {
			ttl   time.Duration // after it is due; 0: none
			end   string
			calls int
		}{
			"nobody has it":   {0, "ok", 1},
			"another ends it": {0, "failed", 0},
			"its deadline":    {500 * time.Millisecond, "failed", 0},
		} {
			t.Run(name+": "+what, func(t *testing.T) {
				inBubble(t, func(t *testing.T, r *rig) {
					r.well()
					begin, due := prepare(r)
					defer r.start(nil)()
					begin()
					more := ""
					if c.ttl > 0 {
						more = fmt.Sprintf(`,"ttl":%q`, (due + c.ttl).String())
					}
					id := r.quote("alice", "q", "AAPL", more)
					asked := time.Now()
					time.Sleep(due - time.Second)
					restarted := time.Now()
					r.worker.Restarted()
					if what == "another ends it" {
						time.Sleep(1500 * time.Millisecond)
						a := fetchworker.Answer{Identity: id, Status: fetchworker.StatusFailed, Final: true, Generation: 1, Problem: problem(id)}
						if _, stored, err := answer.New(record.New(r.b.JS, nil)).Put(t.Context(), a, ""); err != nil || !stored {
							t.Fatal(stored, err)
						}
					}
					a := r.final(id, 2*time.Minute)
					if took := time.Since(asked); string(a.Status) != c.end || what == "its deadline" && took > due+c.ttl+500*time.Millisecond {
						t.Errorf("after %v: %+v %+v", took, a, a.Problem)
					}
					time.Sleep(10 * time.Second)
					r.drained(fetchworker.StreamRequests, 0, time.Second)
					if n := r.calls("/AAPL"); n != c.calls {
						t.Errorf("%d calls", n)
					}
					for _, call := range r.upstream.Calls() {
						if since := call.At.Sub(restarted); since >= 0 && since < 2*time.Second {
							t.Errorf("called %v after the restart", since)
						}
					}
				})
			})
		}
	}
}

func problem(id fetchworker.Identity) *fetchworker.Problem {
	p := fetchworker.Failure(id, fetchworker.CodeNotFound, "none")
	return &p
}

// A message that meets a fault of ours again and again is tried now and then.
func TestAFaultOfOursIsNotMetWithoutAPause(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		var tries atomic.Int64
		defer r.start(func(at string, _ bool) error {
			if at == "ack" && tries.Add(1) <= 200 {
				return errCrash
			}
			return nil
		})()
		r.quote("alice", "q", "AAPL", "")
		time.Sleep(11 * time.Second)
		if n := tries.Load(); n < 4 || n > 7 {
			t.Errorf("%d tries in eleven seconds", n)
		}
		tries.Store(200) // it is over
		r.drained(fetchworker.StreamRequests, 0, 10*time.Second)
		r.allGivenBack()
	})
}

// What stands against a message that is gone is removed, though others came
// after it; what stands against one that is there stays.
func TestOnlyWhatStandsAgainstTheGoneIsRemoved(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		stop := r.start(nil)
		r.final(r.quote("alice", "gone", "AAPL", ""), 5*time.Second)
		r.drained(fetchworker.StreamRequests, 0, 5*time.Second)
		stop()
		if err := fleet.Pause(t.Context(), r.b.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		id := r.ask("fetch.request.polygon.interactive.quote.alice", "there", `{"id":"there"}`) // nobody takes it
		for _, sequence := range []string{"1", "2"} {
			if _, err := r.b.KV.PutString(t.Context(), "suspect."+fetchworker.StreamRequests+"."+sequence, `{"handed_back":1}`); err != nil {
				t.Fatal(err)
			}
		}
		defer r.start(nil)()
		time.Sleep(5 * time.Second)
		if left := r.suspects(); len(left) != 1 || !strings.HasSuffix(left[0], ".2") {
			t.Errorf("%v stand, and %s is there", left, id)
		}
	})
}

// What another worker has fetched between this one's look and its word that it
// makes the call is found: the word before it tells.
func TestWhatCameBeforeTheWordIsLookedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.env["FMP_REQUESTS_PER_MINUTE"] = "60"
		r.start(nil)()
		r.wire = &brokertest.Wire{}
		defer r.start(nil)()
		e := r.elsewhere()
		defer e.Close()
		over := e.claim("AAPL")
		r.wire.Break("DIRECT.GET.KV_", brokertest.ReplyLate, 1, time.Second)
		id := r.quote("alice", "q", "AAPL", "")
		time.Sleep(500 * time.Millisecond)
		if r.wire.Met() != 1 {
			t.Fatal("it has not looked")
		}
		e.has("AAPL")
		over()
		if a := r.final(id, 5*time.Second); a.Source != fetchworker.SourceCache || a.Calls != 0 || len(r.upstream.Calls()) != 0 {
			t.Errorf("%d calls: %+v", len(r.upstream.Calls()), a)
		}
		r.allGivenBack()
	})
}

// Who waits for another worker's call, and is told nothing of it any more, makes
// its own: a cache holds nobody up.
func TestACacheThatSaysNothingHoldsNobodyUp(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.env["FMP_TIMEOUT_SECONDS"], r.env["FMP_REQUESTS_PER_MINUTE"] = "30", "600"
		r.start(nil)()
		r.wire = &brokertest.Wire{}
		defer r.start(nil)()
		e := r.elsewhere()
		defer e.Close()
		defer e.claim("AAPL")()
		id := r.quote("alice", "q", "AAPL", "")
		time.Sleep(time.Second)
		if n := len(r.upstream.Calls()); n != 0 {
			t.Fatalf("%d calls", n)
		}
		r.wire.Break(".flying.", brokertest.RequestLost, 1000, 0)
		if a := r.final(id, 10*time.Second); a.Status != fetchworker.StatusOK || a.Calls != 1 {
			t.Errorf("%+v %+v", a, a.Problem)
		}
		r.wire.Mend()
		r.allGivenBack()
	})
}

// A body that this worker met last answers without a word to the server.
func TestABodyAtHandCostsNoLook(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.wire = &brokertest.Wire{}
		defer r.start(nil)()
		r.final(r.quote("alice", "first", "AAPL", ""), 5*time.Second)
		time.Sleep(time.Minute)
		r.wire.Break("DIRECT.GET.KV_", brokertest.RequestLost, 1, 0)
		a := r.final(r.quote("bob", "second", "AAPL", `,"max_age":"1h"`), 5*time.Second)
		if a.Source != fetchworker.SourceCache || r.wire.Met() != 0 {
			t.Errorf("%d looks: %+v", r.wire.Met(), a)
		}
	})
}

// A circuit's probe is made although another worker says that it makes the same
// call: it may be dead, and the circuit waits for the probe.
func TestAProbeWaitsForNobodysCall(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.open = 2 * time.Second
		r.env["FMP_TIMEOUT_SECONDS"], r.env["FMP_REQUESTS_PER_MINUTE"] = "30", "600"
		var up atomic.Bool
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			step := providertest.JSON(503, "down")
			if up.Load() && !strings.HasSuffix(q.URL.Path, "OTHER") {
				step = providertest.JSON(200, aapl)
			}
			return &step
		}
		defer r.start(nil)()
		e := r.elsewhere()
		defer e.Close()
		defer e.claim("AAPL")()
		r.many(fetchworker.LaneInteractive, "P", 10, agents(5)...)
		time.Sleep(3 * time.Second)
		up.Store(true)
		a := r.until(r.quote("alice", "q", "AAPL", ""), 5*time.Second, func(fetchworker.Answer) bool { return true })
		if a.Status != fetchworker.StatusOK || a.Calls != 1 || a.Source != fetchworker.SourceOrigin {
			t.Errorf("%+v %+v", a, a.Problem)
		}
		r.allGivenBack()
	})
}
