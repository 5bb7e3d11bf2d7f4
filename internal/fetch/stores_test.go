package fetch_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// limit sets the bytes that a stream may hold; 0 leaves it what it has, and no
// room. (Less than it holds, and the server would delete the oldest.)
func (r *rig) limit(stream string, bytes int64) {
	r.t.Helper()
	s, err := r.b.JS.Stream(context.Background(), stream)
	if err != nil {
		r.t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.MaxAge = 0 // an update looks for old messages by a clock outside of the bubble
	if config.MaxBytes = bytes; bytes == 0 {
		config.MaxBytes = max(int64(s.CachedInfo().State.Bytes), 1)
	}
	if _, err := r.b.JS.UpdateStream(context.Background(), config); err != nil {
		r.t.Fatal(err)
	}
}

// named waits until the worker says that it is not ready because of a stream.
func (r *rig) named(stream string, within time.Duration) {
	r.t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		if err := r.worker.Ready(context.Background()); err != nil && strings.Contains(err.Error(), stream) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s is full, and after %v the worker says %v", stream, within, r.worker.Ready(context.Background()))
		}
	}
}

// ready waits until it is ready again.
func (r *rig) ready(within time.Duration) {
	r.t.Helper()
	for deadline := time.Now().Add(within); r.worker.Ready(context.Background()) != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("after %v: %v", within, r.worker.Ready(context.Background()))
		}
	}
}

// mute keeps a stream from saying what became of a write, as a server does
// whose disk has failed it.
func (r *rig) mute(stream string, mute bool) {
	r.t.Helper()
	s, err := r.b.JS.Stream(context.Background(), stream)
	if err != nil {
		r.t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.MaxAge, config.NoAck = 0, mute
	if _, err := r.b.JS.UpdateStream(context.Background(), config); err != nil {
		r.t.Fatal(err)
	}
}

// TestAStoreThatSaysNothingIsNamed: a server whose disk was full answers no
// write. The worker says so, calls for nothing more, and goes on when it can.
func TestAStoreThatSaysNothingIsNamed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		defer r.whole(1, 1)()
		r.final(r.quote("alice", "before", "A", ""), time.Second)
		r.mute(fetchworker.StreamResults, true)
		ids := []fetchworker.Identity{r.quote("alice", "met", "B", "")}
		r.named(fetchworker.StreamResults, 10*time.Second)
		ids = append(ids, r.quote("alice", "after", "C", ""))
		time.Sleep(time.Minute)
		if n := r.calls("/C"); n != 0 {
			t.Errorf("%d calls for what could not be stored", n)
		}
		r.mute(fetchworker.StreamResults, false)
		for _, id := range ids {
			if a := r.final(id, 15*time.Second); a.Status != fetchworker.StatusOK || a.Calls != 1 {
				t.Errorf("%s: %+v", id, a)
			}
		}
		r.ready(10 * time.Second)
		if n := len(r.upstream.Calls()); n != 3 {
			t.Errorf("%d calls", n)
		}
	})
}

// suspects are the keys that stand against messages.
func (r *rig) suspects() []string {
	r.t.Helper()
	keys, err := r.b.KV.ListKeysFiltered(context.Background(), "suspect.>")
	if err != nil {
		r.t.Fatal(err)
	}
	var all []string
	for key := range keys.Keys() {
		all = append(all, key)
	}
	return all
}

// twice reports the calls that were made more than once.
func twice(calls []providertest.Call) []string {
	seen := map[string]int{}
	var again []string
	for _, c := range calls {
		if seen[c.Target]++; seen[c.Target] == 2 {
			again = append(again, c.Target)
		}
	}
	return again
}

// TestAFullResultStoreHoldsWorkAndNothingIsCalledForInVain fills the store of
// answers under load: the worker names it, calls nobody, and goes on when
// there is room, with nothing called twice.
func TestAFullResultStoreHoldsWorkAndNothingIsCalledForInVain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.upstream.SetLatency(20 * time.Millisecond)
		defer r.start(nil)()
		var ids []fetchworker.Identity
		ask := func(n int) {
			for range n {
				i := len(ids)
				ids = append(ids, r.quote(fmt.Sprint("agent", i%7), fmt.Sprint("q", i), fmt.Sprint("S", i), ""))
				time.Sleep(50 * time.Millisecond)
			}
		}
		ask(50)
		for i := range 10 { // what their shards are asked for is open when the store is full
			r.final(r.quote(fmt.Sprint("late", i), "before", fmt.Sprint("LATE", i), ""), 5*time.Second)
		}
		r.limit(fetchworker.StreamResults, 0)
		full := time.Now()
		ask(20)
		r.named(fetchworker.StreamResults, 5*time.Second-time.Since(full))
		known := time.Now()
		for i := range 10 {
			ids = append(ids, r.quote(fmt.Sprint("late", i), "after", fmt.Sprint("AFTER", i), ""))
		}
		ask(600) // half a minute more: longer than any write is tried, and than a hand-back
		time.Sleep(time.Minute)
		if n := callsBetween(r.upstream.Calls(), known, time.Now()); n != 0 {
			t.Errorf("%d calls whose answers had nowhere to go", n)
		}
		if n := callsBetween(r.upstream.Calls(), full, known); n > 24 {
			t.Errorf("%d calls until the worker knew", n)
		}
		if s := r.suspects(); len(s) > 0 {
			t.Errorf("suspects: %v", s)
		}
		r.limit(fetchworker.StreamResults, 1<<30)
		room := time.Now()
		for _, id := range ids {
			if a := r.final(id, 30*time.Second); a.Status != fetchworker.StatusOK {
				t.Errorf("%s: %+v", id, a)
			}
		}
		t.Logf("all answered %v after there was room", time.Since(room))
		r.ready(5 * time.Second)
		if again := twice(r.upstream.Calls()); len(again) > 0 {
			t.Errorf("called twice: %v", again)
		}
	})
}

