package intake_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/intake"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// delivered sums what the server has given out of the requests' stream, and what
// of it has not been acknowledged.
func delivered(t *testing.T, b *brokertest.Broker) (given, open int) {
	t.Helper()
	stream, err := b.JS.Stream(t.Context(), fetchworker.StreamRequests)
	if err != nil {
		t.Fatal(err)
	}
	for info := range stream.ListConsumers(t.Context()).Info() {
		given += int(info.Delivered.Consumer)
		open += info.NumAckPending
	}
	return given, open
}

// What the server had given when a worker stopped is in its hands, however busy
// they are, and what comes afterwards is given to nobody who is gone.
func TestWhatWasGivenAtAStopIsTaken(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		var mu sync.Mutex
		taken := 0
		count := func() int { mu.Lock(); defer mu.Unlock(); return taken }
		k := take(t, b, intake.RestAfter, func(s *intake.Shard, m intake.Message, _ *nats.MsgMetadata) {
			time.Sleep(20 * time.Millisecond) // as long as a look into a full worker's hands
			mu.Lock()
			taken++
			mu.Unlock()
			if s.Index%2 == 1 {
				s.Start() // so that more is asked for
			}
		})
		time.Sleep(2 * time.Second)
		for i := range 60 {
			ask(t, b, fmt.Sprint("agent-", i))
		}
		for count() == 0 {
			time.Sleep(time.Millisecond)
		}
		k.stop()
		given, open := delivered(t, b)
		if given != count() || given < 20 || open != given {
			t.Errorf("the server has given %d, of which %d are open; %d were taken", given, open, count())
		}
		for i := range 60 {
			ask(t, b, fmt.Sprint("later-", i))
		}
		time.Sleep(time.Second)
		if later, _ := delivered(t, b); later != given {
			t.Errorf("%d messages were given to one who is gone", later-given)
		}
	})
}

// What was asked for while nothing came is withdrawn at a stop: what comes then
// is given to nobody who is gone.
func TestWhatWasAskedForIsWithdrawnAtAStop(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		k := take(t, b, intake.RestAfter, nil)
		time.Sleep(2 * time.Second)
		for i := range 60 {
			ask(t, b, fmt.Sprint("agent-", i))
		}
		time.Sleep(time.Second)
		given, open := delivered(t, b)
		if given != 60 || open != 0 {
			t.Fatalf("the server has given %d of 60, of which %d are open", given, open)
		}
		k.stop()
		for i := range 60 {
			ask(t, b, fmt.Sprint("agent-", i))
		}
		time.Sleep(time.Second)
		if later, _ := delivered(t, b); later != given {
			t.Errorf("%d messages were given to one who is gone", later-given)
		}
	})
}

// Whatever an agent publishes comes, also what looks like the server's own word.
func TestWhatLooksLikeTheServersWordComes(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		k := take(t, b, intake.RestAfter, nil)
		defer k.stop()
		time.Sleep(time.Second)
		for i, status := range []string{"100", "404", "408", "409", "503"} {
			for j, body := range []string{"", "{}"} {
				m := nats.NewMsg(fetchworker.RequestSubject("fmp", fetchworker.LaneBatch, "quote", fmt.Sprintf("agent-%d-%d", i, j)))
				m.Header.Set("Status", status)
				m.Header.Set("Description", "Idle Heartbeat")
				m.Header.Set("Nats-Pending-Messages", "1")
				m.Data = []byte(body)
				if _, err := b.JS.PublishMsg(t.Context(), m, jetstream.WithRetryAttempts(0)); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(time.Second)
		for i := range 5 {
			for j := range 2 {
				k.within(t, fmt.Sprintf("agent-%d-%d", i, j), time.Second)
			}
		}
	})
}
