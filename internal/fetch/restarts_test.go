package fetch_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/providers/providertest"
)

// TestWhatAServerForgotToHaveGivenOutIsCalledForOnce: a server that is killed, or
// whose disk was full, gives out again what workers have in hand: what they are
// calling for, what they wait for a permit with, and answers that could not be
// stored meanwhile.
func TestWhatAServerForgotToHaveGivenOutIsCalledForOnce(t *testing.T) {
	for name, c := range map[string]struct {
		limits   string
		requests int
		latency  time.Duration
		stops    time.Duration // after they were published
		away     time.Duration
		lost     int // claims that the server does not hear
	}{
		"called for meanwhile":        {"unlimited", 24, time.Second, 200 * time.Millisecond, 3 * time.Second, 0},
		"called for when it is back":  {"unlimited", 24, 3400 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, 0},
		"waiting for a permit":        {"60/s", 180, 100 * time.Millisecond, 600 * time.Millisecond, 500 * time.Millisecond, 0},
		"waiting for a scarce permit": {"20/s", 60, 100 * time.Millisecond, 600 * time.Millisecond, 500 * time.Millisecond, 0},
		"just given out":              {"unlimited", 24, 20 * time.Millisecond, 10 * time.Millisecond, time.Millisecond, 0},
		"it stands still again":       {"60/s", 180, 100 * time.Millisecond, 600 * time.Millisecond, 500 * time.Millisecond, 40},
	} {
		if !brokertest.Sampled(3) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, dir, providertest.Pipe("upstream.test"))
				defer r.close()
				r.wire = &brokertest.Wire{}
				delete(r.env, "FMP_REQUESTS_PER_MINUTE")
				r.catalogue("providers: {fmp: {limits: " + c.limits + "}}\n")
				r.upstream.Fallback = func(*http.Request) *providertest.Step {
					step := providertest.JSON(200, aapl)
					step.Header.Set("Cache-Control", "no-store") // nobody finds it in the cache
					return &step
				}
				r.upstream.SetLatency(c.latency)
				for range 3 {
					defer r.start(func(point string, stored bool) error {
						if point == "answer" && !stored {
							time.Sleep(500 * time.Millisecond) // it takes time to store one
						}
						return nil
					})()
				}
				time.Sleep(2 * time.Minute)
				symbols := map[string]bool{}
				for i := range c.requests {
					agent, symbol := fmt.Sprint("agent-", i%4), fmt.Sprintf("S%03d", i)
					symbols[symbol] = true
					if i%2 == 0 {
						r.quote(agent, symbol, symbol, "")
					} else { // without an id of its own nobody looks for what has come of it
						r.ask("fetch.request.fmp.interactive.quote."+agent, "", fmt.Sprintf(`{"params":{"symbol":%q}}`, symbol))
					}
				}
				time.Sleep(c.stops)
				r.b.Stop()
				r.b.Forget(t, fetchworker.StreamRequests)
				time.Sleep(c.away)
				r.wire.Break(".flying.", brokertest.RequestLost, c.lost, 0)
				r.b.Restart(t)
				r.drained(fetchworker.StreamRequests, 0, time.Minute)
				time.Sleep(30 * time.Second)
				for symbol := range symbols {
					if n := r.calls("/" + symbol); n != 1 {
						t.Errorf("%s: %d calls", symbol, n)
					}
				}
			})
		})
	}
}
