package fetchworker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go"
)

// quotes are requests with ids q-0, q-1 and so on.
func quotes(n int) iter.Seq[fetchworker.Request] {
	return func(yield func(fetchworker.Request) bool) {
		for i := range n {
			if !yield(quote(fmt.Sprint("q-", i))) {
				return
			}
		}
	}
}

func identity(id string) fetchworker.Identity {
	return fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: id}
}

func TestAClosedConnectionEndsEveryWaitAtOnce(t *testing.T) {
	s := startService(t)
	for name, wait := range map[string]func(context.Context, *fetchworker.Client) error{
		"Fetch": func(ctx context.Context, c *fetchworker.Client) error {
			_, err := c.Fetch(ctx, quote("f"))
			return err
		},
		"Wait": func(ctx context.Context, c *fetchworker.Client) error {
			_, err := c.Wait(ctx, identity("w"))
			return err
		},
		"Updates": func(ctx context.Context, c *fetchworker.Client) (err error) {
			for _, err = range c.Updates(ctx, identity("u")) {
			}
			return err
		},
		"FetchAll": func(ctx context.Context, c *fetchworker.Client) (err error) {
			for _, err = range c.FetchAll(ctx, quotes(3)) {
			}
			return err
		},
	} {
		for how, end := range map[string]func(*nats.Conn, *fetchworker.Client){
			"the connection": func(nc *nats.Conn, _ *fetchworker.Client) { nc.Close() },
			"the client":     func(_ *nats.Conn, c *fetchworker.Client) { c.Close() },
		} {
			nc := s.Connect(t)
			t.Cleanup(nc.Close)
			c, err := fetchworker.NewClient(nc, "alice")
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- wait(soon(t), c) }()
			time.AfterFunc(100*time.Millisecond, func() { end(nc, c) })
			if err := <-ended; !errors.Is(err, fetchworker.ErrClosed) {
				t.Errorf("%s when %s is closed: %v", name, how, err)
			}
			if err := wait(soon(t), c); !errors.Is(err, fetchworker.ErrClosed) {
				t.Errorf("%s after %s was closed: %v", name, how, err)
			}
		}
	}
}

