package budget

import (
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
)

// TestDistance: workers far from the server, or a server whose disk is slow,
// use less of a short window, and never more than it has.
func TestDistance(t *testing.T) {
	t.Parallel() // no server, no clock: it only computes
	if underRace {
		t.Skip("one goroutine")
	}
	const ms = time.Millisecond
	short := ledger.Limits{{N: 2, Per: time.Second}}
	both := ledger.Limits{{N: 60, Per: time.Minute}, {N: 2, Per: time.Second}}
	for _, c := range []struct {
		name   string
		limits ledger.Limits
		oneWay time.Duration
		disk   time.Duration
		used   float64
	}{
		{"2 in 1 s, 1 ms", short, ms, 0, 0.85},
		{"2 in 1 s, 15 ms", short, 15 * ms, 0, 0.75},
		{"2 in 1 s, 50 ms", short, 50 * ms, 0, 0.60},
		{"60 in 60 s and 2 in 1 s, 50 ms", both, 50 * ms, 0, 0.90},
		{"2 in 1 s, writes of 120 ms", short, ms, 120 * ms, 0.80},
		{"60 in 60 s and 2 in 1 s, writes of 120 ms", both, ms, 120 * ms, 0.90},
		{"120 in 60 s, 50 ms", perMinute(120), 50 * ms, 0, 0.95},
	} {
		for _, workers := range []int{1, 8} {
			s := newSim(simConfig{
				limits: c.limits, workers: workers, seed: 3, skew: 500 * ms, oneWay: c.oneWay, disk: c.disk,
				warm: time.Minute, duration: 10 * time.Minute,
			})
			saturated(turns.Batch, 0, 8)(s)
			s.run()
			for _, l := range s.limits {
				if worst := s.worst(l.Per); worst > l.N {
					t.Errorf("%s, %d workers: %d calls in %v, of %d", c.name, workers, worst, l.Per, l.N)
				}
			}
			if s.late > 0 {
				t.Errorf("%s, %d workers: %d calls outside of their permit", c.name, workers, s.late)
			}
			used, writes := s.used(s.limits[0]), float64(s.cas)/float64(max(s.calls(), 1))
			t.Logf("%s, %d workers: %.1f %% used, %.2f writes a permit, %d lapsed", c.name, workers, 100*used, writes, s.lapses)
			if used < c.used {
				t.Errorf("%s, %d workers: %.1f %% used, want %.0f", c.name, workers, 100*used, 100*c.used)
			}
		}
	}
}
