package record_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Whatever is lost on the way of some of the records that are written together,
// and whatever stands already: each that is told to stand does, or a higher one.
func TestRecordsThatGoTogether(t *testing.T) {
	wired(t, func(t *testing.T, b *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
		sure := record.New(b.JS, nil)
		n := 0
		for fault, name := range map[brokertest.Fault]string{brokertest.RequestLost: "a request", brokertest.ReplyLost: "a reply", brokertest.ReplyLate: "a reply for a while"} {
			for _, times := range []int{0, 1, 3, 1 << 20} {
				log := record.New(js, nil)
				var entries []record.Entry
				var higher []bool
				for i := range 9 {
					n++
					ours := named(ok(1), fmt.Sprint("together-", n))
					ours.Body = fmt.Append(nil, "ours ", n)
					slot := slotOf(ours.Identity)
					stood := map[int]fetchworker.Answer{3: waiting(1, "paused", 1), 4: failed(1, false)}[i]
					if stood.Status != "" {
						if _, err := sure.Put(t.Context(), slot, named(stood, ours.Identity.ID).Encode()); err != nil {
							t.Fatal(err)
						}
					}
					entries, higher = append(entries, record.Entry{Slot: slot, Message: ours.Encode()}), append(higher, stood.Final)
				}
				w.Break("fetch.put.", fault, times, 7*time.Second)
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
				failed := log.PutAll(ctx, entries)
				cancel()
				w.Mend()
				time.Sleep(10 * time.Second) // what was late has come
				for i, err := range failed {
					stands, read := sure.Get(t.Context(), entries[i].Slot)
					mine := read == nil && bytes.Equal(stands.Data, entries[i].Message.Data)
					if err == nil && mine == higher[i] {
						t.Errorf("%s lost %d times: record %d counts as stored, and %.100q stands (%v)", name, times, i, stands.Data, read)
					}
					if err != nil && times < 1<<20 {
						t.Errorf("%s lost %d times: record %d: %v", name, times, i, err)
					}
				}
				if times == 1<<20 && fault == brokertest.RequestLost && slices.Contains(failed[:3], nil) {
					t.Error("what the server has never heard of counts as stored")
				}
			}
		}
	})
}

// A hook stops the record that it speaks of, and no other.
func TestAHookStopsOneOfSeveral(t *testing.T) {
	b := brokertest.Start(t)
	errStop := errors.New("stop")
	for _, after := range []bool{false, true} {
		n := 0
		log := record.New(b.JS, func(_ string, persisted bool) error {
			if persisted == after {
				if n++; n == 2 {
					return errStop
				}
			}
			return nil
		})
		var entries []record.Entry
		for i := range 3 {
			a := named(ok(1), fmt.Sprintf("hooked-%t-%d", after, i))
			entries = append(entries, record.Entry{Slot: slotOf(a.Identity), Message: a.Encode()})
		}
		for i, err := range log.PutAll(t.Context(), entries) {
			if errors.Is(err, errStop) != (i == 1) {
				t.Errorf("record %d: %v", i, err)
			}
			if _, read := log.Get(t.Context(), entries[i].Slot); (read == nil) != (i != 1 || after) {
				t.Errorf("record %d, stopped after it: %t: %v", i, after, read)
			}
		}
	}
}

// A server that is slow does not get large records twice; small ones it does, as
// when they come one by one.
func TestLargeRecordsThatGoTogetherGoOnce(t *testing.T) {
	wired(t, func(t *testing.T, _ *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
		for size, times := range map[int]int{64<<10 - 1: 6, 64 << 10: 3} {
			var entries []record.Entry
			for i := range 3 {
				a := named(ok(1), fmt.Sprintf("of-%d-%d", size, i))
				a.Body = bytes.Repeat([]byte("x"), size)
				entries = append(entries, record.Entry{Slot: slotOf(a.Identity), Message: a.Encode()})
			}
			w.Break("fetch.put.", brokertest.ReplyLate, 1<<20, 2*time.Second)
			before := w.Met()
			for i, err := range record.New(js, nil).PutAll(t.Context(), entries) {
				if err != nil {
					t.Errorf("record %d of %d bytes: %v", i, size, err)
				}
			}
			if sent := w.Met() - before; size >= 64<<10 && sent != times || sent < times {
				t.Errorf("three records of %d bytes were sent %d times in all", size, sent)
			}
			w.Mend()
		}
	})
}

