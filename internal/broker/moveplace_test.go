package broker_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go/jetstream"
)

// A subscriber's durable consumer goes on at the new place where it was at the
// old one, whatever was done with it since its stream was copied: nothing is
// left out, and nothing comes again that was acknowledged without a gap.
func TestASubscribersPlaceMovesAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := brokertest.Start(t)
		defer from.Stop()
		stored := 0
		answers := func(n int) {
			for range n {
				stored++
				if _, err := from.JS.Publish(t.Context(), fmt.Sprint("fetch.put.fmp.quote.alice.q-", stored), nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		subscribe := func(name string, policy jetstream.DeliverPolicy, subject string) {
			_, err := from.JS.CreateConsumer(t.Context(), fetchworker.StreamResults, jetstream.ConsumerConfig{
				Durable: name, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: policy, FilterSubject: subject, MaxDeliver: -1,
				Metadata: map[string]string{"whose": "theirs"},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		// acks takes so many, and acknowledges those of these sequences.
		acks := func(name string, take int, which ...uint64) {
			for _, m := range taken(t, from.JS, name, take) {
				if meta, err := m.Metadata(); err != nil || slices.Contains(which, meta.Sequence.Stream) && m.DoubleAck(t.Context()) != nil {
					t.Fatal(err)
				}
			}
		}
		answers(8)
		subscribe("reports", jetstream.DeliverAllPolicy, "fetch.result.>")
		subscribe("never", jetstream.DeliverAllPolicy, "")
		subscribe("holes", jetstream.DeliverAllPolicy, "fetch.result.fmp.>")
		subscribe("newest", jetstream.DeliverNewPolicy, "")
		subscribe("gone", jetstream.DeliverAllPolicy, "")
		answers(2)
		acks("reports", 4, 1, 2, 3, 4)
		acks("holes", 6, 1, 2, 5)
		acks("newest", 1, 9)

		to, err := broker.Embed(broker.EmbedOptions{DataDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer to.Shutdown()
		nc, err := to.Connect()
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		meanwhile := false
		m := broker.Move{From: from.JS, To: js, Name: "there", Replicas: 1, Tell: func(stream, _ string) {
			if stream != fetchworker.StreamResults || meanwhile {
				return
			}
			// Nothing of this changes what the stream holds.
			meanwhile = true
			acks("reports", 4, 5, 6, 7)
			subscribe("late", jetstream.DeliverAllPolicy, "")
			acks("late", 10, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		}}
		if err := m.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !meanwhile {
			t.Fatal("nothing was done meanwhile")
		}
		for name, want := range map[string][]uint64{
			"reports": {8, 9, 10},
			"never":   {1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
			"holes":   {3, 4, 6, 7, 8, 9, 10}, // nobody touched it: it stands as it stood
			"newest":  {10},
			"late":    {10},
		} {
			old, err := from.JS.Consumer(t.Context(), fetchworker.StreamResults, name)
			if err != nil {
				t.Fatal(err)
			}
			young, err := js.Consumer(t.Context(), fetchworker.StreamResults, name)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if is, was := fmt.Sprintf("%+v", young.CachedInfo().Config), fmt.Sprintf("%+v", old.CachedInfo().Config); is != was {
				t.Errorf("%s is %s, and was %s", name, is, was)
			}
			var got []uint64
			for _, m := range taken(t, js, name, 20) {
				meta, err := m.Metadata()
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, meta.Sequence.Stream)
				if err := m.DoubleAck(t.Context()); err != nil {
					t.Error(err)
				}
			}
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, want) {
				t.Errorf("%s goes on with %v, want %v", name, got, want)
			}
		}
		// A move that has ended does nothing to whoever works there by now.
		if err := m.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := taken(t, js, "reports", 20); len(left) != 0 {
			t.Errorf("%d come again", len(left))
		}
	})
}

// taken is what a consumer hands out within a minute, so many at the most.
func taken(t *testing.T, js jetstream.JetStream, name string, most int) (all []jetstream.Msg) {
	t.Helper()
	consumer, err := js.Consumer(t.Context(), fetchworker.StreamResults, name)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := consumer.Fetch(most, jetstream.FetchMaxWait(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	for m := range batch.Messages() {
		all = append(all, m)
	}
	if err := batch.Error(); err != nil && !errors.Is(err, jetstream.ErrMaxBytesExceeded) {
		t.Fatal(err)
	}
	return all
}
