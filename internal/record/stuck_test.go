package record_test

import (
	"testing"
	"time"

	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go/jetstream"
)

// Whether a stream is stuck is asked of one that has one copy; and who is not
// answered asks again after a minute only.
func TestWhoIsAskedWhetherAStreamIsStuck(t *testing.T) {
	wired(t, func(t *testing.T, _ *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
		log := record.New(js, nil)
		w.Break("MSG.DELETE", brokertest.ReplyLost, 1<<20, 0)
		for _, c := range []struct {
			after    time.Duration
			replicas int
			asks     bool
		}{
			{0, 3, false}, {0, 1, true}, {0, 1, false}, {50 * time.Second, 1, false}, {15 * time.Second, 3, false}, {0, 1, true},
		} {
			time.Sleep(c.after)
			before, began := w.Met(), time.Now()
			why, err := log.Stuck(t.Context(), "S", c.replicas)
			if asked := w.Met() > before; asked != c.asks || (err != nil) != c.asks || why != "" {
				t.Errorf("%+v: %t %q %v", c, asked, why, err)
			}
			if took := time.Since(began); took > 0 && !c.asks || took > 2500*time.Millisecond {
				t.Errorf("%+v: it took %v", c, took)
			}
		}
	})
}