// What is to be taken out of a work queue is gone when that is said, whether its
// consumer has handed it out, is believed to have, or is no longer there, and
// whatever is lost on the way.
func TestWhatIsTakenOutIsGone(t *testing.T) {
	wired(t, func(t *testing.T, b *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
		if err := broker.ServeDLQ(t.Context(), b.JS); err != nil {
			t.Fatal(err)
		}
		for what, c := range map[string]struct {
			pulled, believed int // of twelve
			fault            brokertest.Fault
			times            int
			missing          bool
		}{
			"all were handed out":           {pulled: 12, believed: 12},
			"some were":                     {pulled: 5, believed: 5},
			"fewer than is believed":        {pulled: 5, believed: 9},
			"more than is known":            {pulled: 12, believed: 3},
			"acknowledgements are lost":     {pulled: 12, believed: 12, fault: brokertest.RequestLost, times: 4},
			"words are lost":                {pulled: 12, believed: 12, fault: brokertest.ReplyLost, times: 4},
			"words are late":                {pulled: 12, believed: 12, fault: brokertest.ReplyLate, times: 12},
			"the consumer is there no more": {pulled: 12, believed: 12, missing: true},
		} {
			var sequences []uint64
			for i := range 12 {
				ack, err := b.JS.Publish(t.Context(), fmt.Sprintf("fetch.dlq.fmp.batch.quote.alice.q-%d", i), nil)
				if err != nil {
					t.Fatal(err)
				}
				sequences = append(sequences, ack.Sequence)
			}
			consumer, err := b.JS.Consumer(t.Context(), wire.StreamDLQ, broker.ReplayerConsumer)
			if err != nil {
				t.Fatal(err)
			}
			batch, err := consumer.Fetch(c.pulled, jetstream.FetchMaxWait(time.Second))
			if err != nil {
				t.Fatal(err)
			}
			got := 0
			for range batch.Messages() {
				got++
			}
			if got != c.pulled {
				t.Fatalf("%d of %d were pulled", got, c.pulled)
			}
			if c.missing {
				if err := b.JS.DeleteConsumer(t.Context(), wire.StreamDLQ, broker.ReplayerConsumer); err != nil {
					t.Fatal(err)
				}
			}
			w.Break("$JS.ACK.", c.fault, c.times, 7*time.Second)
			log := record.New(js, nil)
			handed := func(sequence uint64) bool { return sequence < sequences[0]+uint64(c.believed) }
			for i, err := range log.TakeOutAll(t.Context(), "ack", wire.StreamDLQ, broker.ReplayerConsumer, sequences, handed) {
				if err != nil {
					t.Errorf("%s: message %d: %v", what, i, err)
				}
			}
			w.Mend()
			stream, err := b.JS.Stream(t.Context(), wire.StreamDLQ)
			if err != nil {
				t.Fatal(err)
			}
			if left := stream.CachedInfo().State.Msgs; left != 0 {
				t.Errorf("%s: %d are left", what, left)
			}
			if err := stream.Purge(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := b.JS.DeleteConsumer(t.Context(), wire.StreamDLQ, broker.ReplayerConsumer); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
				t.Fatal(err)
			}
			if err := broker.ServeDLQ(t.Context(), b.JS); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Nobody is left waiting for words that can no longer come.
func TestWordsOfSeveralEndWithTheContext(t *testing.T) {
	wired(t, func(t *testing.T, _ *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
		log := record.New(js, nil)
		w.Break("fetch.", brokertest.RequestLost, 1<<20, 0)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		a := named(ok(1), "nobody")
		for _, err := range log.PutAll(ctx, []record.Entry{{Slot: slotOf(a.Identity), Message: &nats.Msg{Subject: "fetch.put.fmp.quote.alice.nobody"}}}) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
