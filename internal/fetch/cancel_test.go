package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// calls notes when each call came to the provider.
type calls struct {
	mu sync.Mutex
	at map[string][]time.Time // by symbol
}

func (c *calls) answer(status int, body string) func(*http.Request) *providertest.Step {
	return func(r *http.Request) *providertest.Step {
		c.mu.Lock()
		defer c.mu.Unlock()
		symbol := r.URL.Path[len("/api/v3/quote/"):]
		c.at[symbol] = append(c.at[symbol], time.Now())
		step := providertest.JSON(status, body)
		return &step
	}
}

func (c *calls) after(t time.Time) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, all := range c.at {
		for _, at := range all {
			if at.After(t) {
				n++
			}
		}
	}
	return n
}

func (c *calls) count() int { return c.after(time.Time{}) }

func (r *rig) client(agent string) *fetchworker.Client {
	r.t.Helper()
	c, err := fetchworker.NewClient(r.b.NC, agent)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// cancelAll orders it, and lets the clock of the bubble go on before and after:
// while somebody works it stands still.
func (r *rig) cancelAll(agent string, f fetchworker.CancelFilter) (before time.Time, took time.Duration) {
	r.t.Helper()
	time.Sleep(time.Millisecond)
	asked := time.Now()
	before, err := r.client(agent).CancelAll(context.Background(), f)
	if err != nil {
		r.t.Fatal(err)
	}
	took = time.Since(asked)
	time.Sleep(time.Millisecond)
	return before, took
}

func cancelled(t *testing.T, a fetchworker.Answer) {
	t.Helper()
	if !a.Final || a.Status != fetchworker.StatusFailed || a.Problem == nil || a.Problem.Code() != fetchworker.CodeCancelled || a.Problem.Status != 410 {
		t.Errorf("%+v %+v", a, a.Problem)
	}
}

// What is queued, and what waits for its permit, is cancelled together; what
// was asked after goes, and another agent's is not touched.
func TestCancelAllEndsWhatIsQueued(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_REQUESTS_PER_MINUTE"] = "6" // nearly all have to wait
		seen := &calls{at: map[string][]time.Time{}}
		r.upstream.Fallback = seen.answer(200, `[{"price":1}]`)
		answers := dlqtest.Record(t, r.b.NC)
		defer answers.Stop()
		defer r.start(nil)()
		var ids []fetchworker.Identity
		for i := range 200 {
			ids = append(ids, r.quote("alice", fmt.Sprint("q-", i), fmt.Sprint("A", i), ""))
		}
		bobs := r.quote("bob", "b", "B", "")
		r.final(ids[0], time.Minute)
		before, took := r.cancelAll("alice", fetchworker.CancelFilter{Provider: "fmp"})
		replied, made := time.Now(), seen.count()
		if before.Before(replied.Add(-time.Second)) || before.After(replied) || took > 100*time.Millisecond {
			t.Errorf("%v, the reply took %v", before, took)
		}
		after := r.quote("alice", "after", "AFTER", "")
		ended, gone := 0, 0
		for _, id := range ids {
			a := r.final(id, 5*time.Second)
			if a.Status == fetchworker.StatusOK {
				ended++
				continue
			}
			gone++
			cancelled(t, a)
		}
		if gone < 150 || made-ended > 1 || made < ended { // one may have begun
			t.Errorf("%d were answered, %d cancelled, %d calls made", ended, gone, made)
		}
		r.final(bobs, 3*time.Minute)
		if a := r.final(after, 3*time.Minute); a.Status != fetchworker.StatusOK {
			t.Errorf("asked after: %+v", a)
		}
		if n := seen.after(replied); n > 2 { // bob's, and the one after
			t.Errorf("%d calls after the reply", n)
		}
		for _, id := range ids {
			finals := 0
			for _, a := range answers.Answers(id) {
				if a.Final {
					finals++
				}
			}
			if finals != 1 {
				t.Errorf("%s has %d final answers", id, finals)
			}
		}
	})
}

