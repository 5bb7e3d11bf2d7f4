package broker_test

import (
	"context"
	"errors"
	"fmt"
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

// place is another server, empty.
func place(t *testing.T) (js jetstream.JetStream, end func()) {
	t.Helper()
	to, err := broker.Embed(broker.EmbedOptions{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := to.Connect()
	if err != nil {
		t.Fatal(err)
	}
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	return js, func() { nc.Close(); to.Shutdown() }
}

// holds is how many messages a stream has; none where there is no such stream.
func holds(t *testing.T, js jetstream.JetStream, name string) uint64 {
	t.Helper()
	stream, err := js.Stream(t.Context(), name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().State.Msgs
}

func released(t *testing.T, js jetstream.JetStream, id string) {
	t.Helper()
	if _, err := js.Publish(t.Context(), "fetch.replay.fmp.batch.quote.alice."+id, []byte(`{}`)); err != nil {
		t.Error(err)
	}
}

// A move overwrites nothing, goes to one place, and is over when nothing of any
// stream has changed since it was copied.
func TestAMoveLosesNothing(t *testing.T) {
	silent := func(string, string) {}
	move := func(t *testing.T, from, to jetstream.JetStream, name string, tell func(stream, did string)) error {
		t.Helper()
		m := broker.Move{From: from, To: to, Name: name, Replicas: 1, Tell: tell}
		return m.Run(t.Context())
	}
	for name, test := range map[string]func(t *testing.T, from *brokertest.Broker, to jetstream.JetStream){
		"the new place holds something": func(t *testing.T, from *brokertest.Broker, to jetstream.JetStream) {
			if _, err := to.CreateStream(t.Context(), jetstream.StreamConfig{Name: wire.StreamAudit, Subjects: []string{"fetch.audit.*.*"}}); err != nil {
				t.Fatal(err)
			}
			if _, err := to.Publish(t.Context(), "fetch.audit.pause.fmp", []byte(`{}`)); err != nil {
				t.Fatal(err)
			}
			if err := move(t, from.JS, to, "there", silent); !errors.Is(err, broker.ErrOccupied) || holds(t, to, wire.StreamAudit) != 1 {
				t.Errorf("%d lines are left of one: %v", holds(t, to, wire.StreamAudit), err)
			}
		},
		"all is on its way to another place": func(t *testing.T, from *brokertest.Broker, to jetstream.JetStream) {
			elsewhere, end := place(t)
			defer end()
			if err := move(t, from.JS, elsewhere, "elsewhere", silent); err != nil {
				t.Fatal(err)
			}
			if err := move(t, from.JS, to, "there", silent); !errors.Is(err, broker.ErrMoved) || holds(t, to, wire.StreamReplay) != 0 {
				t.Errorf("moved to a second place: %v", err)
			}
		},
		"work went on here after an earlier move": func(t *testing.T, from *brokertest.Broker, to jetstream.JetStream) {
			elsewhere, end := place(t)
			defer end()
			if err := move(t, from.JS, elsewhere, "elsewhere", silent); err != nil {
				t.Fatal(err)
			}
			if err := broker.Apply(t.Context(), from.JS, broker.Options{}, nil); !errors.Is(err, broker.ErrMoved) {
				t.Errorf("work begins where all was moved away: %v", err)
			}
			if err := broker.Apply(t.Context(), from.JS, broker.Options{Return: true}, nil); err != nil {
				t.Fatal(err)
			}
			released(t, from.JS, "q-2")
			if err := move(t, from.JS, to, "there", silent); err != nil || holds(t, to, wire.StreamReplay) != 2 {
				t.Errorf("%d letters of 2 have come: %v", holds(t, to, wire.StreamReplay), err)
			}
		},
		"letters go while others are copied": func(t *testing.T, from *brokertest.Broker, to jetstream.JetStream) {
			rounds := 0
			err := move(t, from.JS, to, "there", func(stream, _ string) {
				if stream == wire.StreamDLQ && rounds < 3 {
					rounds++
					released(t, from.JS, fmt.Sprint("late-", rounds))
					if _, err := from.JS.Publish(t.Context(), "fetch.dlq.fmp.batch.quote.alice."+fmt.Sprint(rounds), []byte(`{}`)); err != nil {
						t.Error(err)
					}
				}
			})
			if err != nil || rounds != 3 || holds(t, to, wire.StreamReplay) != 4 || holds(t, to, wire.StreamDLQ) != 3 {
				t.Errorf("%d and %d letters have come of 4 and 3: %v", holds(t, to, wire.StreamReplay), holds(t, to, wire.StreamDLQ), err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from := brokertest.Start(t)
				defer from.Stop()
				to, end := place(t)
				defer end()
				released(t, from.JS, "q-1")
				test(t, from, to)
			})
		})
	}
}
