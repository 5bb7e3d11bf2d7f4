package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// TestAnOutageAtScale has a provider be down while thousands of requests come,
// and come back: what it takes to park and to drain them, beside what fresh
// ones take in the same run, and what a neighbour notices. It prints a table.
func TestAnOutageAtScale(t *testing.T) {
	begin(t)
	var table strings.Builder
	fmt.Fprintf(&table, "\n%10s %12s %12s %12s   %s\n", "requests", "fresh", "parked", "drained", "a neighbour's p50 and p99: alone, beside fresh ones, while they are parked, and drained")
	sizes := pick([]int{400}, []int{10_000, 100_000})
	if only, err := strconv.Atoi(os.Getenv("FETCH_OUTAGE")); err == nil {
		sizes = []int{only}
	}
	for _, n := range sizes {
		fresh, parked, drained, neighbour := outage(t, n)
		fmt.Fprintf(&table, "%10d %10.0f/s %10.0f/s %10.0f/s   %s\n", n, fresh, parked, drained, strings.Join(neighbour, "   "))
		if full && (parked < fresh/2 || drained < fresh/2) {
			t.Errorf("%d: fresh requests come at %.0f a second, are parked at %.0f and drained at %.0f", n, fresh, parked, drained)
		}
	}
	t.Log(table.String())
}

// outage is one of so many requests: rates a second, and what a neighbour's
// requests take before, while others come fresh, are parked, and drained.
func outage(t *testing.T, n int) (fresh, parked, drained float64, neighbours []string) {
	t.Helper()
	var down bool
	f := newFleet(t, well(0))
	f.upstream.Fallback = func(r *http.Request) *providertest.Step {
		f.mu.Lock()
		defer f.mu.Unlock()
		step := providertest.JSON(http.StatusOK, aQuote)
		switch {
		case strings.HasPrefix(r.URL.Path, "/v2/"):
			step = providertest.JSON(http.StatusOK, `{"status":"OK","results":[{"c":1}]}`)
		case down:
			step = providertest.JSON(http.StatusServiceUnavailable, "down")
		}
		return &step
	}
	turn := func(off bool) {
		f.mu.Lock()
		down = off
		f.mu.Unlock()
	}
	f.env["POLYGON_API_KEY"], f.env["POLYGON_BASE_URL"], f.env["POLYGON_REQUESTS_PER_MINUTE"] = aKey, f.upstream.URL(), "0"
	f.env["FETCH_CIRCUIT_OPEN_SECONDS"], f.env["FETCH_CONCURRENCY"], f.env["FETCH_AGENT_BACKLOG"], f.env["FETCH_LOG_LEVEL"] = "1", "64", "1000000", "warn"
	f.spawn("worker")
	f.spawn("replayer")
	f.final(f.quote("alice", "FIRST"), time.Minute)

	neighbour, err := f.agent("neighbour")
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	var looks []*laps
	look := func(stop <-chan struct{}) {
		took := new(laps)
		looks = append(looks, took)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond): //nolint:forbidigo // beside another end
			}
			asked++
			symbol := fmt.Sprint("N", asked)
			if err := took.fetch(t.Context(), neighbour, fetchworker.Request{Provider: "polygon", Operation: "aggregates", Params: params("polygon", symbol)}, symbol); err != nil {
				t.Error(err)
				return
			}
		}
	}
	during := func(work func()) {
		stop := make(chan struct{})
		var looking sync.WaitGroup
		looking.Go(func() { look(stop) })
		work()
		close(stop)
		looking.Wait()
	}
	published := map[string]time.Time{} // when all were
	publish := func(what string) {
		defer func() { published[what] = time.Now() }()
		store(t, f.js, n, func(i int) *nats.Msg {
			m := nats.NewMsg(fmt.Sprintf("fetch.request.fmp.batch.quote.agent-%d", i%50))
			m.Data, _ = json.Marshal(map[string]any{"id": fmt.Sprintf("%s-%d", what, i), "params": map[string]string{"symbol": fmt.Sprintf("%s%d", what, i)}})
			return m
		})
	}
	rate := func(start time.Time) float64 { return float64(n) / time.Since(start).Seconds() }
	answered := func() int { return f.count(fetchworker.StreamResults) }

	during(func() { time.Sleep(pick(time.Second, 5*time.Second)) })
	during(func() {
		before, start := answered(), time.Now()
		publish("A")
		until(t, 10*time.Minute, "fresh ones are answered", func() bool { return f.count(fetchworker.StreamRequests) == 0 && answered() >= before+n })
		fresh = rate(start)
	})
	during(func() {
		turn(true)
		start := time.Now()
		publish("B")
		until(t, 10*time.Minute, "all are parked", func() bool {
			return f.count(fetchworker.StreamRequests) == 0 && f.count(wire.StreamDLQ) >= n-1
		})
		parked = rate(start)
	})
	during(func() {
		turn(false)
		until(t, time.Minute, "the circuit closes", func() bool { return f.count(wire.StreamDLQ) < n-n/50 })
		start, left := time.Now(), f.count(wire.StreamDLQ)
		until(t, 10*time.Minute, "all are drained", func() bool { return f.nothingWaits() })
		drained = float64(left) / time.Since(start).Seconds()
	})
	for i, when := range []string{"alone", "fresh", "parking", "draining"} {
		neighbours = append(neighbours, looks[i].String())
		t.Logf("%d, the neighbour %s:%s", n, when, looks[i].where(f))
		if at, ok := published[map[string]string{"fresh": "A", "parking": "B"}[when]]; ok {
			// The stream takes them in one go, which nobody else's flood would; what
			// comes after that is the fleet's own doing.
			later := looks[i].since(at)
			neighbours[i] += " (" + later.String() + " once all were published)"
			t.Logf("%d, the neighbour %s, once all were published:%s", n, when, later.where(f))
		}
	}
	return fresh, parked, drained, neighbours
}
