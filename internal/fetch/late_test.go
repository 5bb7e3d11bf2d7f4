package fetch_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/memory"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// Six workers with caches of their own ask for the same ten things under a
// quota of sixty calls a minute, all of them free or all used up: whoever has
// waited looks once more whether another has fetched the same meanwhile, and
// who finds another at it gives the permit back.
func TestUnderAScarceQuotaTheFleetMakesOneCallForTheSameThing(t *testing.T) {
	for _, usedUp := range []int{0, 60} {
		inBubble(t, func(t *testing.T, r *rig) {
			r.env["FMP_REQUESTS_PER_MINUTE"] = "60"
			r.well()
			r.upstream.SetLatency(100 * time.Millisecond)
			defer r.fleet(6)()
			for _, id := range r.many(fetchworker.LaneInteractive, "before", usedUp, agents(16)...) {
				r.final(id, time.Minute)
			}
			before := len(r.upstream.Calls())
			var ids []fetchworker.Identity
			for i := range 600 {
				ids = append(ids, r.quote(fmt.Sprint("agent-", i%20), fmt.Sprint("q-", i), fmt.Sprint("SAME", i%10), ""))
			}
			for _, id := range ids {
				if a := r.final(id, 5*time.Minute); a.Status != fetchworker.StatusOK {
					t.Fatalf("%s: %+v", id, a)
				}
			}
			if calls := len(r.upstream.Calls()) - before; calls > 16 {
				t.Errorf("%d calls for ten things", calls)
			}
		})
	}
}

// Who looks once more with a permit in its hand, and finds a large body that has
// to wait for its memory, lets others have the permit meanwhile.
func TestWhoWaitsForALargeBodyHoldsNoPermit(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.memory = memory.New(16 << 20)
		r.env["FMP_REQUESTS_PER_MINUTE"] = "1"
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			step := providertest.JSON(200, `[{"symbol":"OTHER","price":1}]`)
			if strings.HasSuffix(q.URL.Path, "BIG") {
				step = providertest.JSON(200, `[{"symbol":"BIG","pad":"`+strings.Repeat("x", 2<<20)+`"}]`)
			}
			step.Latency = 2 * time.Second
			return &step
		}
		ids := []fetchworker.Identity{r.calledByOneThatStops("BIG", nil)}
		defer r.start(nil)()
		ids = append(ids, r.quote("bob", "second", "BIG", ""))
		time.Sleep(29 * time.Second)
		room, err := r.memory.Reserve(t.Context(), 16<<20)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(35 * time.Second) // the next permit has come
		other := r.quote("other", "q", "OTHER", "")
		r.final(other, 15*time.Second)
		room.Close()
		for _, id := range ids {
			if a := r.final(id, 5*time.Second); a.Status != fetchworker.StatusOK || a.Claim == nil {
				t.Errorf("%s: %+v", id, a)
			}
		}
		if calls := r.upstream.Calls(); len(calls) != 2 {
			t.Errorf("%d calls for two things", len(calls))
		}
	})
}

// A body that has come and waits for memory takes no place of those who call:
// where as many as may call at once wait so, others are called for.
func TestWhoseBodyHasComeTakesNoPlace(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.memory = memory.New(64 << 20)
		var packed bytes.Buffer
		zip := gzip.NewWriter(&packed)
		_, _ = zip.Write([]byte(`["` + strings.Repeat("x", memory.Small) + `"]`))
		_ = zip.Close()
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			step := providertest.JSON(200, `[{"symbol":"OTHER","price":1}]`)
			if strings.Contains(q.URL.Path, "BIG") {
				step = providertest.Step{Status: 200, Raw: true, Header: http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, Body: packed.Bytes()}
			}
			return &step
		}
		defer r.start(nil)()
		room, err := r.memory.Reserve(t.Context(), 64<<20)
		if err != nil {
			t.Fatal(err)
		}
		var ids []fetchworker.Identity
		for i := range 17 { // more than may be called at once
			ids = append(ids, r.quote(fmt.Sprint("agent-", i), "big", fmt.Sprint("BIG", i), ""))
		}
		time.Sleep(2 * time.Second)
		if n := r.calls("BIG"); n != len(ids) {
			t.Errorf("%d of %d are called for", n, len(ids))
		}
		if a := r.final(r.quote("other", "q", "OTHER", ""), 2*time.Second); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v", a)
		}
		room.Close()
		for _, id := range ids {
			if a := r.final(id, 10*time.Second); a.Status != fetchworker.StatusOK || a.Claim == nil {
				t.Errorf("%s: %+v", id, a)
			}
		}
	})
}

