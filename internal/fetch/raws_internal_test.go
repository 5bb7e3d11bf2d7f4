package fetch

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"
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

// An agent's places are taken by what lies in review and by what is on its way
// there; another's are its own.
func TestWhatIsOnItsWayToReviewTakesAPlace(t *testing.T) {
	b := brokertest.Start(t)
	put := func(n int, subject string) {
		for i := range n {
			if _, err := b.JS.Publish(t.Context(), subject+strconv.Itoa(i), []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(rawsMost/2, "fetch.review.fmp.quote.alice.r")
	put(rawsMost/2-1, "fetch.dlq.fmp.interactive.quote.alice.l")
	put(rawsMost/2, "fetch.dlq.fmp.interactive.quote.bob.l")
	r := newRaws(record.New(b.JS, nil))
	for agent, want := range map[string]int{"alice": 1, "bob": rawsMost / 2, "carol": rawsMost} {
		got := 0
		for range rawsMost + 1 {
			room, err := r.room(t.Context(), agent)
			if err != nil {
				t.Fatal(err)
			}
			if room {
				got++
			}
		}
		if got != want {
			t.Errorf("%s has %d places left, want %d", agent, got, want)
		}
	}
}
