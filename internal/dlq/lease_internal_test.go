package dlq

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// One replayer at a time reads for a provider: until its lease ends, and who
// holds it may have it longer.
func TestOneReplayerReadsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.Start(t)
		defer b.Stop()
		start := time.Now()
		if _, err := b.KV.Put(t.Context(), "drain.fred", []byte(`{"by":7}`)); err != nil { // of whatever wrote this
			t.Fatal(err)
		}
		for i, c := range []struct {
			provider, by string
			at           time.Duration
			has          bool
		}{
			{"fmp", "a", 0, true},
			{"fmp", "b", time.Second, false},
			{"polygon", "b", time.Second, true},
			{"fred", "b", time.Second, true},
			{"fred", "a", 2 * time.Second, false},
			{"fmp", "a", 3 * time.Second, true},
			{"fmp", "b", leaseLasts, false},
			{"fmp", "b", 3*time.Second + leaseLasts - time.Millisecond, false},
			{"fmp", "b", 3*time.Second + leaseLasts, true},
			{"fmp", "a", 4*time.Second + leaseLasts, false},
		} {
			until, err := lease(t.Context(), b.KV, c.provider, c.by, start.Add(c.at))
			if err != nil {
				t.Fatal(err)
			}
			if want := start.Add(c.at + leaseLasts); c.has != until.Equal(want) || !c.has && !until.IsZero() {
				t.Errorf("%d: %s asks for %s after %v, and has it until %v", i, c.by, c.provider, c.at, until)
			}
		}
	})
}

// Two that ask at the same moment do not both have it: whoever has read what
// stands, and writes when another has written, is told that it is another's.
func TestOfTwoThatAskAtOnceOneReads(t *testing.T) {
	for name, stood := range map[string]bool{"the first lease": false, "after another's": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := brokertest.Start(t)
				defer b.Stop()
				var slow brokertest.Wire
				js, end := b.Through(t, &slow)
				defer end()
				kv, err := js.KeyValue(t.Context(), wire.BucketProviders)
				if err != nil {
					t.Fatal(err)
				}
				ask := func(kv jetstream.KeyValue, by string) time.Time {
					until, err := lease(t.Context(), kv, "fmp", by, time.Now())
					if err != nil {
						t.Error(err)
					}
					return until
				}
				if stood {
					ask(b.KV, "who died")
					time.Sleep(leaseLasts)
				}
				slow.Break("DIRECT.GET", brokertest.ReplyLate, 1, time.Second)
				var both sync.WaitGroup
				both.Go(func() {
					if until := ask(kv, "a"); !until.IsZero() {
						t.Errorf("it is b's, and a has it until %v", until)
					}
				})
				time.Sleep(500 * time.Millisecond)
				if ask(b.KV, "b").IsZero() {
					t.Error("b has not got what nobody held")
				}
				both.Wait()
				if slow.Met() != 1 {
					t.Error("they did not ask at once")
				}
			})
		})
	}
}