func TestAFullQueueIsToldAtOnce(t *testing.T) {
	s := startService(t)
	stream, err := s.JS.Stream(t.Context(), fetchworker.StreamRequests)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxMsgs = 2
	if _, err := s.JS.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	alice := s.client("alice")
	for range 2 {
		if _, err := alice.Submit(soon(t), quote("")); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	receipt, err := alice.Submit(soon(t), quote("over"))
	if !errors.Is(err, fetchworker.ErrQueueFull) || receipt.Identity.ID != "over" || time.Since(began) > time.Second {
		t.Errorf("%+v, %v after %v", receipt, err, time.Since(began))
	}
	if _, err := alice.Fetch(soon(t), quote("")); !errors.Is(err, fetchworker.ErrQueueFull) {
		t.Errorf("Fetch: %v", err)
	}
	// Many at a time wait for room.
	config.MaxMsgs = 100
	roomy := make(chan error, 1)
	time.AfterFunc(300*time.Millisecond, func() {
		_, err := s.JS.UpdateStream(t.Context(), config)
		roomy <- err
	})
	n := 0
	for _, err := range alice.SubmitAll(soon(t), quotes(5)) {
		if n++; err != nil {
			t.Error(err)
		}
	}
	if err := <-roomy; err != nil || n != 5 {
		t.Errorf("%d receipts, %v", n, err)
	}
}

func TestARequestInAnothersNameIsRefused(t *testing.T) {
	alice := startService(t).client("alice")
	r := quote("q")
	r.Agent = "bob"
	var wrong *fetchworker.RequestError
	if _, err := alice.Submit(soon(t), r); !errors.As(err, &wrong) || wrong.Field != "agent" {
		t.Errorf("Submit: %v", err)
	}
	if _, err := alice.Fetch(soon(t), r); !errors.As(err, &wrong) {
		t.Errorf("Fetch: %v", err)
	}
	if _, err := alice.Wait(soon(t), r.Identity()); !errors.As(err, &wrong) {
		t.Errorf("Wait: %v", err)
	}
}

func TestIdentitiesAreCheckedAtEveryEntrance(t *testing.T) {
	s := startService(t)
	alice := s.client("alice")
	s.store(ok(identity("q-1"), `[1]`))
	good := identity("q-1")
	for _, bad := range []string{"*", ">", "a.b", "", " ", "q 1", "a\r\nb", "é", strings.Repeat("x", 65)} {
		for name, id := range map[string]fetchworker.Identity{
			"provider":  {Provider: bad, Operation: good.Operation, Agent: good.Agent, ID: good.ID},
			"operation": {Provider: good.Provider, Operation: bad, Agent: good.Agent, ID: good.ID},
			"id":        {Provider: good.Provider, Operation: good.Operation, Agent: good.Agent, ID: bad},
			"agent":     {Provider: good.Provider, Operation: good.Operation, Agent: bad, ID: good.ID},
		} {
			if name == "agent" && bad == "" {
				continue // the client's own
			}
			var wrong *fetchworker.RequestError
			if a, err := alice.Result(soon(t), id); !errors.As(err, &wrong) || wrong.Field != name {
				t.Errorf("Result of %s %q: %+v, %v", name, bad, a, err)
			}
			if a, err := alice.Wait(soon(t), id); !errors.As(err, &wrong) {
				t.Errorf("Wait for %s %q: %+v, %v", name, bad, a, err)
			}
			for a, err := range alice.Updates(soon(t), id) {
				if !errors.As(err, &wrong) {
					t.Errorf("Updates of %s %q: %+v, %v", name, bad, a, err)
				}
			}
		}
	}
}

func TestWhenTheTimeIsOverTheErrorSaysWhy(t *testing.T) {
	s := startService(t)
	alice := s.client("alice")
	s.onRequest(func(r fetchworker.Request) { s.store(waiting(r.Identity())) })
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := alice.Fetch(ctx, quote("q-1"))
	var pending *fetchworker.PendingError
	if !errors.As(err, &pending) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	if pending.Identity != identity("q-1") || pending.Last == nil || pending.Last.Problem.Reason() != fetchworker.ReasonCircuitOpen {
		t.Errorf("%+v", pending)
	}
	var why *fetchworker.Problem
	if !errors.As(err, &why) || why.Reason() != fetchworker.ReasonCircuitOpen || !strings.Contains(err.Error(), "circuit_open") {
		t.Errorf("%v", err)
	}
}

func TestUpdatesShowEveryStep(t *testing.T) {
	s := startService(t)
	alice := s.client("alice")
	id := identity("q-1")
	s.store(waiting(id))
	var seen []string
	for a, err := range alice.Updates(soon(t), id) {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, fmt.Sprint(a.Status, " ", a.Final))
		switch len(seen) {
		case 1:
			stale := ok(id, `[1]`)
			stale.Status, stale.Final, stale.Reason = fetchworker.StatusStale, false, fetchworker.ReasonCircuitOpen
			s.store(stale)
		case 2:
			if a.Reason != fetchworker.ReasonCircuitOpen {
				t.Errorf("reason %q", a.Reason)
			}
			s.store(ok(id, `[2]`))
		}
	}
	if want := []string{"waiting false", "stale false", "ok true"}; !slices.Equal(seen, want) {
		t.Errorf("seen %v", seen)
	}
}

func TestAUsedIdForSomethingElseIsAnError(t *testing.T) {
	s := startService(t)
	alice := s.client("alice")
	answer := ok(identity("q-1"), `[1]`)
	answer.Digest = fetchworker.RequestDigest("quote", fetchworker.Params(map[string]any{"symbol": "AAPL"}))
	s.store(answer)
	if a, err := alice.Fetch(soon(t), quote("q-1")); err != nil || string(a.Body) != `[1]` {
		t.Errorf("the same again: %+v, %v", a, err)
	}
	other := quote("q-1")
	other.Params = fetchworker.Params(map[string]any{"symbol": "MSFT"})
	if a, err := alice.Fetch(soon(t), other); !errors.Is(err, fetchworker.ErrIDReused) || len(a.Body) != 0 {
		t.Errorf("other parameters: %+v, %v", a, err)
	}
	for a, err := range alice.FetchAll(soon(t), slices.Values([]fetchworker.Request{other})) {
		if !errors.Is(err, fetchworker.ErrIDReused) || a.Identity.ID != "q-1" {
			t.Errorf("FetchAll: %+v, %v", a, err)
		}
	}
}

