package fetch_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/memory"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

func TestIdenticalRequestsShareOneCall(t *testing.T) {
	for _, c := range []struct {
		workers, most int
		maxAge        string
	}{{1, 1, ""}, {1, 1, `,"max_age":"0s"`}, {3, 3, ""}} {
		t.Run(fmt.Sprintf("%d workers%s", c.workers, c.maxAge), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.well()
				r.upstream.SetLatency(300 * time.Millisecond)
				ids := make([]fetchworker.Identity, 300)
				for i := range ids {
					ids[i] = r.quote(fmt.Sprint("agent", i%20), fmt.Sprint("q", i), "AAPL", c.maxAge)
				}
				time.Sleep(time.Second)
				defer r.fleet(c.workers)()
				origins := 0
				for _, id := range ids {
					a := r.final(id, 10*time.Second)
					if a.Status != fetchworker.StatusOK || string(a.Body) != aapl {
						t.Fatalf("%+v", a)
					}
					if a.Source == fetchworker.SourceOrigin {
						origins++
					}
				}
				calls := len(r.upstream.Calls())
				if calls > c.most || origins != calls {
					t.Errorf("%d calls, %d answers say origin", calls, origins)
				}
			})
		})
	}
}

// outage is a provider that has answered once and is down now, its circuit open.
func (r *rig) outage() (recovered func()) {
	var up atomic.Bool
	up.Store(true)
	ok, bad := respond(200, aapl), respond(503, "down")
	r.upstream.Fallback = func(q *http.Request) *providertest.Step {
		if up.Load() {
			return ok(q)
		}
		return bad(q)
	}
	r.open = 5 * time.Second
	r.final(r.quote("alice", "before", "AAPL", ""), 5*time.Second)
	time.Sleep(2 * time.Minute) // the quote is no longer fresh
	up.Store(false)
	for i, agent := range []string{"bob", "carol", "bob"} { // of one agent's failures it opens for that agent only
		r.quote(agent, fmt.Sprint("opens", i), fmt.Sprint("OPENS", i), "")
	}
	time.Sleep(2 * time.Second)
	return func() { up.Store(true) }
}

func TestWhileTheCircuitIsOpenAnAgentGetsTheBestThereIs(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.open = 5 * time.Second
		defer r.whole(2, 1)()
		recovered := r.outage()
		before := len(r.upstream.Calls())
		accepts := r.quote("alice", "accepts", "AAPL", `,"max_stale":"1h"`)
		shown := r.quote("alice", "shown", "AAPL", "")
		cached := r.quote("alice", "cached", "AAPL", `,"max_age":"1h"`)
		none := r.quote("alice", "none", "MSFT", `,"max_stale":"1h"`)

		a := r.final(accepts, time.Second)
		if a.Status != fetchworker.StatusStale || string(a.Body) != aapl || a.Age < 2*time.Minute || a.Source != fetchworker.SourceCache {
			t.Errorf("max_stale: %+v", a)
		}
		if a = r.final(cached, time.Second); a.Status != fetchworker.StatusOK || a.Source != fetchworker.SourceCache {
			t.Errorf("max_age: %+v", a)
		}
		a = r.until(shown, time.Second, func(fetchworker.Answer) bool { return true })
		if a.Status != fetchworker.StatusStale || a.Final || string(a.Body) != aapl {
			t.Errorf("none given: %+v", a)
		}
		a = r.until(none, time.Second, func(fetchworker.Answer) bool { return true })
		if a.Status != fetchworker.StatusWaiting || a.Problem.Reason() != fetchworker.ReasonCircuitOpen {
			t.Errorf("nothing cached: %+v", a)
		}
		if _, parked := r.letter(fetchworker.LaneInteractive, accepts); parked {
			t.Error("a final stale answer left a letter")
		}
		if calls := r.upstream.Calls()[before:]; len(calls) > 0 {
			t.Errorf("called through an open circuit: %v", calls)
		}
		recovered()
		for _, id := range []fetchworker.Identity{shown, none} {
			if a := r.final(id, 30*time.Second); a.Status != fetchworker.StatusOK {
				t.Errorf("%s: %+v", id, a)
			}
		}
	})
}