// Whoever has waited long for its permit looks once more, also when nobody
// remembers any more that another made the same call.
func TestWhoHasWaitedLooksOnceMore(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_REQUESTS_PER_MINUTE"] = "1"
		r.well()
		r.upstream.SetLatency(2 * time.Second)
		ids := []fetchworker.Identity{r.calledByOneThatStops("SAME", nil)}
		defer r.start(nil)()
		ids = append(ids, r.quote("bob", "second", "SAME", ""))
		time.Sleep(29 * time.Second)
		stream, err := r.b.JS.Stream(t.Context(), "KV_"+wire.BucketCache)
		if err != nil {
			t.Fatal(err)
		}
		// As its time would: the server judges that by a clock outside of the bubble.
		if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject("$KV."+wire.BucketCache+".flying.>")); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if a := r.final(id, 2*time.Minute); a.Status != fetchworker.StatusOK {
				t.Errorf("%s: %+v", id, a)
			}
		}
		if calls := r.upstream.Calls(); len(calls) != 1 {
			t.Errorf("%d calls for one thing", len(calls))
		}
	})
}

// Bodies and answers are as old as the server's clock says, which is
// everybody's, whatever the worker's own does.
func TestAWorkersOwnClockDatesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.wire = &brokertest.Wire{}
		r.wire.Ahead(time.Hour)
		answers := map[string]func(*http.Request) *providertest.Step{"GOOD": respond(200, aapl), "NONE": respond(404, `{"Error Message":"none"}`)}
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			return answers[q.URL.Path[strings.LastIndexByte(q.URL.Path, '/')+1:]](q)
		}
		defer r.start(nil)()
		for _, c := range []struct{ id, symbol string }{{"good", "GOOD"}, {"none", "NONE"}, {"cached", "GOOD"}} {
			asked := time.Now().Add(time.Hour)
			a := r.final(r.quote("alice", c.id, c.symbol, ""), time.Minute)
			if off := a.Time.Sub(asked); off < 0 || off > 5*time.Second {
				t.Errorf("%s: answered %v after it was asked", c.id, off)
			}
			if off := time.Now().Add(time.Hour).Sub(a.FetchedAt); c.symbol == "GOOD" && (off < 0 || off > 10*time.Second || a.Age > 10*time.Second) {
				t.Errorf("%s: its body is %v old, and %v is told", c.id, off, a.Age)
			}
			time.Sleep(2 * time.Second)
		}
	})
}

// Who waits for another worker's call has its body when it has come, however
// long that other's answer takes to be stored.
func TestACallIsOverWhenItsBodyHasCome(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_REQUESTS_PER_MINUTE"] = "60"
		r.well()
		r.upstream.SetLatency(700 * time.Millisecond)
		first := r.calledByOneThatStops("SAME", func(at string, done bool) error {
			if at == "answer" && !done {
				time.Sleep(20 * time.Second)
			}
			return nil
		})
		defer r.start(nil)()
		second := r.quote("bob", "second", "SAME", "")
		r.final(second, time.Second) // within the claim's time; the server judges that by a clock outside of the bubble
		r.final(first, 30*time.Second)
	})
}

// Who is thought to be gone ends the request while the one that has it now waits
// for the word that it may make the call: it is not called a second time.
func TestWhoWaitsForItsPlaceLooksForAnEndMeanwhile(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_REQUESTS_PER_MINUTE"] = "60"
		r.well()
		r.start(nil)()
		id := r.quote("alice", "q", "AAPL", "")
		r.vanish(1)
		r.wire = &brokertest.Wire{}
		r.wire.Break(".flying.", brokertest.ReplyLate, 1, time.Second)
		defer r.start(nil)()
		for range 50 {
			if r.wire.Met() > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := len(r.upstream.Calls()); r.wire.Met() != 1 || n != 0 {
			t.Fatalf("%d words are late, %d calls", r.wire.Met(), n)
		}
		a := fetchworker.Answer{Identity: id, Status: fetchworker.StatusOK, Final: true, Generation: 1, Body: []byte(aapl)}
		if _, stored, err := answer.New(record.New(r.b.JS, nil)).Put(t.Context(), a, ""); err != nil || !stored {
			t.Fatal(stored, err)
		}
		r.drained(fetchworker.StreamRequests, 0, 5*time.Second)
		if n := len(r.upstream.Calls()); n != 0 {
			t.Errorf("%d calls for what has its end", n)
		}
		r.allGivenBack()
	})
}

// calledByOneThatStops asks for a quote while one worker runs, which makes the
// call and takes nothing else.
func (r *rig) calledByOneThatStops(symbol string, hook record.Hook) fetchworker.Identity {
	stop := r.start(hook)
	id := r.quote("alice", "first", symbol, "")
	time.Sleep(100 * time.Millisecond)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	r.t.Cleanup(func() { <-stopped })
	time.Sleep(100 * time.Millisecond)
	return id
}