func TestTheDigestKnowsTheSameRequest(t *testing.T) {
	same := []string{
		`{"symbol":"AAPL","limit":2,"ok":true}`, `{ "limit" : "2", "ok":"true", "symbol" : "AAPL" }`,
		`{"symbol":"\u0041APL","limit":2,"ok":true,"from":null}`,
	}
	for _, params := range same {
		if got, want := fetchworker.RequestDigest("quote", json.RawMessage(params)), fetchworker.RequestDigest("quote", json.RawMessage(same[0])); got != want || len(got) != 16 {
			t.Errorf("%s: %s, want %s", params, got, want)
		}
	}
	seen := map[string]string{}
	for _, params := range []string{"", `{"a":"b"}`, `{"a":"B"}`, `{"a":"b","c":"<"}`, `{"a":["b"]}`, `{"a":{"b":"c"}}`, `{"a":1.0}`, `{"a":1}`} {
		digest := fetchworker.RequestDigest("quote", json.RawMessage(params))
		if other, ok := seen[digest]; ok {
			t.Errorf("%s and %s are one", params, other)
		}
		seen[digest] = params
	}
	if fetchworker.RequestDigest("quote", nil) != fetchworker.RequestDigest("quote", json.RawMessage("{}")) {
		t.Error("no parameters are not none")
	}
	if fetchworker.RequestDigest("quote", nil) == fetchworker.RequestDigest("profile", nil) {
		t.Error("two operations are one")
	}
}

func TestAnAbsurdClaimIsCorrupt(t *testing.T) {
	for name, claim := range map[string]fetchworker.Claim{
		"very many parts":  {Parts: 1 << 43, Bytes: 1},
		"parts overflow":   {Parts: 1 << 45, Bytes: 1 << 62},
		"all it can hold":  {Parts: 4096, Bytes: 4096 * fetchworker.MaxInlineBody}, // nothing is there, and no room made
		"no parts":         {Parts: 0, Bytes: 0},
		"negative parts":   {Parts: -1, Bytes: 1},
		"a wildcard":       {Prefix: "fetch.body.alice.*.*", Parts: 1, Bytes: 1},
		"another agent's":  {Prefix: "fetch.body.bob.q-1.x", Parts: 1, Bytes: 1},
		"no body's prefix": {Prefix: "fetch.result.fmp.quote.alice", Parts: 1, Bytes: 1},
		"an empty token":   {Prefix: "fetch.body.alice..x", Parts: 1, Bytes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startService(t)
			id := identity("q-1")
			if claim.Prefix == "" {
				claim.Prefix = "fetch.body.alice.q-1.x"
			}
			claim.SHA256 = strings.Repeat("0", 64)
			a := ok(id, "")
			a.Body, a.Claim = nil, &claim
			s.store(a)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := s.client("alice").Result(soon(t), id)
			if !errors.Is(err, fetchworker.ErrBodyCorrupt) {
				t.Errorf("%v", err)
			}
			if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 512<<20 {
				t.Errorf("%d MiB were taken", (after.TotalAlloc-before.TotalAlloc)>>20)
			}
		})
	}
}

