package fetch_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/observe"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/zap"
)

// scrape reads a registry as Prometheus does: every sample by its line's head.
func scrape(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	samples := map[string]float64{}
	for line := range strings.Lines(rec.Body.String()) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		head, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if value == "" {
			head, value, _ = strings.Cut(strings.TrimSpace(line), " ")
		} else {
			head += "}"
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		samples[head] = n
	}
	return samples
}

// TestTheContractsMetricsAfterAHundredRequests runs one worker through every
// kind of answer and reads what a scrape says of it.
func TestTheContractsMetricsAfterAHundredRequests(t *testing.T) {
	const (
		ok, broken, throttled, unpaid, stale, bad = 60, 5, 1, 10, 14, 10
		limit                                     = 1 << 30
	)
	body := `[{"symbol":"X","price":1}]`
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_REQUESTS_PER_MINUTE"] = "6000"
		r.env["FMP_BANDWIDTH_LIMIT_GB"] = "1"
		r.circuit = 0 // five errors in a row are wanted here
		r.upstream.Fallback = respond(200, body)
		defer r.start(nil)()
		fleet := r.observe()
		defer fleet.close()

		n := 0
		ask := func(more string) fetchworker.Identity {
			n++
			return r.quote("alice", fmt.Sprintf("q-%d", n), fmt.Sprintf("S%d", n), more)
		}
		for range ok {
			r.final(ask(""), time.Minute)
		}
		for range stale { // what was had before, when the provider fails
			time.Sleep(time.Minute)
			r.upstream.Script(providertest.JSON(503, "{}"))
			n++
			id := r.quote("alice", fmt.Sprintf("q-%d", n), "S1", `,"max_age":"1s","max_stale":"24h"`)
			if a := r.final(id, time.Minute); a.Status != fetchworker.StatusStale {
				t.Fatalf("%+v", a)
			}
		}
		for range unpaid {
			r.upstream.Script(providertest.JSON(402, `{"Error Message":"Special Endpoint"}`))
			r.final(ask(""), time.Minute)
		}
		for range bad {
			n++
			r.final(r.quote("alice", fmt.Sprintf("q-%d", n), "", ""), time.Minute)
		}
		for i := range broken {
			r.upstream.Script(providertest.JSON(500, "{}"))
			ask("")
			r.drained(wire.StreamDLQ, i+1, time.Minute)
		}
		r.upstream.Script(providertest.JSON(429, "{}"))
		ask("")
		r.drained(wire.StreamDLQ, broken+1, time.Minute)
		if n != 100 {
			t.Fatalf("%d requests", n)
		}
		time.Sleep(30 * time.Second) // bytes are flushed, queues asked anew

		got := scrape(t, r.registry)
		called := ok + stale + unpaid + broken + throttled
		used := float64(ok*len(body) + 2*(stale+broken+throttled) + unpaid*len(`{"Error Message":"Special Endpoint"}`))
		for head, want := range map[string]float64{
			`provider_requests_total{endpoint="quote",provider="fmp",status="200"}`:                           ok,
			`provider_requests_total{endpoint="quote",provider="fmp",status="503"}`:                           stale,
			`provider_requests_total{endpoint="quote",provider="fmp",status="500"}`:                           broken,
			`provider_requests_total{endpoint="quote",provider="fmp",status="402"}`:                           unpaid,
			`provider_requests_total{endpoint="quote",provider="fmp",status="429"}`:                           throttled,
			`provider_latency_seconds_count{endpoint="quote",provider="fmp"}`:                                 float64(called),
			`provider_errors_total{endpoint="quote",error_type="transient",provider="fmp"}`:                   stale + broken,
			`provider_errors_total{endpoint="quote",error_type="permanent",provider="fmp"}`:                   unpaid,
			`provider_errors_total{endpoint="quote",error_type="throttled",provider="fmp"}`:                   throttled,
			`circuit_breaker_state{provider="fmp"}`:                                                           0,
			`dlq_size{provider="fmp"}`:                                                                        broken + throttled,
			`rate_limit_429_total{provider="fmp"}`:                                                            throttled,
			`rate_limit_hits_total{provider="fmp"}`:                                                           0,
			`bandwidth_used_bytes{provider="fmp"}`:                                                            used,
			`bandwidth_remaining_pct{provider="fmp"}`:                                                         100 * (1 - used/limit),
			`fetch_answers_total{endpoint="quote",final="true",provider="fmp",source="origin",status="ok"}`:   ok,
			`fetch_answers_total{endpoint="quote",final="true",provider="fmp",source="cache",status="stale"}`: stale,
			`fetch_dead_letters_total{class="transient",provider="fmp"}`:                                      broken,
			`fetch_queue_depth{lane="interactive",provider="fmp"}`:                                            0,
			`fetch_provider_workers{provider="fmp"}`:                                                          1,
		} {
			if value, there := got[head]; !there || value != want {
				t.Errorf("%s is %v (there: %v), want %v", head, value, there, want)
			}
		}
		if t.Failed() {
			for _, head := range slices.Sorted(maps.Keys(got)) {
				t.Logf("%s %v", head, got[head])
			}
		}
		lint(t, r.registry)
	})
}

