package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// TestEachFullStoreIsNamedOverHTTP takes the room of one store after the other
// under work that needs it: /readyz names it within five seconds, nobody is
// called in vain, another provider's answers go on where their own store has
// room; and with room again everything is answered, nothing twice.
func TestEachFullStoreIsNamedOverHTTP(t *testing.T) {
	begin(t)
	a := alone(t)
	a.env["POLYGON_API_KEY"], a.env["POLYGON_BASE_URL"], a.env["POLYGON_REQUESTS_PER_MINUTE"] = aKey, a.upstream.URL(), "0"
	a.env["FMP_TIMEOUT_SECONDS"], a.env["FETCH_CIRCUIT_FAILURES"], a.env["FETCH_RETRY_BASE_SECONDS"] = "30", "0", "0.2"
	const slow = 8 * time.Second
	filler := string(bytes.Repeat([]byte("x"), 1<<20))
	var mu sync.Mutex
	failed := map[string]bool{}
	a.upstream.Fallback = func(q *http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, aQuote)
		switch symbol := path.Base(q.URL.Path); {
		case strings.HasPrefix(q.URL.Path, "/v2/"):
			step = providertest.JSON(http.StatusOK, `{"status":"OK","results":[{"c":1}],"resultsCount":1}`)
		case symbol[0] == 'L':
			step = providertest.JSON(http.StatusOK, fmt.Sprintf(`[{"symbol":%q,"price":1,"filler":%q}]`, symbol, filler))
		case symbol[0] == 'B':
			step = providertest.JSON(http.StatusBadRequest, `{"Error Message":"bad"}`)
		case symbol[0] == 'R', symbol[0] == 'T':
			mu.Lock()
			if first := !failed[symbol]; first {
				failed[symbol] = true
				step = providertest.JSON(http.StatusInternalServerError, "boom")
			} else if symbol[0] == 'R' {
				step.Latency = slow
			}
			mu.Unlock()
		}
		return &step
	}
	a.start()
	var ids []fetchworker.Identity
	quotes := func(kind string, n int) {
		for range n {
			symbol := fmt.Sprint(kind, len(ids))
			a.publish("alice", fmt.Sprintf(`{"id":%q,"params":{"symbol":%q}}`, symbol, symbol))
			ids = append(ids, fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: symbol})
		}
	}
	other := func() {
		id := fetchworker.Identity{Provider: "polygon", Operation: "previous_close", Agent: "bob", ID: fmt.Sprint("o-", time.Now().UnixNano())}
		began := time.Now()
		if _, err := a.js.Publish(t.Context(), "fetch.request.polygon.interactive.previous_close.bob", fmt.Appendf(nil, `{"id":%q,"max_age":"0s","params":{"symbol":"AAPL"}}`, id.ID)); err != nil {
			t.Fatal(err)
		}
		if got := a.final(id); got.Status != fetchworker.StatusOK || time.Since(began) > 2*time.Second {
			t.Errorf("another provider's answer after %v: %s", time.Since(began), dlqtest.Describe(got))
		}
	}
	fmpCalls := func() (n int) {
		for _, c := range a.upstream.Calls() {
			if strings.HasPrefix(c.Target, "/api/") {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		stream, kind string
		holds        bool // what is asked meanwhile is not called for
		others       bool // go on
		fills        bool // the stream must hold something, or nobody knows that it is full
		short        bool
	}{
		{stream: fetchworker.StreamResults, kind: "S", holds: true, fills: true, short: true},
		{stream: fetchworker.StreamBodies, kind: "L", holds: true, others: true, short: true},
		// The answer is stored and the letter waits: these calls are not in vain.
		{stream: wire.StreamReview, kind: "B", others: true, short: true},
		{stream: wire.StreamReplay, kind: "R", others: true, fills: true},
		{stream: wire.StreamDLQ, kind: "T", holds: true, others: true},
	} {
		if !full && !c.short {
			continue
		}
		quotes("S", 5)
		quotes(c.kind, 5)
		if c.fills {
			until(t, 5*time.Second, c.stream+" holds something", func() bool { return a.state(c.stream) > 0 })
		} else {
			a.answered(ids)
		}
		a.limit(c.stream, 0)
		began := time.Now()
		quotes(c.kind, 3)
		until(t, 5*time.Second-time.Since(began), "/readyz names "+c.stream, func() bool {
			status, text := a.readyz()
			return status == http.StatusServiceUnavailable && strings.Contains(text, c.stream)
		})
		t.Logf("%s is named after %v", c.stream, time.Since(began))
		if c.holds {
			time.Sleep(300 * time.Millisecond) // calls that were under way
			before := fmpCalls()
			quotes(c.kind, 5)
			time.Sleep(2 * time.Second)
			if n := fmpCalls() - before; n > 0 {
				t.Errorf("%s is full, and %d calls were made", c.stream, n)
			}
		}
		if c.others {
			other()
		}
		a.limit(c.stream, 1<<30)
		room := time.Now()
		a.answered(ids)
		until(t, 10*time.Second, "the worker is ready again", func() bool {
			status, _ := a.readyz()
			return status == http.StatusOK
		})
		t.Logf("%s has room: ready after %v", c.stream, time.Since(room))
	}
	if full {
		a.noMoreRequests(func() fetchworker.Identity {
			quotes("R", 1) // it is in there while its call goes on
			return ids[len(ids)-1]
		})
		a.answered(ids)
	}
	seen := map[string]int{}
	for _, call := range a.upstream.Calls() {
		symbol := path.Base(strings.SplitN(call.Target, "?", 2)[0])
		twice := symbol[0] == 'R' || symbol[0] == 'T' // the first time in vain
		if seen[symbol]++; strings.HasPrefix(call.Target, "/api/") && (seen[symbol] == 2 && !twice || seen[symbol] == 3) {
			t.Errorf("%s was called again", symbol)
		}
	}
	kv, err := a.js.KeyValue(t.Context(), wire.BucketProviders)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := kv.ListKeysFiltered(t.Context(), "suspect.>")
	if err != nil {
		t.Fatal(err)
	}
	for key := range keys.Keys() {
		t.Errorf("a suspect: %s", key)
	}
}

// noMoreRequests takes the room of the requests: publishes are refused, which is
// named, what is in there is answered all the same, and with room again others
// get in.
func (a *lone) noMoreRequests(ask func() fetchworker.Identity) {
	t := a.t
	t.Helper()
	inside := ask()
	a.limit(fetchworker.StreamRequests, 0)
	began := time.Now()
	refused := []byte(`{"id":"refused","params":{"symbol":"S"}}`)
	if _, err := a.js.Publish(t.Context(), "fetch.request.fmp.interactive.quote.alice", refused); err == nil {
		t.Error("a request was taken in without room")
	}
	until(t, 5*time.Second-time.Since(began), "/readyz names "+fetchworker.StreamRequests, func() bool {
		status, text := a.readyz()
		return status == http.StatusServiceUnavailable && strings.Contains(text, fetchworker.StreamRequests)
	})
	t.Logf("%s is named after %v", fetchworker.StreamRequests, time.Since(began))
	if got := a.final(inside); got.Status != fetchworker.StatusOK {
		t.Errorf("%s: %s", inside, dlqtest.Describe(got))
	}
	a.limit(fetchworker.StreamRequests, 1<<30)
	ask()
	until(t, 10*time.Second, "the worker is ready again", func() bool {
		status, _ := a.readyz()
		return status == http.StatusOK
	})
}

// answered waits until all have a final answer.
func (a *lone) answered(ids []fetchworker.Identity) {
	a.t.Helper()
	for _, id := range ids {
		want := fetchworker.StatusOK
		if id.ID[0] == 'B' {
			want = fetchworker.StatusFailed
		}
		if got := a.final(id); got.Status != want {
			a.t.Errorf("%s: %s", id, dlqtest.Describe(got))
		}
	}
}

func (a *lone) readyz() (status int, text string) {
	res, err := http.Get(a.http + "/readyz") //nolint:forbidigo // loopback, in a test with a time limit
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// state is how many bytes a stream holds.
func (a *lone) state(stream string) uint64 {
	a.t.Helper()
	s, err := a.js.Stream(a.t.Context(), stream)
	if err != nil {
		a.t.Fatal(err)
	}
	return s.CachedInfo().State.Bytes
}

// limit sets the bytes that a stream may hold; 0: what it holds.
func (a *lone) limit(stream string, most int64) {
	a.t.Helper()
	s, err := a.js.Stream(a.t.Context(), stream)
	if err != nil {
		a.t.Fatal(err)
	}
	config := s.CachedInfo().Config
	if config.MaxBytes = most; most == 0 {
		config.MaxBytes = max(int64(s.CachedInfo().State.Bytes), 1)
	}
	if _, err := a.js.UpdateStream(a.t.Context(), config); err != nil {
		a.t.Fatal(err)
	}
}
