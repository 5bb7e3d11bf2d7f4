package intake

import (
	"context"
	"testing"
	"time"

	"fetchworker"
)

// After a reconnect a shard that was asked is asked again at once: a server that
// answers no look yet may give work all the same. What comes meanwhile may be of
// another consumer than before, until that has been seen.
func TestAReconnectAsksBeforeItLooks(t *testing.T) {
	asked, looks := 0, 0
	s := Requests("fmp", "fmp-batch-0", fetchworker.LaneBatch, 0, func() float64 { return 1000 })
	s.Make = func(context.Context) (time.Time, bool, error) { return time.Time{}, false, nil }
	s.rest, s.mayEnd = time.Minute, func() bool { return false }
	s.ask = func(n int) error { asked += n; return nil }
	s.rise = func() { looks++ }

	s.begin()
	if asked != 0 || looks != 0 {
		t.Fatalf("a shard at rest: asked for %d, %d looks", asked, looks)
	}
	s.Stir()
	long := time.Now().Add(-time.Hour)
	s.risen(long, false, nil)
	if asked != lookAhead || looks != 1 || s.Older(time.Now()) {
		t.Fatalf("woken: asked for %d, %d looks, older %v", asked, looks, s.Older(time.Now()))
	}
	s.begin()
	if asked != 2*lookAhead || looks != 2 || !s.Older(time.Now()) {
		t.Errorf("after a reconnect: asked for %d, %d looks, older %v", asked, looks, s.Older(time.Now()))
	}
	if lost, _ := s.risen(long, false, nil); lost || asked != 2*lookAhead || s.Older(time.Now()) {
		t.Errorf("seen: asked for %d, older %v", asked, s.Older(time.Now()))
	}
	s.begin()
	asked = 0
	if lost, _ := s.risen(time.Now(), true, nil); !lost || asked != lookAhead {
		t.Errorf("a consumer that was gone while it was asked: told %v, asked for %d", lost, asked)
	}
	s.begin()
	asked = 0
	if lost, _ := s.risen(time.Now(), false, nil); lost || asked != lookAhead {
		t.Errorf("one that another worker made meanwhile: told %v, asked for %d", lost, asked)
	}
}
