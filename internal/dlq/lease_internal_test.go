package dlq

import (
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/broker/brokertest"
)

// One replayer at a time reads for a provider: until its lease ends, and who
// holds it may have it longer.
func TestOneReplayerReadsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.Start(t)
		defer b.Stop()
		start := time.Now()
		for i, c := range []struct {
			provider, by string
			at           time.Duration
			has          bool
		}{
			{"fmp", "a", 0, true},
			{"fmp", "b", time.Second, false},
			{"polygon", "b", time.Second, true},
			{"fmp", "a", 3 * time.Second, true},
			{"fmp", "b", leaseLasts, false},
			{"fmp", "b", 3*time.Second + leaseLasts - time.Millisecond, false},
			{"fmp", "b", 3*time.Second + leaseLasts, true},
			{"fmp", "a", 4*time.Second + leaseLasts, false},
		} {
			until, err := lease(t.Context(), b.KV, c.provider, c.by, start.Add(c.at))
			if err != nil {
				t.Fatal(err)
			}
			if want := start.Add(c.at + leaseLasts); c.has != until.Equal(want) || !c.has && !until.IsZero() {
				t.Errorf("%d: %s asks for %s after %v, and has it until %v", i, c.by, c.provider, c.at, until)
			}
		}
	})
}
