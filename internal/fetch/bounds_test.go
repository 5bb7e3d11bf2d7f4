package fetch_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/cache"
	"fetchworker/internal/memory"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"go.uber.org/zap"
)

// Whatever a request waits for, it waits to its deadline or to the end of its
// life, whichever comes first, and then has the end that belongs to that.
func TestEveryWaitEndsAtTheFirstOfItsBounds(t *testing.T) {
	const life = 20 * time.Second
	waits := map[string]func(r *rig) (begin func()){
		"for a permit": func(r *rig) func() {
			r.env["FMP_REQUESTS_PER_MINUTE"] = "1"
			return func() { r.final(r.quote("zoe", "before", "OTHER", ""), 10*time.Second) }
		},
		"for an identical call": func(r *rig) func() {
			r.upstream.SetLatency(25 * time.Second)
			return func() { r.quote("zoe", "before", "AAPL", "") }
		},
		"for another worker's call": func(r *rig) func() {
			r.env["FMP_REQUESTS_PER_MINUTE"] = "600"
			r.upstream.SetLatency(25 * time.Second)
			return func() {
				stop := r.start(nil)
				r.quote("zoe", "before", "AAPL", "")
				time.Sleep(time.Second)
				stopped := make(chan struct{})
				go func() { defer close(stopped); stop() }()
				r.t.Cleanup(func() { <-stopped })
				time.Sleep(100 * time.Millisecond)
			}
		},
	}
	for name, prepare := range waits {
		for more, c := range map[string]struct {
			after time.Duration
			code  fetchworker.Code
		}{
			"":               {life, fetchworker.CodeRetriesExhausted},
			`,"ttl":"3s"`:    {3 * time.Second, fetchworker.CodeDeadlineExceeded},
			`,"ttl":"30m"`:   {life, fetchworker.CodeRetriesExhausted},
			`,"ttl":"2000h"`: {life, fetchworker.CodeRetriesExhausted},
		} {
			if !brokertest.Sampled(3) {
				continue
			}
			t.Run(name+more, func(t *testing.T) {
				inBubble(t, func(t *testing.T, r *rig) {
					r.well()
					r.env["FMP_TIMEOUT_SECONDS"] = "30"
					begin := prepare(r)
					r.maxLife = life
					if name == "for another worker's call" {
						begin()
						defer r.start(nil)()
					} else {
						defer r.start(nil)()
						begin()
						time.Sleep(time.Second)
					}
					asked := time.Now()
					id := r.quote("alice", "waits", "AAPL", more)
					a := r.final(id, time.Minute)
					took := time.Since(asked)
					if a.Problem == nil || a.Problem.Code() != c.code || took < c.after-time.Second || took > c.after+2*time.Second {
						t.Errorf("after %v: %+v %+v", took, a, a.Problem)
					}
				})
			})
		}
	}
}

// A connection is kept for the next permit for two seconds and no longer: a
// permit that lapses long before the next is nobody's failure, and costs none of
// the time that the provider has.
func TestAConnectionWaitsNotLongForItsPermit(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_REQUESTS_PER_MINUTE"], r.env["FMP_TIMEOUT_SECONDS"] = "60", "10"
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			step := providertest.JSON(200, aapl)
			if strings.HasSuffix(q.URL.Path, "HELD") {
				step = providertest.JSON(429, "Limit Reach")
				step.Header.Set("Retry-After", "30")
				step.Header.Set("Connection", "close") // nobody has it after
				step.Latency = 2 * time.Second
			}
			return &step
		}
		var dialled atomic.Int32
		r.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dialled.Add(1) == 2 {
				time.Sleep(4 * time.Second)
			}
			return r.upstream.DialContext(ctx, network, addr)
		}
		defer r.start(nil)()
		r.quote("bob", "held", "HELD", "")
		time.Sleep(500 * time.Millisecond)
		id := r.quote("alice", "q", "AAPL", "")
		a := r.final(id, 3*time.Minute)
		time.Sleep(5 * time.Second) // no dial is left
		if a.Status != fetchworker.StatusOK || a.Calls != 1 || a.Failures != 0 || dialled.Load() < 2 {
			t.Errorf("%+v %+v, dialled %d times", a, a.Problem, dialled.Load())
		}
		r.allGivenBack()
	})
}

// A large body that is shown although it is old is whole, on whichever path it is
// shown: it is left in the cache while its request waits.
func TestAStaleBodyIsWholeWhereverItIsShown(t *testing.T) {
	body := `[{"symbol":"AAPL","pad":"` + strings.Repeat("x", 2<<20) + `"}]`
	for name, c := range map[string]struct {
		fails func(*http.Request) *providertest.Step
		more  string
		pause bool
		final bool
	}{
		"its call fails":            {respond(500, "boom"), `,"max_stale":"1h"`, false, true},
		"it is throttled":           {respond(429, "Limit Reach"), `,"max_stale":"1h"`, false, true},
		"the provider is paused":    {respond(500, "boom"), `,"max_stale":"1h"`, true, true},
		"its call fails, meanwhile": {respond(500, "boom"), "", false, false},
		"paused, meanwhile":         {respond(500, "boom"), "", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.memory = memory.New(64 << 20)
				r.upstream.Fallback = respond(200, body)
				defer r.start(nil)()
				r.final(r.quote("bob", "before", "AAPL", ""), 10*time.Second)
				time.Sleep(5 * time.Minute)
				r.upstream.Fallback = c.fails
				if c.pause {
					if err := fleet.Pause(t.Context(), r.b.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
						t.Fatal(err)
					}
					time.Sleep(100 * time.Millisecond)
				}
				a := r.until(r.quote("alice", "q", "AAPL", c.more), 10*time.Second, func(fetchworker.Answer) bool { return true })
				if a.Status != fetchworker.StatusStale || a.Final != c.final || a.Claim == nil || a.Claim.Bytes != int64(len(body)) {
					t.Errorf("%s, final %t: %+v", a.Status, a.Final, a.Claim)
				}
			})
		})
	}
}

