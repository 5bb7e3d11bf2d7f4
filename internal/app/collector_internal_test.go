package app

import (
	"runtime"
	"testing"
	"time"
)

func TestHowMuchGarbageMayLie(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct {
		live  int64
		apart time.Duration
		room  int64
		want  int
	}{
		{10 * mb, 100 * time.Millisecond, 64 * mb, 400},
		{20 * mb, 100 * time.Millisecond, 64 * mb, 200},
		{60 * mb, 100 * time.Millisecond, 64 * mb, 100},
		{600 * mb, time.Millisecond, 64 * mb, 100},
		{10 * mb, 2 * time.Second, 64 * mb, 100}, // it rests
		{10 * mb, 100 * time.Millisecond, 24 * mb, 200},
		{0, 0, 0, 400}, // nothing lives: four times nothing
	} {
		if got := percentFor(c.live, c.apart, c.room); got != c.want {
			t.Errorf("%d MB live, %v apart, room of %d MB: %d %%, want %d", c.live/mb, c.apart, c.room/mb, got, c.want)
		}
		if garbage := c.live * int64(percentFor(c.live, c.apart, c.room)) / 100; garbage > max(c.room, c.live) {
			t.Errorf("%d bytes of garbage beside %d", garbage, c.live)
		}
	}
}

// Collections that follow on each other make room; one after a while takes it
// back.
func TestThePacerHearsOfCollections(t *testing.T) {
	said := make(chan int, 100)
	p := &pacer{room: 1 << 40, percent: usualPercent, last: time.Now(), set: func(percent int) { said <- percent }}
	p.watch()
	collects := func() int {
		for {
			runtime.GC()
			select {
			case percent := <-said:
				return percent
			case <-time.After(5 * time.Millisecond): //nolint:forbidigo // a cleanup runs when it runs
			}
		}
	}
	if got := collects(); got != mostPercent {
		t.Errorf("busy: %d %%", got)
	}
	p.mu.Lock()
	p.last = time.Now().Add(-time.Hour)
	p.mu.Unlock()
	if got := collects(); got != usualPercent {
		t.Errorf("at rest: %d %%", got)
	}
}
