package memory

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Who looks through a body rests as long as it works while small answers are
// on their way; one of the lesser kind four times as long where processors are
// short; and nobody without need or for long.
func TestWhoLooksRests(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		why          string
		bytes        int64
		small, short bool
		worked, want time.Duration
	}{
		{"nobody waits", 700_000, false, true, 2 * ms, 0},
		{"somebody does", 700_000, true, false, 2 * ms, 2 * ms},
		{"and processors are short", 700_000, true, true, 2 * ms, 8 * ms},
		{"the largest of the lesser", Small, true, true, 2 * ms, 8 * ms},
		{"a large one", Small + 1, true, true, 2 * ms, 2 * ms},
		{"who was kept from working", 700_000, true, false, 20 * ms, longestRest},
		{"who was kept for long where processors are short", 700_000, true, true, 20 * ms, longestOver},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := New(100 << 20)
			time.Sleep(time.Minute)
			if c.small {
				b.Small()
			}
			if c.short {
				b.short.Store(time.Now().UnixNano())
			}
			pace := b.Pace(c.bytes)
			for _, write := range []func(){ // a rest is not taken for work
				func() { _, _ = pace.Write(make([]byte, slice)) },
				func() { _, _ = pace.Write(make([]byte, slice)) },
				func() { _, _ = pace.Write([]byte("the last")); pace.End() },
			} {
				time.Sleep(c.worked)
				before := time.Now()
				write()
				if rested := time.Since(before); rested != c.want {
					t.Errorf("%s: %v of rest, not %v", c.why, rested, c.want)
				}
			}
			if found := b.short.Load() > time.Now().Add(-time.Second).UnixNano(); found != c.short {
				t.Errorf("%s: processors are short: %v", c.why, found)
			}
		})
	}
}

// A worker whose processors are taken finds that they are.
func TestShortProcessorsAreFound(t *testing.T) {
	b := New(100 << 20)
	pace := b.Pace(700_000)
	var stop atomic.Bool
	defer stop.Store(true)
	for range 64 {
		go func() {
			for !stop.Load() { // it takes a processor
			}
		}()
	}
	for begun := time.Now(); b.short.Load() == 0; {
		b.Small()
		_, _ = pace.Write(make([]byte, slice))
		if time.Since(begun) > time.Minute {
			t.Fatal("nobody has noticed")
		}
	}
}
