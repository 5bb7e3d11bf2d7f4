package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/providers/providertest"
)

// TestOneProvidersBacklogLeavesRoomForOthers has twenty agents fill the queue
// with what waits for one slow provider: the newest beyond half of it are
// answered, and another provider's requests get in and are answered as before.
func TestOneProvidersBacklogLeavesRoomForOthers(t *testing.T) {
	begin(t)
	a := alone(t)
	a.env["POLYGON_API_KEY"], a.env["POLYGON_BASE_URL"], a.env["POLYGON_REQUESTS_PER_MINUTE"] = aKey, a.upstream.URL(), "0"
	a.env["FMP_TIMEOUT_SECONDS"] = "60"
	var quick atomic.Bool
	a.upstream.Fallback = func(q *http.Request) *providertest.Step {
		if strings.HasPrefix(q.URL.Path, "/v2/") {
			step := providertest.JSON(http.StatusOK, `{"status":"OK","results":[{"c":1}],"resultsCount":1}`)
			return &step
		}
		step := providertest.JSON(http.StatusOK, aQuote)
		if !quick.Load() {
			step.Latency = 6 * time.Second
		}
		return &step
	}
	a.start()
	const room = 2 << 20
	a.limit(fetchworker.StreamRequests, room)
	padding := strings.Repeat(" ", 8<<10)
	full := 0
	var taken []fetchworker.Identity
	fill := func(n int) {
		for range n {
			i := len(taken) + full
			id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: fmt.Sprint("m", i%20), ID: fmt.Sprint("q-", i)}
			if _, err := a.js.Publish(t.Context(), "fetch.request.fmp.interactive.quote."+id.Agent, fmt.Appendf(nil, `{"id":%q,"params":{"symbol":"S%d"}}%s`, id.ID, i, padding)); err != nil {
				full++
				continue
			}
			taken = append(taken, id)
		}
	}
	asked, refused, slowest := 0, 0, time.Duration(0)
	other := func() {
		asked++
		id := fetchworker.Identity{Provider: "polygon", Operation: "previous_close", Agent: "bob", ID: fmt.Sprint("o-", asked)}
		began := time.Now()
		// A burst may take what is left before the next look at the queue.
		until(t, 30*time.Second, "another provider's request gets in", func() bool {
			_, err := a.js.Publish(t.Context(), "fetch.request.polygon.interactive.previous_close.bob", fmt.Appendf(nil, `{"id":%q,"max_age":"0s","params":{"symbol":"AAPL"}}`, id.ID))
			if err != nil {
				refused++
			}
			return err == nil
		})
		if got := a.final(id); got.Status != fetchworker.StatusOK {
			t.Errorf("another provider's: %s", dlqtest.Describe(got))
		}
		slowest = max(slowest, time.Since(began))
	}
	for range pick(50, 300) {
		fill(6)
		other()
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("%d taken for the slow one and %d refused; of %d for the other %d refused at first, the slowest took %v; the queue holds %d of %d bytes",
		len(taken), full, asked, refused, slowest, a.state(fetchworker.StreamRequests), room)
	until(t, 30*time.Second, "the backlog is half of the queue", func() bool { return a.state(fetchworker.StreamRequests) <= room*6/10 })

	quick.Store(true)
	// The oldest are answered well, the newest were told that the queue is full.
	seen := map[fetchworker.Status]int{}
	for _, id := range taken {
		got := a.final(id)
		if seen[got.Status]++; got.Status != fetchworker.StatusOK && (got.Problem == nil || got.Problem.Code() != fetchworker.CodeBacklogFull) {
			t.Fatalf("%s: %s", id, dlqtest.Describe(got))
		}
	}
	if seen[fetchworker.StatusOK] == 0 || seen[fetchworker.StatusFailed] == 0 {
		t.Errorf("%v", seen)
	}
}