func TestCancelAllKeepsToOperationAndLane(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_REQUESTS_PER_MINUTE"] = "1"
		r.upstream.Fallback = respond(200, `[{"price":1}]`)
		quote := r.quote("alice", "q", "Q", "")
		batch := r.ask("fetch.request.fmp.batch.quote.alice", "b", `{"id":"b","params":{"symbol":"B"}}`)
		profile := r.ask("fetch.request.fmp.interactive.profile.alice", "p", `{"id":"p","params":{"symbol":"P"}}`)
		stop := r.start(nil) // after they are queued: one may be called
		defer stop()
		for _, f := range []fetchworker.CancelFilter{{Provider: "fmp", Operation: "ratios"}, {Provider: "fmp", Lane: "batch", Operation: "profile"}, {Provider: "polygon"}} {
			r.cancelAll("alice", f)
		}
		time.Sleep(time.Second)
		for _, id := range []fetchworker.Identity{quote, batch, profile} {
			if a, ok := r.answer(id); ok && a.Status == fetchworker.StatusFailed {
				t.Errorf("%s: %+v", id, a)
			}
		}
		r.cancelAll("alice", fetchworker.CancelFilter{Provider: "fmp", Lane: "batch"})
		if a := r.final(batch, 5*time.Second); a.Status == fetchworker.StatusFailed {
			cancelled(t, a)
		}
		if a := r.final(profile, 5*time.Minute); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v", a)
		}
	})
}

func TestCancelEndsTheNamedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_REQUESTS_PER_MINUTE"] = "1"
		seen := &calls{at: map[string][]time.Time{}}
		r.upstream.Fallback = seen.answer(200, `[{"price":1}]`)
		defer r.start(nil)()
		alice := r.client("alice")
		first := r.quote("alice", "first", "FIRST", "")
		r.final(first, time.Minute)
		held := r.quote("alice", "held", "HELD", "") // waits for its permit
		for i := range 20 {
			r.quote("alice", fmt.Sprint("q-", i), fmt.Sprint("A", i), "")
		}
		queued := r.quote("alice", "queued", "QUEUED", "")
		time.Sleep(time.Second)
		got, err := alice.Cancel(t.Context(), first, held, queued, queued)
		if err != nil || got != (fetchworker.Cancelled{Cancelled: 2, Final: 1}) {
			t.Fatalf("%+v %v", got, err)
		}
		for _, id := range []fetchworker.Identity{held, queued} {
			a, ok := r.answer(id)
			if !ok {
				t.Fatalf("%s has no answer", id)
			}
			cancelled(t, a)
		}
		if a, _ := r.answer(first); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v", a)
		}
		if got, err := alice.Cancel(t.Context(), held); err != nil || got.Cancelled != 1 {
			t.Errorf("again: %+v %v", got, err)
		}
		r.drained(fetchworker.StreamRequests, 0, 40*time.Minute)
		seen.mu.Lock()
		defer seen.mu.Unlock()
		if len(seen.at["HELD"])+len(seen.at["QUEUED"]) != 0 || len(seen.at) != 21 {
			t.Errorf("%d symbols were called, HELD %v, QUEUED %v", len(seen.at), seen.at["HELD"], seen.at["QUEUED"])
		}
	})
}

// A call that has begun ends, and its answer is dropped.
func TestACallThatHasBegunIsDropped(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.SetLatency(3 * time.Second)
		r.upstream.Fallback = respond(200, `[{"price":1}]`)
		defer r.start(nil)()
		alice := r.client("alice")
		all := r.quote("alice", "all", "A", "")
		time.Sleep(time.Second)
		r.cancelAll("alice", fetchworker.CancelFilter{Provider: "fmp"})
		cancelled(t, r.final(all, 10*time.Second))
		named := r.quote("alice", "named", "B", "")
		time.Sleep(time.Second)
		if got, err := alice.Cancel(t.Context(), named); err != nil || got.Cancelled != 1 {
			t.Fatalf("%+v %v", got, err)
		}
		time.Sleep(5 * time.Second)
		a, _ := r.answer(named)
		cancelled(t, a)
		if a, _ := r.answer(all); a.Calls != 1 { // which is why it is remembered
			t.Errorf("its answer says that it took %d calls", a.Calls)
		}
	})
}

