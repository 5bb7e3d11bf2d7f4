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
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/memory"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// A permit that is over before the call is on the wire, and cannot be renewed,
// is no failure of the request: it waits for what stands in its way.
func TestAPermitThatLapsesIsNobodysFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.env["FMP_REQUESTS_PER_MINUTE"] = "60"
		var dialled atomic.Int32
		r.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialled.Add(1)
			time.Sleep(3 * time.Second)
			return r.upstream.DialContext(ctx, network, addr)
		}
		defer r.whole(1, 1)()
		time.Sleep(time.Second)
		id := r.quote("alice", "q", "AAPL", "")
		time.Sleep(time.Second)
		if err := fleet.Pause(t.Context(), r.b.KV, "fmp", time.Now().Add(time.Minute), "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		a := r.until(id, 10*time.Second, func(fetchworker.Answer) bool { return true })
		if a.Status != fetchworker.StatusWaiting || a.Problem.Reason() != fetchworker.ReasonPaused || a.Calls != 0 || a.Failures != 0 || dialled.Load() != 1 {
			t.Errorf("%+v %+v, dialled %d times", a, a.Problem, dialled.Load())
		}
		// The call that was judged and not made holds up no order.
		if _, took := r.cancelAll("alice", fetchworker.CancelFilter{Provider: "fmp", Operation: "profile"}); took > 500*time.Millisecond {
			t.Errorf("an order took %v", took)
		}
		if a := r.final(id, 2*time.Minute); a.Status != fetchworker.StatusOK || a.Calls != 1 || a.Failures != 0 {
			t.Errorf("%+v %+v", a, a.Problem)
		}
		if n := len(r.upstream.Calls()); n != 1 {
			t.Errorf("%d calls", n)
		}
		counted := 0.0
		for head, n := range scrape(t, r.registry) {
			if strings.HasPrefix(head, "provider_requests_total{") || strings.HasPrefix(head, "provider_errors_total{") {
				counted += n
			}
		}
		if counted != 1 {
			t.Errorf("%v calls and errors were counted", counted)
		}
		r.allGivenBack()
	})
}

// Who finds that another worker makes the same call waits for it with nothing in
// its hand: as many as a worker may make at once leave it free for another's.
func TestWhoWaitsForAnothersCallHoldsNoPermit(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_REQUESTS_PER_MINUTE"], r.env["FMP_TIMEOUT_SECONDS"] = "600", "20"
		r.well()
		r.upstream.SetLatency(8 * time.Second)
		stop := r.start(nil)
		var ids []fetchworker.Identity
		for i := range 16 {
			ids = append(ids, r.quote(fmt.Sprint("agent-", i), "first", fmt.Sprint("S", i), ""))
		}
		time.Sleep(time.Second)
		stopped := make(chan struct{})
		go func() { defer close(stopped); stop() }()
		defer func() { <-stopped }()
		time.Sleep(100 * time.Millisecond)
		defer r.start(nil)()
		for i := range 16 {
			ids = append(ids, r.quote(fmt.Sprint("agent-", i), "second", fmt.Sprint("S", i), ""))
		}
		time.Sleep(time.Second)
		if n := len(r.upstream.Calls()); n != 16 {
			t.Fatalf("%d calls", n)
		}
		r.upstream.SetLatency(10 * time.Millisecond)
		r.final(r.quote("zoe", "other", "OTHER", ""), time.Second)
		for _, id := range ids {
			if a := r.final(id, 15*time.Second); a.Status != fetchworker.StatusOK {
				t.Errorf("%s: %+v", id, a)
			}
		}
		if n := len(r.upstream.Calls()); n != 17 {
			t.Errorf("%d calls for 17 things", n)
		}
		r.allGivenBack()
	})
}

// A suspect that only waits, for the memory of a large body, has killed nobody
// by it and lets all others work.
func TestASuspectThatWaitsHoldsUpNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.memory = memory.New(16 << 20)
		r.env["POLYGON_API_KEY"], r.env["POLYGON_BASE_URL"], r.env["POLYGON_REQUESTS_PER_MINUTE"] = "polygon-key-0123", r.upstream.URL(), "0"
		aggs := respond(200, `{"status":"OK","results":[{"c":1}],"resultsCount":1,"ticker":"AAPL"}`)
		big := respond(200, `[{"symbol":"BIG","pad":"`+strings.Repeat("x", 2<<20)+`"}]`)
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			if strings.HasPrefix(q.URL.Path, "/v2/") {
				return aggs(q)
			}
			return big(q)
		}
		r.start(nil)()
		id := r.quote("alice", "suspect", "BIG", "")
		r.vanish(5)
		room, err := r.memory.Reserve(t.Context(), 16<<20)
		if err != nil {
			t.Fatal(err)
		}
		raised, unwatch := r.running()
		defer unwatch()
		defer r.start(nil)()
		for deadline := time.Now().Add(30 * time.Second); r.calls("BIG") == 0; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("nobody runs it")
			}
		}
		if len(raised()) == 0 {
			t.Error("it is no suspect")
		}
		for n := range 5 {
			id := r.ask("fetch.request.polygon.interactive.aggregates.bob", fmt.Sprint("b", n),
				fmt.Sprintf(`{"id":"b%d","params":{"symbol":"AAPL","from":"2026-01-02","to":"2026-01-09","multiplier":%d}}`, n, n+1))
			if a := r.final(id, time.Second); a.Status != fetchworker.StatusOK {
				t.Errorf("%+v", a)
			}
		}
		room.Close()
		if a := r.final(id, 10*time.Second); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v %+v", a, a.Problem)
		}
		r.drained(fetchworker.StreamRequests, 0, 10*time.Second)
	})
}

