package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"

	"golang.org/x/sync/errgroup"
)

// TestTheFleetNeverPassesALimitAndUsesIt has four processes share one limit
// under a backlog of many agents, while one is killed, one comes new and one
// is frozen; and counts at the provider.
func TestTheFleetNeverPassesALimitAndUsesIt(t *testing.T) {
	begin(t)
	window, limit, requests := pick(10*time.Second, time.Minute), pick(100, 600), pick(300, 2200)
	// A window of seconds pays more for what calls are late on their way.
	least := pick(0.85, 0.97)
	f := newFleet(t, func(*http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, `{"status":"OK","results":[{"c":1}]}`)
		step.Latency = 50 * time.Millisecond
		return &step
	})
	f.env["POLYGON_API_KEY"], f.env["POLYGON_BASE_URL"] = aKey, f.upstream.URL()
	if full {
		f.env["POLYGON_REQUESTS_PER_MINUTE"] = fmt.Sprint(limit)
	} else {
		f.env["FETCH_CATALOG"] = filepath.Join(t.TempDir(), "catalog.yaml")
		catalog := fmt.Sprintf("providers:\n  polygon: {limits: %d/%v}\n", limit, window)
		if err := os.WriteFile(f.env["FETCH_CATALOG"], []byte(catalog), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var workers []*process
	for range 4 {
		workers = append(workers, f.worker())
	}
	start := time.Now()
	var publishing errgroup.Group
	publishing.SetLimit(16)
	for i := range requests {
		publishing.Go(func() error {
			r := fetchworker.Request{Provider: "polygon", Operation: "aggregates", Lane: fetchworker.LaneBatch, Agent: fmt.Sprint("agent-", i%40)}
			return f.ask(r, fmt.Sprint("S", i))
		})
	}
	if err := publishing.Wait(); err != nil {
		t.Fatal(err)
	}
	// The first window holds the burst of an idle fleet; what is used is
	// measured from there until little is left to do.
	arrived := func(share float64) {
		until(t, 5*window+10*time.Second, fmt.Sprintf("%.0f %% are called", share*100), func() bool {
			return len(f.upstream.Calls()) >= int(share*float64(requests))
		})
	}
	arrived(0.45)
	workers[0].kill()
	f.spawn("worker")
	arrived(0.6)
	workers[1].signal(t, syscall.SIGSTOP)
	time.Sleep(pick(2*time.Second, 5*time.Second)) // frozen; there is nothing to wait for
	workers[1].signal(t, syscall.SIGCONT)
	f.settled(4 * window)

	calls := f.upstream.Calls()
	most := f.upstream.MaxIn(window)
	first, last := 0, len(calls)-1
	for calls[first].At.Before(start.Add(window)) {
		first++
	}
	// The last hundredth trickles: it waits in the hands of the killed.
	last -= len(calls) / 20
	span := calls[last].At.Sub(calls[first].At)
	used := float64(last-first) / (float64(limit) * span.Seconds() / window.Seconds())
	t.Logf("at most %d of %d calls in %v; %.1f %% used over %v; %d calls for %d requests in %v",
		most, limit, window, used*100, span, len(calls), requests, calls[len(calls)-1].At.Sub(start))
	if most > limit {
		t.Errorf("%d calls in %v", most, window)
	}
	if used < least {
		t.Errorf("only %.1f %% used", used*100)
	}
	for status, n := range f.statuses() {
		if status != string(fetchworker.StatusOK) {
			t.Errorf("%d × %s", n, status)
		}
	}
}