// lint holds the names to Prometheus' own rules, but for those that the
// contract fixes.
func lint(t *testing.T, registry *prometheus.Registry) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestAProviderThatIsDownShowsFromEveryWorker(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = respond(500, "{}")
		defer r.start(nil)()
		first := r.registry
		fleet := r.observe()
		defer fleet.close()
		defer r.start(nil)()
		other := r.observe()
		defer other.close()
		for i := range 3 {
			r.quote("alice", fmt.Sprintf("q-%d", i), fmt.Sprintf("S%d", i), "")
			r.ask("fetch.request.fmp.interactive.profile.bob", fmt.Sprintf("p-%d", i), fmt.Sprintf(`{"id":"p-%d","params":{"symbol":"S%d"}}`, i, i))
		}
		r.drained(wire.StreamDLQ, 6, time.Minute)
		time.Sleep(10 * time.Second)
		for name, registry := range map[string]*prometheus.Registry{"first": first, "second": r.registry} {
			got := scrape(t, registry)
			if got[`circuit_breaker_state{provider="fmp"}`] != 2 || got[`circuit_open_operations{provider="fmp"}`] != 2 || got[`dlq_size{provider="fmp"}`] != 6 {
				t.Errorf("%s: circuit %v, of operations %v, dlq %v", name, got[`circuit_breaker_state{provider="fmp"}`],
					got[`circuit_open_operations{provider="fmp"}`], got[`dlq_size{provider="fmp"}`])
			}
			if age := got[`fetch_dlq_oldest_seconds{provider="fmp"}`]; age < 10 || age > 60 {
				t.Errorf("%s: oldest letter %v s", name, age)
			}
		}
	})
}