// A copy goes to a reply subject of its agent's own, and nowhere else, also
// where the request is refused for it.
func TestACopyGoesOnlyToItsAgent(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		heard, err := r.b.NC.SubscribeSync(">")
		if err != nil {
			t.Fatal(err)
		}
		defer r.start(nil)()
		for i, to := range []string{"fetch.reply.bob.x", "_INBOX.x", "fetch.reply.alice", "fetch.reply.alice2.x", "fetch.reply.>", "$SYS.x", "fetch.request.fmp.batch.quote.alice"} {
			name := fmt.Sprint("q", i)
			if a := r.final(r.quote("alice", name, "AAPL", fmt.Sprintf(`,"reply_to":%q`, to)), 5*time.Second); a.Problem == nil || a.Problem.Code() != fetchworker.CodeInvalidRequest {
				t.Errorf("%s: %+v", to, a)
			}
		}
		r.final(r.quote("alice", "fine", "AAPL", `,"reply_to":"fetch.reply.alice.x"`), 5*time.Second)
		time.Sleep(time.Second)
		copies := 0
		for {
			m, err := next(heard, time.Millisecond)
			if err != nil {
				break
			}
			inbox := strings.HasPrefix(m.Subject, "_INBOX.") && m.Subject != "_INBOX.x" // of who reads an answer here
			if m.Header.Get(wire.HeaderStatus) == "" || inbox || strings.HasPrefix(m.Subject, "fetch.put.") || strings.HasPrefix(m.Subject, "fetch.result.") {
				continue
			}
			if copies++; m.Subject != "fetch.reply.alice.x" {
				t.Errorf("a copy on %s", m.Subject)
			}
		}
		if copies != 1 {
			t.Errorf("%d copies", copies)
		}
	})
}

// What an operator has lifted the deadline of is called, whatever its body says.
func TestALiftedDeadlineHolds(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.start(nil)() // the consumers are there
		id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q"}
		now := time.Now()
		l := dlq.Letter{
			Identity: id, Lane: fetchworker.LaneInteractive, Generation: 2, Class: wire.ClassPaused,
			Body:        []byte(`{"id":"q","params":{"symbol":"AAPL"},"deadline":"` + now.Add(-time.Hour).Format(time.RFC3339) + `"}`),
			RequestedAt: now.Add(-2 * time.Hour), FailedAt: now, NotBefore: now,
		}
		if _, err := r.b.JS.PublishMsg(t.Context(), l.Replayed()); err != nil {
			t.Fatal(err)
		}
		defer r.start(nil)()
		if a := r.final(id, 10*time.Second); a.Status != fetchworker.StatusOK || a.Generation != 2 {
			t.Errorf("%+v %+v", a, a.Problem)
		}
	})
}

// An answer that says no is for all that wait for the same call.
func TestOneRefusalIsForAllThatAsked(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.SetLatency(300 * time.Millisecond)
		r.upstream.Fallback = respond(404, `{"Error Message":"none"}`)
		var ids []fetchworker.Identity
		for i := range 20 {
			ids = append(ids, r.quote(fmt.Sprint("agent", i), "same", "NONE", ""))
		}
		defer r.start(nil)()
		calls := 0
		for _, id := range ids {
			a := r.final(id, 5*time.Second)
			if a.Problem == nil || a.Problem.Code() != fetchworker.CodeNotFound {
				t.Errorf("%+v", a)
			}
			calls += a.Calls
		}
		if n := len(r.upstream.Calls()); n != 1 || calls != 1 {
			t.Errorf("%d calls, and the answers tell of %d", n, calls)
		}
		time.Sleep(time.Second)
		r.allGivenBack()
	})
}