func TestAnUnchangedBodyCostsOnlyA304(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_BANDWIDTH_LIMIT_GB"] = "1"
		body := `[{"symbol":"AAPL","pad":"` + strings.Repeat("x", 5000) + `"}]`
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			step := providertest.JSON(200, body)
			if q.Header.Get("If-None-Match") == `W/"v1"` {
				step = providertest.Step{Status: 304, Header: http.Header{}}
			}
			step.Header.Set("Etag", `W/"v1"`)
			return &step
		}
		defer r.start(nil)()
		r.final(r.quote("alice", "one", "AAPL", ""), 5*time.Second)
		time.Sleep(time.Second)
		before := r.bytesUsed()
		time.Sleep(2 * time.Minute)
		a := r.final(r.quote("alice", "two", "AAPL", ""), 5*time.Second)
		time.Sleep(time.Second)
		if a.Status != fetchworker.StatusOK || string(a.Body) != body || a.Age != 0 {
			t.Errorf("%s, %d bytes, age %v", a.Status, len(a.Body), a.Age)
		}
		calls := r.upstream.Calls()
		if len(calls) != 2 || calls[1].Status != 304 {
			t.Errorf("calls %+v", calls)
		}
		if grown := r.bytesUsed() - before; before < 5000 || grown > 200 {
			t.Errorf("the budget grew by %d bytes after %d", grown, before)
		}
	})
}

// A large body whose memory somebody needs is given up while its provider is
// asked whether it has changed: the next try asks for all of it.
func TestAnUnchangedBodyThatWasGivenUpIsFetchedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.memory = memory.New(16 << 20)
		noise := make([]byte, 1<<20)
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		body := `["` + hex.EncodeToString(noise) + `"]`
		asked := 0
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			step := providertest.JSON(200, body)
			if q.Header.Get("If-None-Match") != "" {
				asked++
				room, err := r.memory.Reserve(t.Context(), 16<<20)
				if err != nil {
					t.Error(err)
					return nil
				}
				room.Close()
				step = providertest.Step{Status: 304, Header: http.Header{}}
			}
			step.Header.Set("Etag", `W/"v1"`)
			return &step
		}
		defer r.start(nil)()
		defer r.startReplayer(nil)()
		r.final(r.quote("alice", "one", "AAPL", ""), 5*time.Second)
		time.Sleep(2 * time.Minute)
		a := r.final(r.quote("alice", "two", "AAPL", ""), 30*time.Second)
		if a.Status != fetchworker.StatusOK || a.Claim == nil || a.Claim.Bytes != int64(len(body)) || a.Calls != 2 || asked != 1 {
			t.Errorf("%s after %d calls, %d of them asked whether it changed: %+v", a.Status, a.Calls, asked, a.Claim)
		}
	})
}

// bytesUsed reads the month's counter.
func (r *rig) bytesUsed() int {
	r.t.Helper()
	stream, err := r.b.JS.Stream(context.Background(), wire.StreamBudget)
	if err != nil {
		r.t.Fatal(err)
	}
	raw, err := stream.GetLastMsgForSubject(context.Background(), wire.BytesSubject("fmp", time.Now()))
	if err != nil {
		return 0
	}
	var n int
	if _, err := fmt.Sscanf(string(raw.Data), `{"val":"%d"}`, &n); err != nil {
		r.t.Fatalf("%s: %v", raw.Data, err)
	}
	return n
}