func TestAHiccupDoesNotLoseALargeBody(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startService(t)
	alice := s.client("alice")
	body := bytes.Repeat([]byte("0123456789abcdef"), 2*fetchworker.MaxInlineBody/16)
	stream, err := s.JS.Stream(t.Context(), fetchworker.StreamBodies)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	id := identity("q-1")
	s.storeLarge(id, body, nil)
	// Nobody answers direct gets of bodies for a while, as in an election.
	off := config
	off.AllowDirect = false
	if _, err := s.JS.UpdateStream(t.Context(), off); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	time.AfterFunc(time.Second, func() {
		_, err := s.JS.UpdateStream(t.Context(), config)
		answered <- err
	})
	a, err := alice.Fetch(soon(t), quote("q-1"))
	if err != nil || !bytes.Equal(a.Body, body) {
		t.Errorf("%d bytes, %v", len(a.Body), err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

func TestABodyThatIsNotWhatItsSumSaysIsCorrupt(t *testing.T) {
	s := startService(t)
	m := ok(identity("q-1"), `[1]`).Encode()
	m.Data = []byte(`[2]`)
	m.Header.Set("Fetch-Generation", "1")
	if _, err := s.JS.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client("alice").Result(soon(t), identity("q-1")); !errors.Is(err, fetchworker.ErrBodyCorrupt) {
		t.Errorf("%v", err)
	}
	// A subscriber is told of it, and handed no wrong bytes.
	for _, a := range collect(t, s.subscriber("careful"), fetchworker.ResultFilter{}, 1, well) {
		if !a.Damaged || a.Body != nil {
			t.Errorf("handed as if it were whole: %+v", a)
		}
	}
}

func TestTwentyThousandOutstandingCostOneSubscription(t *testing.T) {
	s := startService(t)
	nc := s.Connect(t)
	defer nc.Close()
	const n = 20_000
	if testing.Short() {
		t.Skip("publishes 20,000 requests")
	}
	c, err := fetchworker.NewClient(nc, "alice")
	if err != nil {
		t.Fatal(err)
	}
	subscriptions := nc.NumSubscriptions()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	answered := make(chan map[string]bool, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	go func() {
		seen := map[string]bool{}
		for a, err := range c.FetchAll(ctx, quotes(n)) {
			if err != nil {
				t.Error(err)
				break
			}
			seen[a.Identity.ID] = true
		}
		answered <- seen
	}()
	stream, err := s.JS.Stream(ctx, fetchworker.StreamRequests)
	if err != nil {
		t.Fatal(err)
	}
	for {
		info, err := stream.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Msgs == n {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := after.HeapAlloc - before.HeapAlloc; after.HeapAlloc > before.HeapAlloc && used > 100<<20 {
		t.Errorf("%d MB of heap, the server's included", used>>20)
	} else {
		t.Logf("%d MB of heap, the server's included", used>>20)
	}
	if more := nc.NumSubscriptions() - subscriptions; more > 2 { // and the one for replies, which a connection has anyway
		t.Errorf("%d subscriptions", more)
	}
	looks := nc.Stats().OutMsgs
	time.Sleep(time.Second)
	if each := nc.Stats().OutMsgs - looks; each > 1000 {
		t.Errorf("%d reads a second", each)
	} else {
		t.Logf("%d reads a second", each)
	}
	s.onRequest(func(r fetchworker.Request) { s.store(ok(r.Identity(), `[1]`)) })
	if got := <-answered; len(got) != n {
		t.Errorf("%d answers", len(got))
	}
}

func TestAnAnswerThatNobodySawLiveIsFoundSoon(t *testing.T) {
	s := startService(t)
	nc := s.Connect(t)
	defer nc.Close()
	alice, err := fetchworker.NewClient(nc, "alice")
	if err != nil {
		t.Fatal(err)
	}
	// As on a cluster: the answer is republished where the subscription is not
	// known yet. Here it is never republished.
	stream, err := s.JS.Stream(t.Context(), fetchworker.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.RePublish = nil
	if _, err := s.JS.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	s.onRequest(func(r fetchworker.Request) { s.store(ok(r.Identity(), `[1]`)) })
	var took []time.Duration
	for range 5 {
		began := time.Now()
		if _, err := alice.Fetch(soon(t), quote("")); err != nil {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		took = append(took, time.Since(began))
	}
	// The one in the middle: the machine may be at something else for a while.
	if slices.Sort(took); took[2] > 500*time.Millisecond {
		t.Errorf("they took %v", took)
	}
}

func TestAThousandAnswersThroughARestartOfTheServer(t *testing.T) {
	t.Parallel() // it mostly waits
	b := brokertest.StartIn(t, t.TempDir(), fmt.Sprint("127.0.0.1:", brokertest.FreePort(t)))
	defer func() { b.Stop() }()
	s := &service{Broker: b, t: t}
	alice, err := fetchworker.Connect(b.Server.URL(), "alice", nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const n = 1000
	var once sync.Once
	receipts := 0
	for _, err := range alice.SubmitAll(ctx, quotes(n)) {
		if receipts++; err != nil {
			t.Fatal(err)
		}
	}
	if receipts != n {
		t.Fatalf("%d receipts", receipts)
	}
	seen := map[string]bool{}
	answer := func() {
		for i := range n {
			s.store(ok(identity(fmt.Sprint("q-", i)), `[1]`))
		}
	}
	for a, err := range alice.FetchAll(ctx, func(yield func(fetchworker.Request) bool) {
		for r := range quotes(n) {
			if !yield(r) {
				return
			}
		}
		once.Do(func() { // all are asked, or about to be
			b.Stop()
			b.Restart(t)
			s.NC, s.JS = b.NC, b.JS
			answer() // before the client is back: nothing is seen live
		})
	}) {
		if err != nil {
			t.Fatal(err)
		}
		if seen[a.Identity.ID] {
			t.Errorf("%s twice", a.Identity.ID)
		}
		seen[a.Identity.ID] = true
	}
	if len(seen) != n {
		t.Errorf("%d answers", len(seen))
	}
}

func TestEveryRequestOfABulkIsToldOf(t *testing.T) {
	s := startService(t)
	alice := s.client("alice")
	s.onRequest(func(r fetchworker.Request) {
		if r.ID == "q-1" {
			s.store(ok(r.Identity(), `[1]`))
		}
	})
	bad := quote("bad")
	bad.Provider = "F MP"
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	got := map[string]string{}
	for a, err := range alice.FetchAll(ctx, slices.Values([]fetchworker.Request{quote("q-1"), quote("q-2"), bad})) {
		var wrong *fetchworker.RequestError
		var pending *fetchworker.PendingError
		switch {
		case errors.As(err, &wrong):
			got[a.Identity.ID] = "wrong"
		case errors.As(err, &pending) && pending.Identity == a.Identity:
			got[a.Identity.ID] = "pending"
		case err == nil:
			got[a.Identity.ID] = string(a.Body)
		}
	}
	if len(got) != 3 || got["q-1"] != "[1]" || got["q-2"] != "pending" || got["bad"] != "wrong" {
		t.Errorf("%v", got)
	}
}

func TestALoopThatIsLeftReadsNoFurther(t *testing.T) {
	s := startService(t)
	alice := s.client("alice")
	s.onRequest(func(r fetchworker.Request) { s.store(ok(r.Identity(), `[1]`)) })
	read := 0
	endless := func(yield func(fetchworker.Request) bool) {
		for {
			if read++; !yield(quote("")) {
				return
			}
		}
	}
	for _, err := range alice.FetchAll(soon(t), endless) {
		if err != nil {
			t.Error(err)
		}
		break
	}
	for _, err := range alice.SubmitAll(soon(t), endless) {
		if err != nil {
			t.Error(err)
		}
		break
	}
	if read > 1000 {
		t.Errorf("%d requests were read", read)
	}
}

func TestDecodeReadsAnAnswerOrItsProblem(t *testing.T) {
	var quotes []struct {
		Price float64 `json:"price"`
	}
	if err := ok(identity("q"), `[{"price":1.5}]`).Decode(&quotes); err != nil || len(quotes) != 1 || quotes[0].Price != 1.5 {
		t.Errorf("%v, %v", quotes, err)
	}
	if err := ok(identity("q"), `<html>`).Decode(&quotes); err == nil {
		t.Error("a page was decoded")
	}
	for _, a := range []fetchworker.Answer{failed(identity("q")), waiting(identity("q"))} {
		var p *fetchworker.Problem
		if err := a.Decode(&quotes); !errors.As(err, &p) {
			t.Errorf("%s: %v", a.Status, err)
		}
	}
}

func TestParamsAreAnObjectOrRefused(t *testing.T) {
	alice := startService(t).client("alice")
	for name, v := range map[string]any{"a list": []int{1}, "a text": "AAPL", "a function": func() {}, "a number": 1} {
		r := quote("")
		r.Params = fetchworker.Params(v)
		var wrong *fetchworker.RequestError
		if _, err := alice.Submit(soon(t), r); !errors.As(err, &wrong) || wrong.Field != "params" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, v := range map[string]any{"a map": map[string]any{"symbol": "AAPL"}, "a struct": struct {
		Symbol string `json:"symbol"`
	}{"AAPL"}, "nothing": nil} {
		r := quote("")
		r.Params = fetchworker.Params(v)
		if _, err := alice.Submit(soon(t), r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