// A request that is cancelled while it waits for its permit has its answer at
// once; and an order waits for no worker that has left.
func TestAnOrderIsQuick(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.env["FMP_REQUESTS_PER_MINUTE"] = "2"
		stop := r.start(nil)
		defer r.start(nil)()
		for i := range 2 {
			r.final(r.quote("bob", fmt.Sprint("q", i), fmt.Sprint("B", i), ""), 10*time.Second)
		}
		stop() // it may have called
		id := r.quote("alice", "waits", "AAPL", "")
		time.Sleep(time.Second)
		if _, took := r.cancelAll("alice", fetchworker.CancelFilter{Provider: "fmp"}); took > 500*time.Millisecond {
			t.Errorf("an order took %v", took)
		}
		cancelled(t, r.final(id, 500*time.Millisecond))
		time.Sleep(time.Second)
		r.allGivenBack()
	})
}

// What an earlier consumer delivered, and nobody acknowledged, comes for the
// first time as a new one counts; its answer is found all the same, also where
// its agent gave it no id.
func TestWhatAnEarlierConsumerDeliveredIsLookedUp(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = respond(404, `{"Error Message":"none"}`)
		r.wire = &brokertest.Wire{}
		nc, stop := r.startWorker(nil)
		r.wire.Break("$JS.ACK.", brokertest.Lost, 1<<20, 0)
		r.ask("fetch.request.fmp.interactive.quote.alice", "", `{"params":{"symbol":"NONE"}}`)
		time.Sleep(time.Second)
		if n := r.count(fetchworker.StreamResults); n != 1 || r.wire.Met() == 0 {
			t.Fatalf("%d answers, %d acks lost", n, r.wire.Met())
		}
		nc.Close()
		defer stop()
		stream, err := r.b.JS.Stream(t.Context(), fetchworker.StreamRequests)
		if err != nil {
			t.Fatal(err)
		}
		for name := range stream.ConsumerNames(t.Context()).Name() {
			if err := stream.DeleteConsumer(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		r.wire = nil
		defer r.start(nil)()
		r.drained(fetchworker.StreamRequests, 0, 10*time.Second)
		if n := len(r.upstream.Calls()); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}

// An agent whose calls take long holds up no other's of the same provider. Whoever
// has asked lately finds a place at once, whatever others call; of two who wait
// each has its share; and an agent that is alone may use every place.
func TestOneAgentsLongCallsLeavePlacesToOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_TIMEOUT_SECONDS"] = "30"
		quick := respond(200, `[{"symbol":"AAPL","price":1}]`)
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			step := quick(q)
			if strings.Contains(q.URL.Path, "SLOW") {
				step.Latency = 9 * time.Second
			}
			return step
		}
		defer r.start(nil)()
		many := func(agent string, n int) (ids []fetchworker.Identity) {
			for i := range n {
				ids = append(ids, r.quote(agent, fmt.Sprint(agent, i), fmt.Sprint("SLOW", agent, i), ""))
			}
			return ids
		}
		under := func() (n int) { return r.gates[0].State().InFlight }
		slow := many("alice", 50)
		time.Sleep(time.Second)
		if n := under(); n != 16 {
			t.Errorf("alone it has %d calls at once", n)
		}
		r.final(r.quote("bob", "first", "B", ""), 10*time.Second) // it is the first: the end of a call
		for i := range 40 {
			time.Sleep(time.Second)
			if a := r.final(r.quote("bob", fmt.Sprint("b", i), fmt.Sprint("B", i), ""), 300*time.Millisecond); a.Status != fetchworker.StatusOK {
				t.Fatalf("%+v", a)
			}
		}
		for _, id := range append(slow, many("carol", 20)...) {
			if a := r.final(id, time.Minute); a.Status != fetchworker.StatusOK || a.Calls != 1 {
				t.Errorf("%s: %+v", id, a)
			}
		}
		r.allGivenBack()
	})
}

// For a small answer on its way the looks at larger bodies make way, for a
// while; for one of their own kind they do not.
func TestNobodyMakesWayForALesserBody(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.memory = memory.New(64 << 20)
		small, lesser := respond(200, `[{"symbol":"S","price":1}]`), respond(200, `[{"symbol":"M","pad":"`+strings.Repeat("x", 100<<10)+`"}]`)
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			if strings.HasSuffix(q.URL.Path, "/M") {
				return lesser(q)
			}
			return small(q)
		}
		defer r.start(nil)()
		rests := func() bool {
			pace := r.memory.Pace(memory.MaxBody)
			time.Sleep(time.Millisecond) // it works
			began := time.Now()
			_, _ = pace.Write(make([]byte, 1<<20))
			return time.Since(began) > 0
		}
		for symbol, makesWay := range map[string]bool{"M": false, "S": true} {
			time.Sleep(time.Second)
			r.final(r.quote("alice", symbol, symbol, ""), time.Second)
			time.Sleep(10 * time.Millisecond)
			if rests() != makesWay {
				t.Errorf("%s: makes way is %v", symbol, !makesWay)
			}
		}
	})
}