func TestParkedLettersAreCancelledWithinTenSeconds(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		down := &calls{at: map[string][]time.Time{}}
		r.upstream.Fallback = down.answer(500, `{}`)
		defer r.start(nil)()
		defer r.startReplayer(nil)()
		var ids []fetchworker.Identity
		for i := range 300 {
			ids = append(ids, r.quote("alice", fmt.Sprint("q-", i), fmt.Sprint("A", i), ""))
		}
		r.drained(fetchworker.StreamRequests, 0, time.Minute)
		bobs := r.quote("bob", "b", "B", "")
		r.cancelAll("alice", fetchworker.CancelFilter{Provider: "fmp"})
		replied := time.Now()
		for _, id := range ids {
			cancelled(t, r.final(id, time.Until(replied.Add(10*time.Second))))
		}
		time.Sleep(5 * time.Minute) // probes go on, with bob's
		down.mu.Lock()
		for symbol, all := range down.at {
			if symbol != "B" && all[len(all)-1].After(replied) {
				t.Errorf("%s was called at %v, after the reply at %v", symbol, all[len(all)-1], replied)
			}
		}
		down.mu.Unlock()
		if a, ok := r.answer(bobs); ok && a.Final {
			t.Errorf("bob's: %+v", a)
		}
		if n := r.count(wire.StreamDLQ) + r.count(wire.StreamReplay); n > 1 {
			t.Errorf("%d letters are left", n)
		}
	})
}

// Whichever worker takes the order, none begins a call after the reply: neither
// of what it holds nor of what is queued, be the order given while all calls are
// under way or while some end and others begin.
func TestNoWorkerOfManyBeginsACallAfterTheReply(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		seen := &calls{at: map[string][]time.Time{}}
		r.upstream.Fallback = seen.answer(200, `[{"price":1}]`)
		const lasts = 10 * time.Millisecond
		r.upstream.SetLatency(lasts)
		r.env["FMP_REQUESTS_PER_MINUTE"] = "0" // as fast as they can
		for range 3 {
			stop := r.start(nil)
			defer stop()
		}
		moments := []time.Duration{lasts / 2, lasts, 2*lasts - 1}
		if testing.Short() {
			moments = moments[:1]
		}
		for round, when := range moments {
			agent, before := fmt.Sprint("agent-", round), seen.count()
			const asked = 1000 // more than the three take ahead of their calls
			for i := range asked {
				r.quote(agent, fmt.Sprint("q-", i), fmt.Sprint("A", round, "X", i), "")
			}
			for seen.count() == before {
				time.Sleep(lasts / 10)
			}
			time.Sleep(when)
			_, err := r.client(agent).CancelAll(t.Context(), fetchworker.CancelFilter{Provider: "fmp"})
			replied := time.Now()
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(lasts) // what has begun has its answer
			made := seen.count() - before
			r.drained(fetchworker.StreamRequests, 0, time.Minute)
			if n := seen.after(replied); n != 0 || made == 0 || made > asked/2 {
				t.Errorf("%d calls after the reply, and %d of %d before it", n, made, asked)
			}
		}
	})
}

func TestOrdersThatMakeNoSense(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		defer r.start(nil)()
		for body, want := range map[string]string{
			`{}`: "400", `{"all":true,"ids":["q"]}`: "400", `{"operation":"quote"}`: "400", `{"ids":["q"]}`: "400",
			`{"operation":"quote","ids":["*"]}`: "400", `{"all":true,"lane":"fast"}`: "400", `{"all":true,"operation":"*"}`: "400",
			`{"all":true,"more":1}`: "400", `[]`: "400", `{"all":true} {}`: "400", ``: "400",
			`{"operation":"quote","ids":["a"],"lane":"batch"}`: "400",
		} {
			m, err := r.b.NC.Request("fetch.cancel.fmp.alice", []byte(body), 5*time.Second)
			if err != nil || m.Header.Get("Nats-Service-Error-Code") != want {
				t.Errorf("%s: %v %v", body, m, err)
			}
		}
		for subject, want := range map[string]string{"fetch.cancel.nobody.alice": "404", "fetch.cancel.F!.alice": "400", "fetch.cancel.*.alice": "400", "fetch.cancel.fmp.*": "400"} {
			m, err := r.b.NC.Request(subject, []byte(`{"all":true}`), 5*time.Second)
			if err != nil || m.Header.Get("Nats-Service-Error-Code") != want {
				t.Errorf("%s: %v %v", subject, m, err)
			}
		}
	})
	inBubble(t, func(t *testing.T, r *rig) {
		if _, err := r.client("alice").CancelAll(t.Context(), fetchworker.CancelFilter{Provider: "fmp"}); !errors.Is(err, fetchworker.ErrNobodyServes) {
			t.Errorf("nobody is there: %v", err)
		}
	})
}
