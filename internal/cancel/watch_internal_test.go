package cancel

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// guardThrough is the guard of a worker whose connection runs through a wire,
// until end.
func guardThrough(t *testing.T, b *brokertest.Broker, w *brokertest.Wire) (g *Guard, kv jetstream.KeyValue, end func()) {
	t.Helper()
	js, closed := b.Through(t, w)
	kv, err := js.KeyValue(t.Context(), wire.BucketProviders)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Watch(t.Context(), js, kv)
	if err != nil {
		t.Fatal(err)
	}
	return NewGuard(v, "w1"), kv, func() {
		v.Close()
		closed()
	}
}

// A server that dies takes the watch with it that it had, and nobody tells: the
// connection is to another one. The next call waits no longer than it takes to
// open another watch, also where an election swallows the first answers to that.
func TestAWatchThatDiedInSilenceIsOpenedAnew(t *testing.T) {
	for _, swallowed := range []int{0, 1, 3} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			b := brokertest.StartIn(t, dir, "")
			defer b.Stop()
			var cable brokertest.Wire
			g, kv, end := guardThrough(t, b, &cable)
			defer end()
			if err := g.sure(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Second) // of rest
			stream, err := b.JS.Stream(t.Context(), "KV_"+wire.BucketProviders)
			if err != nil {
				t.Fatal(err)
			}
			for name := range stream.ConsumerNames(t.Context()).Name() {
				if err := stream.DeleteConsumer(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			cable.Break("CONSUMER.DELETE.", brokertest.RequestLost, 1<<20, 0)
			cable.Break("CONSUMER.CREATE.KV_"+wire.BucketProviders, brokertest.RequestLost, swallowed, 0)
			began := time.Now()
			for g.sure(t.Context()) != nil {
			}
			if took, most := time.Since(began), seenWithin+time.Duration(swallowed)*1300*time.Millisecond+500*time.Millisecond; took > most {
				t.Errorf("%d answers were swallowed: a call waited %v for the watch, at most %v are wanted", swallowed, took, most)
			}
			if _, err := kv.PutString(t.Context(), markKey("fmp", "alice"), `{}`); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			g.View.mu.RLock()
			marks := len(g.marks)
			g.View.mu.RUnlock()
			if marks != 1 {
				t.Errorf("the new watch tells of %d marks", marks)
			}
			if err := g.Leave(context.Background()); err != nil { //nolint:usetesting // it may be over
				t.Error(err)
			}
		})
	}
}

// A server that is slow to tell of what is stored is given no watch after the
// other: calls begin, and once it is quick again a watch that dies is noticed as
// soon as ever.
func TestAServerThatIsSlowToTellIsGivenNoWatchAfterTheOther(t *testing.T) {
	for _, late := range []time.Duration{600 * time.Millisecond, time.Second, 1500 * time.Millisecond} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			b := brokertest.StartIn(t, dir, "")
			defer b.Stop()
			var cable brokertest.Wire
			g, _, end := guardThrough(t, b, &cable)
			defer end()
			if err := g.sure(t.Context()); err != nil {
				t.Fatal(err)
			}
			const opened = "CONSUMER.CREATE.KV_" + wire.BucketProviders
			cable.Break(opened, brokertest.ReplyLate, 1<<20, 0) // which only counts
			cable.Slow("."+beatPrefix, late)
			const minute = time.Minute
			failed := 0
			for began := time.Now(); time.Since(began) < minute; time.Sleep(200 * time.Millisecond) {
				if g.sure(t.Context()) != nil {
					failed++
				}
			}
			if opened := cable.Met(); opened > 3 || failed > 3 {
				t.Errorf("%v late: %d watches are opened in a minute, and %d times nobody knew whether a call may begin", late, opened, failed)
			}
			cable.Slow("", 0)
			for range 20 { // the first of these may be late yet
				time.Sleep(500 * time.Millisecond)
				if err := g.sure(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if err := g.Leave(context.Background()); err != nil { //nolint:usetesting // it may be over
				t.Error(err)
			}
			if g.patience != seenWithin {
				t.Errorf("a watch that dies is noticed after %v", g.patience)
			}
		})
	}
}
