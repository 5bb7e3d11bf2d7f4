package dlq

import (
	"testing"
	"time"

	"fetchworker"
)

// Agents are told another time once it differs enough and a while has passed,
// to sooner as well as to later; and what is remembered of them is bounded.
func TestWhatAgentsAreTold(t *testing.T) {
	now := time.Now()
	w := newWaiters()
	of := func(d time.Duration) verdict {
		return verdict{reason: fetchworker.ReasonPaused, retryAt: now.Add(d)}
	}
	if !w.untold(1, of(time.Minute), now) {
		t.Error("it has not been told yet")
	}
	w.tell(1, fetchworker.ReasonPaused, now.Add(time.Minute), now)
	later := now.Add(10 * time.Second)
	for d, want := range map[time.Duration]bool{time.Minute: false, 63 * time.Second: false, 2 * time.Minute: true, 20 * time.Second: true} {
		if got := w.untold(1, of(d), later); got != want {
			t.Errorf("in %v instead of a minute: %t", d, got)
		}
		if w.untold(1, of(d), now.Add(time.Second)) {
			t.Errorf("in %v: told again after a second", d)
		}
	}
	for sequence := range uint64(waitersKept + 10) {
		w.tell(sequence, fetchworker.ReasonPaused, now, now)
	}
	if len(w.told) > waitersKept {
		t.Errorf("%d are remembered", len(w.told))
	}
}
