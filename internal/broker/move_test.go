package broker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// What a cluster leaves of a restore that was broken off, a stream with the mark
// and without its messages, is no copy.
func TestAMarkWithoutMessagesIsNoCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := brokertest.Start(t)
		defer from.Stop()
		if _, err := from.JS.Publish(t.Context(), "fetch.dlq.fmp.batch.quote.alice.q-1", []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
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
		_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{
			Name: wire.StreamDLQ, Subjects: []string{"fetch.dlq.>"}, Retention: jetstream.WorkQueuePolicy, Metadata: map[string]string{"fetchworker.moving": "1"},
		})
		if err != nil {
			t.Fatal(err)
		}
		m := broker.Move{From: from.JS, To: js, Name: "there", Replicas: 1, Tell: func(string, string) {}}
		if err := m.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(t.Context(), wire.StreamDLQ)
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.Msgs; n != 1 {
			t.Errorf("%d letters have come", n)
		}
	})
}

// Nor is what it leaves of a stream without messages: its mark is that of a copy
// that has not ended.
func TestARestoreThatWasBrokenOffIsNoCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := brokertest.Start(t)
		defer from.Stop()
		to, err := broker.Embed(broker.EmbedOptions{DataDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer to.Shutdown()
		there := &brokertest.Wire{}
		nc := brokertest.Of(to).ConnectThrough(t, there)
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		// Killed between the restore and its mark.
		ctx, kill := context.WithCancel(t.Context())
		there.Break("STREAM.UPDATE."+wire.StreamReplay, brokertest.RequestLost, 1, 0)
		held := false
		told := map[string]int{}
		m := broker.Move{From: from.JS, To: js, Name: "there", Replicas: 1, Tell: func(stream, _ string) {
			if told[stream]++; !held {
				held = true
				time.AfterFunc(time.Second, kill)
			}
		}}
		if err := m.Run(ctx); err == nil || told[wire.StreamReplay] != 0 {
			t.Fatalf("%v, %v", told, err)
		}
		stream, err := js.Stream(t.Context(), wire.StreamReplay)
		if err != nil {
			t.Fatal(err)
		}
		left := stream.CachedInfo()
		if err := m.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if stream, err = js.Stream(t.Context(), wire.StreamReplay); err != nil || !stream.CachedInfo().Created.After(left.Created) || told[wire.StreamReplay] != 1 {
			t.Errorf("what was left is taken for a copy: %v, %v", told, err)
		}
	})
}

// A server that does not answer a step of a move for a while does not end it.
func TestAMoveIsPatient(t *testing.T) {
	for _, c := range []struct {
		part string
		old  bool // the old server, not the new one
	}{
		{"STREAM.RESTORE." + wire.StreamAudit, false},
		{"STREAM.INFO." + wire.StreamReview, false},
		{"STREAM.UPDATE." + fetchworker.StreamEvents, false},
		{"STREAM.UPDATE." + fetchworker.StreamRequests, true},
		{"STREAM.SNAPSHOT." + wire.StreamAudit, true},
	} {
		t.Run(c.part, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from := brokertest.Start(t)
				defer from.Stop()
				if _, err := from.JS.Publish(t.Context(), "fetch.request.fmp.batch.quote.alice", []byte(`{"id":"q-1"}`)); err != nil {
					t.Fatal(err)
				}
				to, err := broker.Embed(broker.EmbedOptions{DataDir: t.TempDir()})
				if err != nil {
					t.Fatal(err)
				}
				defer to.Shutdown()
				connect := func(b *brokertest.Broker, faulty *brokertest.Wire) jetstream.JetStream {
					nc := b.ConnectThrough(t, faulty)
					t.Cleanup(nc.Close)
					js, err := jetstream.New(nc)
					if err != nil {
						t.Fatal(err)
					}
					return js
				}
				here, there := &brokertest.Wire{}, &brokertest.Wire{}
				old, js := connect(from, here), connect(brokertest.Of(to), there)
				faulty := there
				if c.old {
					faulty = here
				}
				faulty.Break(c.part, brokertest.RequestLost, 1, 0)
				m := broker.Move{From: old, To: js, Name: "there", Replicas: 1, Tell: func(string, string) {}}
				if err := m.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				if faulty.Met() != 1 {
					t.Error("nothing was lost")
				}
				for _, name := range []string{fetchworker.StreamRequests, wire.StreamAudit, wire.StreamReview, fetchworker.StreamEvents} {
					stream, err := js.Stream(t.Context(), name)
					if err != nil {
						t.Fatal(err)
					}
					if info := stream.CachedInfo(); info.Config.Metadata["fetchworker.moving"] != "" || name == fetchworker.StreamRequests && info.State.Msgs != 1 {
						t.Errorf("%s: %+v", name, info)
					}
				}
			})
		})
	}
}