// TestAScrapeIsCheapWithAHundredThousandLetters is about the server's cost: a
// list of subjects would be megabytes each time.
func TestAScrapeIsCheapWithAHundredThousandLetters(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 100,000 letters")
	}
	b := brokertest.Start(t)
	const letters = 100_000
	for i := range letters {
		m := &nats.Msg{
			Subject: fmt.Sprintf("fetch.dlq.fmp.batch.quote.alice.q-%d", i),
			Data:    bytes.Repeat([]byte("x"), 200),
		}
		if i == 0 {
			m.Header = nats.Header{"Fetch-Generation": {"1"}}
		}
		if _, err := b.JS.PublishMsgAsync(m, jetstream.WithStallWait(10*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	<-b.JS.PublishAsyncComplete()
	board, err := fleet.Watch(t.Context(), b.JS, b.KV)
	if err != nil {
		t.Fatal(err)
	}
	defer board.Close()
	if err := budget.CreateRegister(t.Context(), b.KV, "fmp"); err != nil {
		t.Fatal(err)
	}
	for len(board.Providers()) == 0 {
		<-board.Changed()
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(observe.New(b.JS, board, nil, zap.NewNop()))
	before := b.NC.Stats().InBytes
	started := time.Now()
	got := scrape(t, registry)
	took := time.Since(started)
	if got[`dlq_size{provider="fmp"}`] != letters {
		t.Errorf("dlq_size %v", got[`dlq_size{provider="fmp"}`])
	}
	t.Logf("a scrape took %v and %d bytes", took, b.NC.Stats().InBytes-before)
	if read := b.NC.Stats().InBytes - before; read > 64<<10 {
		t.Errorf("a scrape read %d bytes", read)
	}
	if took > time.Second {
		t.Errorf("a scrape took %v", took)
	}
}

// A scrape asks only for queues that may hold something: of two hundred
// providers with two in use, a few requests, and what it tells is the same.
func TestAScrapeAsksForWhatHoldsSomething(t *testing.T) {
	b := brokertest.Start(t)
	w := fleet.Worker{Name: "w1"}
	for i := range 200 {
		w.Providers = append(w.Providers, fmt.Sprint("p", i))
	}
	if err := fleet.Beat(t.Context(), b.JS, w); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"fetch.request.p7.batch.quote.alice", "fetch.request.p7.batch.quote.bob", "fetch.dlq.p9.batch.quote.alice.q"} {
		if _, err := b.JS.Publish(t.Context(), subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	board, err := fleet.Watch(t.Context(), b.JS, b.KV)
	if err != nil {
		t.Fatal(err)
	}
	defer board.Close()
	asked, err := b.NC.SubscribeSync("$JS.API.>")
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(observe.New(b.JS, board, nil, zap.NewNop()))
	got := scrape(t, registry)
	for head, want := range map[string]float64{
		`fetch_queue_depth{lane="batch",provider="p7"}`: 2, `fetch_queue_depth{lane="batch",provider="p8"}`: 0,
		`fetch_queue_depth{lane="replay",provider="p7"}`: 0, `dlq_size{provider="p9"}`: 1, `dlq_size{provider="p7"}`: 0,
	} {
		if value, told := got[head]; !told || value != want {
			t.Errorf("%s is %v (told: %v), want %v", head, value, told, want)
		}
	}
	if n, _, _ := asked.Pending(); n == 0 || n > 40 {
		t.Errorf("%d requests for a scrape", n)
	}
}

// watched is a collector with the board that it reads.
type watched struct{ board *fleet.View }

func (w watched) close() { w.board.Close() }

// observe adds the fleet's view to the registry of the worker started last.
func (r *rig) observe() watched {
	r.t.Helper()
	board, err := fleet.Watch(context.Background(), r.b.JS, r.b.KV)
	if err != nil {
		r.t.Fatal(err)
	}
	var served []observe.Served
	for _, s := range r.serving {
		served = append(served, observe.Served{Provider: s.Provider.Name, Gate: s.Gate})
	}
	r.registry.MustRegister(observe.New(r.b.JS, board, served, zap.NewNop()))
	synctest.Wait()
	return watched{board}
}

func TestARequestThatMeetsTheLimitIsCounted(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.env["FMP_REQUESTS_PER_MINUTE"] = "1"
		defer r.start(nil)()
		fleet := r.observe()
		defer fleet.close()
		r.final(r.quote("alice", "q-1", "AAPL", ""), time.Minute)
		second := r.quote("alice", "q-2", "MSFT", "")
		time.Sleep(10 * time.Second)
		got := scrape(t, r.registry)
		for head, want := range map[string]float64{
			`fetch_permits_used{provider="fmp",window="min"}`:                         1,
			`fetch_permits_limit{provider="fmp",window="min"}`:                        1,
			`fetch_permit_waiters{provider="fmp"}`:                                    1,
			`fetch_queue_depth{lane="interactive",provider="fmp"}`:                    1,
			`fetch_request_duration_seconds_count{lane="interactive",provider="fmp"}`: 1,
		} {
			if got[head] != want {
				t.Errorf("%s is %v, want %v", head, got[head], want)
			}
		}
		if age := got[`fetch_queue_oldest_seconds{lane="interactive",provider="fmp"}`]; age < 5 || age > 11 {
			t.Errorf("the oldest has waited for %v s", age)
		}
		r.final(second, 2*time.Minute)
		if hits := scrape(t, r.registry)[`rate_limit_hits_total{provider="fmp"}`]; hits != 1 {
			t.Errorf("the limit was met %v times", hits)
		}
	})
}

// What the fleet was like before the connection was lost is not told as what
// it is like now.
func TestAViewThatIsOldIsMissing(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		if err := fleet.Beat(t.Context(), b.JS, fleet.Worker{Name: "w1", Providers: []string{"fmp"}}); err != nil {
			t.Fatal(err)
		}
		board, err := fleet.Watch(t.Context(), b.JS, b.KV)
		if err != nil {
			t.Fatal(err)
		}
		defer board.Close()
		registry := prometheus.NewRegistry()
		registry.MustRegister(observe.New(b.JS, board, nil, zap.NewNop()))
		if n := scrape(t, registry)["fetch_fleet_workers"]; n != 1 {
			t.Fatalf("%v workers", n)
		}
		b.NC.Close()
		for range 20 {
			if _, told := scrape(t, registry)["fetch_fleet_workers"]; !told {
				return
			}
			time.Sleep(time.Second)
		}
		t.Error("a fleet is told that nobody sees any more")
	})
}