// TestOneProvidersFullStoreIsNotAnothers: large bodies that find no room hold
// the provider that sent them, and letters the one that fails; the small
// answers of another go on as fast as before.
func TestOneProvidersFullStoreIsNotAnothers(t *testing.T) {
	for _, c := range []struct {
		stream string
		bad    func() *providertest.Step
		ends   fetchworker.Status
	}{
		{fetchworker.StreamBodies, func() *providertest.Step {
			step := providertest.JSON(200, `[{"symbol":"AAPL","price":1,"filler":"`+string(bytes.Repeat([]byte("x"), 700<<10))+`"}]`)
			return &step
		}, fetchworker.StatusOK},
		{wire.StreamDLQ, func() *providertest.Step { step := providertest.JSON(500, "boom"); return &step }, fetchworker.StatusOK},
	} {
		t.Run(c.stream, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.env["POLYGON_API_KEY"], r.env["POLYGON_BASE_URL"], r.env["POLYGON_REQUESTS_PER_MINUTE"] = "polygon-key-0123", r.upstream.URL(), "0"
				r.circuit = 0
				recovered := false
				good := respond(200, aapl)
				aggs := respond(200, `{"status":"OK","results":[{"c":1}],"resultsCount":1,"ticker":"AAPL"}`)
				r.upstream.SetLatency(20 * time.Millisecond)
				r.upstream.Fallback = func(q *http.Request) *providertest.Step {
					switch {
					case strings.HasPrefix(q.URL.Path, "/v2/"):
						return aggs(q)
					case recovered && c.stream == wire.StreamDLQ:
						return good(q)
					default:
						return c.bad()
					}
				}
				defer r.start(nil)()
				defer r.startReplayer(nil)()
				other := func(n int) time.Duration {
					id := r.ask("fetch.request.polygon.interactive.aggregates.bob", fmt.Sprint("b", n),
						fmt.Sprintf(`{"id":"b%d","params":{"symbol":"AAPL","from":"2026-01-02","to":"2026-01-09","multiplier":%d}}`, n, n+1))
					began := time.Now()
					if a := r.final(id, 10*time.Second); a.Status != fetchworker.StatusOK {
						t.Fatalf("%+v %+v", a, a.Problem)
					}
					return time.Since(began)
				}
				var before []time.Duration
				for n := range 20 {
					before = append(before, other(n))
				}
				r.limit(c.stream, 0)
				full := time.Now()
				var ids []fetchworker.Identity
				for i := range 60 {
					ids = append(ids, r.quote(fmt.Sprint("agent", i%5), fmt.Sprint("q", i), fmt.Sprint("S", i), ""))
				}
				r.named(c.stream, 5*time.Second)
				var meanwhile []time.Duration
				for n := range 20 {
					meanwhile = append(meanwhile, other(20+n))
					time.Sleep(2 * time.Second)
				}
				slices.Sort(before)
				slices.Sort(meanwhile)
				t.Logf("another provider's answer: median %v before, %v meanwhile, at most %v and %v", before[10], meanwhile[10], before[19], meanwhile[19])
				if meanwhile[18] > 2*before[18]+20*time.Millisecond {
					t.Errorf("another provider's answers took %v instead of %v", meanwhile[18], before[18])
				}
				inVain := 0
				for _, call := range r.upstream.Calls() {
					if call.At.After(full.Add(5*time.Second)) && !strings.HasPrefix(call.Target, "/v2/") {
						inVain++
					}
				}
				if inVain > 0 {
					t.Errorf("%d calls whose end had nowhere to go", inVain)
				}
				if s := r.suspects(); len(s) > 0 {
					t.Errorf("suspects: %v", s)
				}
				recovered = true
				r.limit(c.stream, 1<<30)
				for _, id := range ids {
					if a := r.final(id, time.Minute); a.Status != c.ends {
						t.Errorf("%s: %+v %+v", id, a, a.Problem)
					}
				}
				if c.stream == fetchworker.StreamBodies {
					if again := twice(slices.DeleteFunc(r.upstream.Calls(), func(c providertest.Call) bool { return strings.HasPrefix(c.Target, "/v2/") })); len(again) > 0 {
						t.Errorf("called twice: %v", again)
					}
				}
				r.ready(10 * time.Second)
			})
		})
	}
}
