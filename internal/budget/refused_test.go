package budget

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/budget/circuit"
)

// A provider that cannot even be dialled is down: that no byte was written
// spares the permit, not the circuit.
func TestConnectionsThatAreRefusedOpenTheCircuit(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		for i := range 3 {
			p, err := g.Acquire(t.Context(), asks(fmt.Sprint("r", i)))
			if err != nil {
				t.Fatal(err)
			}
			// providers.Do never called Start: there was no connection to write to.
			p.Done(Report{Outcome: Unreached, Remaining: -1})
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if s := g.State(); s.Circuit != circuit.Open {
			t.Errorf("circuit is %q after three refused connections", s.Circuit)
		}
		// The same for a probe: it has failed, and the next one waits for its time.
		time.Sleep(61 * time.Second)
		p, err := g.Acquire(t.Context(), asks("r9"))
		if err != nil || !p.Probe() {
			t.Fatal(p, err)
		}
		p.Done(Report{Outcome: Unreached, Remaining: -1})
		time.Sleep(100 * time.Millisecond)
		if s := g.State(); s.Circuit != circuit.Open || s.OpenUntil.Sub(s.Now) < 50*time.Second {
			t.Errorf("after a refused probe the circuit is %q, the next probe due in %v", s.Circuit, s.OpenUntil.Sub(s.Now))
		}
	})
}
