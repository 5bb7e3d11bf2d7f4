package intake

import (
	"testing"
	"time"

	"fetchworker"
)

// The look-ahead is what starts while more is fetched, and in a moment besides:
// of a server nearby that is less than half of what starts in a tenth of a second, of one
// far away all of it.
func TestTheLookAheadFollowsPaceAndDistance(t *testing.T) {
	for _, c := range []struct {
		trip  time.Duration
		rate  float64       // that the limits allow
		every time.Duration // something starts
		want  int
	}{
		{2 * time.Millisecond, 1e9, time.Millisecond, 42},
		{70 * time.Millisecond, 1e9, time.Millisecond, 100},
		{time.Second, 1e9, time.Millisecond, 100},
		{2 * time.Millisecond, 1e9, 10 * time.Microsecond, lookAheadMost},
		{2 * time.Millisecond, 1e9, 4 * time.Millisecond, lookAheadFew},
		{2 * time.Millisecond, 1e9, 10 * time.Millisecond, 10}, // few are asked for together
		{2 * time.Millisecond, 1e9, 50 * time.Millisecond, lookAhead},
		{2 * time.Millisecond, 30, time.Millisecond, 3}, // never more than the limits let start in a tenth of a second
		{2 * time.Millisecond, 2, time.Millisecond, lookAhead},
	} {
		s := Requests("fmp", "fmp-batch-0", fetchworker.LaneBatch, 0, func() float64 { return c.rate })
		now := time.Now()
		for range 100 {
			s.took(c.trip)
		}
		for end := now.Add(time.Second); now.Before(end); now = now.Add(c.every) {
			s.quicken(now)
		}
		if s.ahead != c.want {
			t.Errorf("%v away, a start each %v, %v/s allowed: looks %d ahead, want %d", c.trip, c.every, c.rate, s.ahead, c.want)
		}
	}
}

// While nothing waits a message takes as long as the next publish: one that is
// quick tells the distance at once, and slow ones little.
func TestTheTripIsThatOfTheQuick(t *testing.T) {
	s := Requests("fmp", "fmp-batch-0", fetchworker.LaneBatch, 0, func() float64 { return 1e9 })
	s.took(2 * time.Millisecond)
	if s.trip != 2*time.Millisecond {
		t.Errorf("after a quick one: %v", s.trip)
	}
	s.took(10 * time.Second)
	if s.trip > 10*time.Millisecond {
		t.Errorf("after a slow one: %v", s.trip)
	}
	for range 100 {
		s.took(60 * time.Millisecond)
	}
	if s.trip < 55*time.Millisecond {
		t.Errorf("after a hundred of 60 ms: %v", s.trip)
	}
}