func TestNearTheEndOfTheMonthsBytes(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		// A budget of 100,000 bytes and bodies of about 16,000.
		r.env["FMP_BANDWIDTH_LIMIT_GB"] = fmt.Sprint(100_000.0 / (1 << 30))
		r.upstream.Fallback = respond(200, `[{"symbol":"X","pad":"`+strings.Repeat("x", 16_000)+`"}]`)
		defer r.start(nil)()
		for i := range 6 {
			r.final(r.quote("alice", fmt.Sprint("fill", i), fmt.Sprint("F", i), ""), 5*time.Second)
		}
		time.Sleep(2 * time.Minute)
		if used := r.bytesUsed(); used < 95_000 || used >= 100_000 {
			t.Fatalf("%d bytes used", used)
		}
		ask := func(lane, id, symbol, more string) fetchworker.Answer {
			return r.final(r.ask("fetch.request.fmp."+lane+".quote.alice", id, fmt.Sprintf(`{"id":%q,"params":{"symbol":%q}%s}`, id, symbol, more)), 5*time.Second)
		}
		if a := ask("batch", "b-stale", "F1", `,"max_stale":"1h"`); a.Status != fetchworker.StatusStale {
			t.Errorf("batch with max_stale: %+v", a)
		}
		if a := ask("batch", "b-fresh", "F1", `,"max_stale":"0s"`); a.Problem == nil || a.Problem.Code() != fetchworker.CodeBudgetExhausted {
			t.Errorf("batch that accepts nothing stale: %+v", a)
		}
		a := ask("batch", "b-none", "NEW1", "")
		if a.Problem == nil || a.Problem.Code() != fetchworker.CodeBudgetExhausted || !a.Problem.RetryAt.Equal(time.Date(2000, 2, 1, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("batch with nothing: %+v %+v", a, a.Problem)
		}
		if a := ask("interactive", "i-call", "NEW2", ""); a.Status != fetchworker.StatusOK || a.Source != fetchworker.SourceOrigin {
			t.Errorf("interactive under the limit: %+v", a)
		}
		time.Sleep(time.Second)
		calls := len(r.upstream.Calls())
		if a := ask("interactive", "i-over", "NEW3", ""); a.Problem == nil || a.Problem.Code() != fetchworker.CodeBudgetExhausted {
			t.Errorf("interactive over the limit: %+v", a)
		}
		if n := len(r.upstream.Calls()); n != calls {
			t.Error("a call was made over the limit")
		}
		requeued := dlq.Letter{
			Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "requeued"}, Lane: fetchworker.LaneBatch,
			Generation: 2, Class: wire.ClassTransient, RequestedAt: time.Now(), Body: []byte(`{"params":{"symbol":"NEW4"}}`),
		}
		if _, err := r.b.JS.PublishMsg(t.Context(), requeued.Replayed()); err != nil {
			t.Fatal(err)
		}
		if a := r.final(requeued.Identity, 5*time.Second); a.Problem == nil || a.Problem.Code() != fetchworker.CodeBudgetExhausted || !a.Review {
			t.Errorf("what a person has requeued does not come back to them: %+v", a)
		}
		thresholds := 0
		for _, percent := range []int{70, 85, 95} {
			if _, err := r.b.KV.Get(t.Context(), fmt.Sprintf("budget.fmp.2000-01.%d", percent)); err == nil {
				thresholds++
			}
		}
		if thresholds != 3 {
			t.Errorf("%d thresholds announced", thresholds)
		}
	})
}

func TestALargeBodyIsWholeThroughTheClientAndByHand(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		body := `["` + strings.Repeat("0123456789", 110_000) + `"]`
		r.upstream.Fallback = respond(200, body)
		defer r.start(nil)()
		client, err := fetchworker.NewClient(r.b.NC, "alice")
		if err != nil {
			t.Fatal(err)
		}
		a, err := client.Fetch(t.Context(), fetchworker.Request{Provider: "fmp", Operation: "quote", Params: []byte(`{"symbol":"AAPL"}`)})
		if err != nil || string(a.Body) != body {
			t.Fatalf("%v, %d bytes", err, len(a.Body))
		}
		stored, _ := r.answer(a.Identity)
		if len(stored.Body) != 0 || stored.Claim == nil || stored.Claim.Parts != 3 || stored.Claim.Bytes != int64(len(body)) {
			t.Fatalf("%+v", stored)
		}
		bodies, err := r.b.JS.Stream(t.Context(), fetchworker.StreamBodies)
		if err != nil {
			t.Fatal(err)
		}
		var whole []byte
		for part := 1; part <= stored.Claim.Parts; part++ {
			raw, err := bodies.GetLastMsgForSubject(t.Context(), fmt.Sprintf("%s.%d", stored.Claim.Prefix, part))
			if err != nil {
				t.Fatal(err)
			}
			whole = append(whole, raw.Data...)
		}
		if sum := sha256.Sum256(whole); hex.EncodeToString(sum[:]) != stored.Claim.SHA256 || string(whole) != body {
			t.Error("the parts are not the body")
		}
	})
}
