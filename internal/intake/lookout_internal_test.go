package intake

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// A look into streams that were empty costs little, and sees what has come since
// though nobody heard of it, also where that cannot be asked so cheaply.
func TestALookIntoWhatWasEmpty(t *testing.T) {
	b := brokertest.Start(t)
	var whole atomic.Int32
	sub, err := b.NC.Subscribe("$JS.API.STREAM.INFO.>", func(*nats.Msg) { whole.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	risen := 0
	var shards []*Shard
	for index := range wire.Shards {
		s := Requests("fmp", "", fetchworker.LaneBatch, index, func() float64 { return 1 })
		s.rise = func() { risen++ }
		s.Make = func(context.Context) (time.Time, bool, error) { return time.Time{}, false, nil }
		s.begin()
		shards = append(shards, s)
	}
	o := newLookout(b.JS, shards)
	look := func(when string, wantWhole, wantRisen int) {
		t.Helper()
		whole.Store(0)
		if err := o.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.NC.Flush(); err != nil {
			t.Fatal(err)
		}
		if n := int(whole.Load()); n > wantWhole || risen != wantRisen || o.mute.Load() {
			t.Errorf("%s: %d whole states (want at most %d), %d shards stirred (want %d), mute %t", when, n, wantWhole, risen, wantRisen, o.mute.Load())
		}
	}
	look("the first", 4, 0)
	for range 3 {
		look("nothing has come", 0, 0)
	}
	stream, err := b.JS.Stream(t.Context(), fetchworker.StreamRequests)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.JS.Publish(t.Context(), fetchworker.RequestSubject("fmp", fetchworker.LaneBatch, "quote", "alice"), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	look("something has come", 3, 1)
	look("it is still there", 2, 1)
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	look("it is gone", 2, 1)
	look("nothing has come since", 0, 1)
	config := stream.CachedInfo().Config
	config.AllowDirect = false
	if _, err := b.JS.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if _, err := b.JS.Publish(t.Context(), fetchworker.RequestSubject("fmp", fetchworker.LaneBatch, "quote", "bob"), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	look("it cannot be asked whether something has", 3, 2)
}
