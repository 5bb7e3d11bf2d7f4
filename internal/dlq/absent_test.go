package dlq_test

import (
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/wire"
)

// Behind a closed gate without a worker nobody probes and nobody claims: once
// they have been away for long, that is what an agent is told to wait for.
func TestAClosedGateWithoutAWorkerWaitsForOne(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		leave := f.Serve("fmp")
		f.Replayer(nil)
		until := time.Now().Add(time.Hour).Truncate(time.Millisecond).UTC()
		f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: until}})
		for i := range 3 {
			f.Put(dlqtest.Fresh(i, wire.ClassCircuitOpen))
		}
		told(f, 5*time.Second, 3, fetchworker.ReasonCircuitOpen, until)
		leave()
		time.Sleep(dlq.LongAbsence - 5*time.Second)
		told(f, 0, 3, fetchworker.ReasonCircuitOpen, until)
		told(f, 20*time.Second, 3, fetchworker.ReasonNoWorker, time.Time{})
		defer f.Serve("fmp")()
		told(f, 20*time.Second, 3, fetchworker.ReasonCircuitOpen, until)
		released(f, 0, 0)
	})
}
