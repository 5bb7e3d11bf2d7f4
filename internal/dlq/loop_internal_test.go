package dlq

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// inside runs a test with a replayer that does not run yet, in front of a server
// on which a worker serves fmp.
func inside(t *testing.T, test func(t *testing.T, b *brokertest.Broker, r *Replayer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.Start(t)
		defer b.Stop()
		b.Ageless(t)
		board, err := fleet.Watch(t.Context(), b.JS, b.KV)
		if err != nil {
			t.Fatal(err)
		}
		defer board.Close()
		if _, err := b.JS.CreateOrUpdateConsumer(t.Context(), wire.StreamReplay, broker.ReplaysConsumer("fmp", 16)); err != nil {
			t.Fatal(err)
		}
		lives, end := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer end()
		running.Go(func() {
			fleet.Present(lives, b.JS, b.KV, fleet.Worker{Name: "w", Providers: []string{"fmp"}}, func(err error) { t.Error(err) })
		})
		time.Sleep(time.Second)
		test(t, b, NewReplayer(b.JS, record.New(b.JS, nil), board, Config{
			Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer,
			Retries: 3, MaxLife: time.Hour, Logger: zap.NewNop(),
		}))
	})
}

// put stores due letters.
func put(t *testing.T, b *brokertest.Broker, ids ...string) {
	t.Helper()
	for _, id := range ids {
		l := Letter{
			Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: id}, Lane: fetchworker.LaneBatch,
			Body: []byte(`{}`), Generation: 1, Class: wire.ClassPaused, RequestedAt: time.Now(), FailedAt: time.Now(), NotBefore: time.Now(),
		}
		if _, err := b.JS.PublishMsg(t.Context(), l.DeadLetter()); err != nil {
			t.Fatal(err)
		}
	}
}

// However a letter was released, and whether it was, nothing of it is held in
// memory any more.
func TestNothingIsKeptOfWhatIsReleased(t *testing.T) {
	inside(t, func(t *testing.T, b *brokertest.Broker, r *Replayer) {
		// What waits for a gate is read when that opens, what comes later is met.
		if err := fleet.Pause(t.Context(), b.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		put(t, b, "q-1", "q-2", "q-3", "q-4", "q-5")
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(10 * time.Second)
		if err := fleet.Resume(t.Context(), b.KV, "fmp"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		put(t, b, "q-6", "q-7")
		time.Sleep(10 * time.Second)
		stop()
		running.Wait()
		stream, err := b.JS.Stream(t.Context(), wire.StreamDLQ)
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.Msgs; n != 0 || len(r.drains.claimed) != 0 {
			t.Errorf("%d letters are left, %d are held as being released", n, len(r.drains.claimed))
		}
	})
}

// A letter that makes the decision on it panic is set aside as one is that makes
// an act panic.
func TestALetterThatCannotBeDecidedOnIsSetAside(t *testing.T) {
	inside(t, func(t *testing.T, b *brokertest.Broker, r *Replayer) {
		put(t, b, "q-1", "q-2")
		consumer, err := b.JS.Consumer(t.Context(), wire.StreamDLQ, broker.ReplayerConsumer)
		if err != nil {
			t.Fatal(err)
		}
		met := map[string]int{}
		pull := func() {
			err := r.pull(t.Context(), consumer, func(l *held) {
				if met[l.ID]++; l.ID == "q-1" {
					panic("this letter is the one")
				}
				if err := l.ack(t.Context(), r.log); err != nil {
					t.Error(err)
				}
			})
			if err != nil {
				t.Error(err)
			}
		}
		for began := time.Now(); time.Since(began) < setAside-time.Minute; {
			pull()
		}
		if met["q-1"] != 1 || met["q-2"] != 1 {
			t.Errorf("they were met %v times", met)
		}
		for range 30 {
			pull()
		}
		if met["q-1"] != 2 || met["q-2"] != 1 {
			t.Errorf("a while later they were met %v times", met)
		}
	})
}

// What a provider's queue has room for is shared by those who release, and what
// its workers have in their hands counts.
func TestRoomIsSharedAndCounted(t *testing.T) {
	inside(t, func(t *testing.T, b *brokertest.Broker, r *Replayer) {
		left := func(want int, what string) {
			t.Helper()
			time.Sleep(2 * roomLasts)
			if got, err := r.rooms.left(t.Context(), "fmp"); err != nil || got != want {
				t.Errorf("%s: there is room for %d, want %d: %v", what, got, want, err)
			}
		}
		const room = 2 * 16
		left(room, "nothing waits")
		release := func(ids ...string) {
			for _, id := range ids {
				l := Letter{Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: id}, Lane: fetchworker.LaneBatch, Body: []byte(`{}`)}
				if _, err := b.JS.PublishMsg(t.Context(), l.Replayed()); err != nil {
					t.Fatal(err)
				}
			}
		}
		release("q-1", "q-2", "q-3", "q-4", "q-5")
		left(room-5, "five wait")
		worker, err := b.JS.Consumer(t.Context(), wire.StreamReplay, broker.ReplayConsumer("fmp"))
		if err != nil {
			t.Fatal(err)
		}
		taken, err := worker.Fetch(3)
		if err != nil {
			t.Fatal(err)
		}
		var first jetstream.Msg
		for m := range taken.Messages() {
			if first == nil {
				first = m
			}
		}
		left(room-5, "of five a worker has three")
		if err := first.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
		left(room-4, "one is done")

		letters, err := b.JS.Consumer(t.Context(), wire.StreamDLQ, broker.ReplayerConsumer)
		if err != nil {
			t.Fatal(err)
		}
		var pulls sync.WaitGroup
		defer pulls.Wait()
		for range 3 {
			pulls.Go(func() {
				batch, err := letters.Fetch(1, jetstream.FetchMaxWait(20*time.Second))
				if err != nil {
					t.Error(err)
					return
				}
				for range batch.Messages() {
					t.Error("there is a letter")
				}
			})
		}
		left(10, "of three who release each has its part of 28")
		if err := b.JS.DeleteConsumer(t.Context(), wire.StreamReplay, broker.ReplayConsumer("fmp")); err != nil {
			t.Fatal(err)
		}
		left(10, "and so has each while the workers rest")
	})
}

// That no letter is there is believed for a while of who has all of them before it:
// not of a copy, which may lag, nor while any is waited for or in somebody's hands.
func TestWhoSaysThatNoLetterIsThere(t *testing.T) {
	copies := &jetstream.ClusterInfo{Name: "c", Leader: "n1", Replicas: []*jetstream.PeerInfo{{Name: "n2"}}}
	for name, c := range map[string]struct {
		info jetstream.ConsumerInfo
		want bool
	}{
		"none":             {jetstream.ConsumerInfo{}, true},
		"none at one":      {jetstream.ConsumerInfo{Cluster: &jetstream.ClusterInfo{Leader: "n1"}}, true},
		"one is to come":   {jetstream.ConsumerInfo{NumPending: 1}, false},
		"one is in hands":  {jetstream.ConsumerInfo{NumAckPending: 1}, false},
		"a copy":           {jetstream.ConsumerInfo{Cluster: copies}, false},
		"one of a cluster": {jetstream.ConsumerInfo{Cluster: &jetstream.ClusterInfo{Name: "c", Leader: "n1"}}, false},
	} {
		if got := none(&c.info); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