// A call that failed with the validators of a body is made without them at its
// retry, whichever worker makes it: the letter tells.
func TestTheNextWorkerKnowsThatValidatorsFailed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		with := 0
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			step := providertest.JSON(200, aapl)
			if q.Header.Get("If-None-Match") != "" {
				with++
				step = providertest.JSON(500, `{}`)
			}
			step.Header.Set("Etag", `"v1"`)
			return &step
		}
		stop := r.start(nil)
		r.final(r.quote("alice", "first", "AAPL", ""), 5*time.Second)
		id := r.quote("alice", "second", "AAPL", `,"max_age":"0s"`)
		r.drained(wire.StreamDLQ, 1, 5*time.Second)
		stop()
		defer r.whole(1, 1)()
		if a := r.final(id, 20*time.Second); a.Status != fetchworker.StatusOK || a.Calls != 2 || with != 1 {
			t.Errorf("%s after %d calls, %d of them with validators", a.Status, a.Calls, with)
		}
	})
}

// Requests that park write a few at a time, whatever they park for.
func TestAPausedProvidersRequestsAreNotAllOnTheirWayAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		if err := fleet.Pause(t.Context(), r.b.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		now, most := 0, 0
		defer r.start(func(point string, done bool) error {
			if point != "letter" && point != "answer" {
				return nil
			}
			mu.Lock()
			if done {
				now--
			} else {
				now++
			}
			most = max(most, now)
			mu.Unlock()
			if !done {
				time.Sleep(50 * time.Millisecond)
			}
			return nil
		})()
		r.many(fetchworker.LaneInteractive, "P", 100, agents(16)...)
		r.drained(wire.StreamDLQ, 100, 30*time.Second)
		mu.Lock()
		defer mu.Unlock()
		if most > 8 || most < 2 {
			t.Errorf("%d at a time", most)
		}
	})
}

// Who is about to make a call, and finds that its body has come and has to wait
// for its memory, keeps nobody else from it meanwhile.
func TestWhoWaitsForMemoryClaimsNoCall(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_REQUESTS_PER_MINUTE"] = "60"
		r.well()
		r.start(nil)()
		id := r.quote("alice", "q", "AAPL", "")
		r.vanish(1)
		r.memory = memory.New(16 << 20)
		room, err := r.memory.Reserve(t.Context(), 16<<20)
		if err != nil {
			t.Fatal(err)
		}
		r.wire = &brokertest.Wire{}
		r.wire.Break(".flying.", brokertest.ReplyLate, 1, time.Second)
		defer r.start(nil)()
		for deadline := time.Now().Add(30 * time.Second); r.wire.Met() == 0 && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		call, err := r.serving[0].Provider.Plan("quote", []byte(`{"symbol":"AAPL"}`))
		if err != nil {
			t.Fatal(err)
		}
		others, err := cache.New(r.b.JS, r.b.JS, memory.New(64<<20), zap.NewNop(), func() {})
		if err != nil {
			t.Fatal(err)
		}
		if held, err := others.Claimed(t.Context(), call.Key); !held || err != nil {
			t.Fatalf("claimed: %t, %v", held, err)
		}
		body := []byte(`[{"symbol":"AAPL","pad":"` + strings.Repeat("x", 2<<20) + `"}]`)
		others.Put(call.Key, &cache.Entry{FetchedAt: time.Now(), CameAt: time.Now(), HTTPStatus: 200, ContentType: "application/json", Body: body})
		writing, written := context.WithCancel(t.Context())
		written()
		others.Run(writing)
		flush(r.b.NC)
		time.Sleep(2 * time.Second) // the claim's word has come, and the body was found
		if held, err := others.Claimed(t.Context(), call.Key); held || err != nil {
			t.Errorf("who waits for memory keeps the call: %v", err)
		}
		room.Close()
		if a := r.final(id, 10*time.Second); a.Status != fetchworker.StatusOK || a.Claim == nil || len(r.upstream.Calls()) != 0 {
			t.Errorf("%+v after %d calls", a, len(r.upstream.Calls()))
		}
		others.Close()
		r.allGivenBack()
	})
}

// What a worker hands back as it stops is delivered to another, once each: none
// of it comes to the one that stops, where nobody is left to take it.
func TestWhatIsHandedBackComesToAnotherOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_REQUESTS_PER_MINUTE"] = "2"
		r.well()
		r.many(fetchworker.LaneInteractive, "H", 40, "alice", "bob")
		for range 5 {
			stop := r.start(nil)
			time.Sleep(3 * time.Second)
			held := 0
			for _, s := range r.worker.Shards() {
				held += s.Held()
			}
			before := r.deliveries()
			stop()
			if again := r.deliveries() - before; again > 0 || held == 0 {
				t.Errorf("%d of %d that were held were delivered once more to who stops", again, held)
			}
		}
	})
}

// deliveries are all that the request consumers have made.
func (r *rig) deliveries() (n int) {
	r.t.Helper()
	stream, err := r.b.JS.Stream(context.Background(), fetchworker.StreamRequests)
	if err != nil {
		r.t.Fatal(err)
	}
	list := stream.ListConsumers(context.Background())
	for c := range list.Info() {
		n += int(c.Delivered.Consumer)
	}
	if err := list.Err(); err != nil {
		r.t.Fatal(fmt.Errorf("consumers: %w", err))
	}
	return n
}
