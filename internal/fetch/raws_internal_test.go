package fetch

import (
	"testing"
	"testing/synctest"
	"time"
)

// An agent's places in review run out, one by one, and are counted again a while
// later: what a person has looked at makes room.
func TestPlacesInReviewAreCountedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRaws(nil)
		expect := func(counted *rawCount, room, known bool) {
			t.Helper()
			if a, b := r.take("alice", counted); a != room || b != known {
				t.Fatalf("room %t, known %t", a, b)
			}
		}
		count := func(n uint64) *rawCount { return &rawCount{n: n, looked: time.Now()} }
		expect(nil, false, false)
		expect(count(rawsMost-2), true, true)
		expect(nil, true, true)
		expect(nil, false, true)
		expect(count(0), false, true) // counted by two at once: the first counts
		time.Sleep(rawsLooked - 1)
		expect(nil, false, true)
		time.Sleep(time.Nanosecond)
		expect(nil, false, false)
		expect(count(rawsMost), false, true)
		time.Sleep(rawsLooked)
		expect(count(rawsMost-1), true, true)
		expect(nil, false, true)
	})
}
