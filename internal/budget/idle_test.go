package budget

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/wait"
)

// idleFleet is workers that have nothing to do, each with a gate for each of
// many providers.
type idleFleet struct {
	gates   []*Gate
	mirrors []*store.Mirror
	views   []*fleet.View
	beats   []func(context.Context) // until it ends, a worker says that it lives
}

const idleWorkers = 50

func openIdle(t *testing.T, connect func() (jetstream.JetStream, jetstream.KeyValue), providers int) *idleFleet {
	t.Helper()
	f := &idleFleet{}
	_, kv := connect()
	var names []string
	for i := range providers {
		names = append(names, fmt.Sprintf("p%d", i))
		if err := CreateRegister(t.Context(), kv, names[i]); err != nil {
			t.Fatal(err)
		}
	}
	for w := range idleWorkers {
		js, kv := connect()
		worker := fleet.Worker{Name: fmt.Sprintf("w%d", w), Version: "v1", Providers: names}
		mirror, err := store.NewMirror(t.Context(), js, kv, nil, fleet.OwnKeys(worker.Name)...)
		if err != nil {
			t.Fatal(err)
		}
		view := fleet.Consult(js, kv, mirror)
		f.mirrors, f.views = append(f.mirrors, mirror), append(f.views, view)
		lives := fleet.Presence{Worker: worker, Mirror: mirror, Busy: func() bool { return false }}
		f.beats = append(f.beats, func(ctx context.Context) {
			time.Sleep(time.Duration(rand.Int64N(int64(10 * time.Second)))) // they start when they start
			lives.Run(ctx, js, kv, func(err error) { t.Error(err) })
		}, func(ctx context.Context) {
			for wait.For(ctx, time.Minute) == nil {
				if err := view.Bury(ctx, kv); err != nil {
					t.Error(err)
				}
			}
		})
		for _, name := range names {
			g, err := Open(t.Context(), js, kv, Settings{Provider: name, Worker: worker.Name, Limits: perMinute(60), CircuitFailures: 3, Mirror: mirror}, nil)
			if err != nil {
				t.Fatal(err)
			}
			f.gates = append(f.gates, g)
		}
	}
	return f
}

// beat says that all live, until it is told to stop.
func (f *idleFleet) beat(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	for _, beat := range f.beats {
		all.Go(func() { beat(ctx) })
	}
	return func() {
		cancel()
		all.Wait()
	}
}

func (f *idleFleet) close() {
	for _, g := range f.gates {
		g.Close()
	}
	for _, v := range f.views {
		v.Close()
	}
	for _, m := range f.mirrors {
		m.Close()
	}
}

// TestIdleFleet: workers that have nothing to do cost the server next to
// nothing, however many providers there are.
func TestIdleFleet(t *testing.T) {
	providers := 20
	if *simFull {
		providers = 200
	}
	bubble(t, func(t *testing.T, b *bench) {
		f := openIdle(t, b.connect, providers)
		stop := f.beat(t.Context())
		time.Sleep(90 * time.Second) // in the first of them each looks for ghosts
		synctest.Wait()
		stream, err := b.js.Stream(t.Context(), "KV_"+store.Bucket)
		if err != nil {
			t.Fatal(err)
		}
		consumers := stream.CachedInfo().State.Consumers
		if consumers > 60 {
			t.Errorf("%d consumers on the bucket", consumers)
		}
		const long = 4 * time.Minute
		before, err := b.server.Varz(nil)
		if err != nil {
			t.Fatal(err)
		}
		for range int(long / (15 * time.Second)) {
			for _, g := range f.gates {
				g.State() // a scrape is not a question
			}
			time.Sleep(15 * time.Second)
		}
		after, err := b.server.Varz(nil)
		if err != nil {
			t.Fatal(err)
		}
		rate := float64(after.InMsgs+after.OutMsgs-before.InMsgs-before.OutMsgs) / long.Seconds()
		if rate >= 20 {
			t.Errorf("%.1f messages a second", rate)
		}
		if n := len(f.views[0].Workers()); n != idleWorkers {
			t.Errorf("whoever asks is told of %d workers", n)
		}
		t.Logf("%d workers, %d providers: %d consumers, %.1f messages a second", idleWorkers, providers, consumers, rate)
		stop()
		f.close()
	})
}

// TestIdleServer: the CPU that the same fleet costs a server of its own.
func TestIdleServer(t *testing.T) {
	if !*simFull {
		t.Skip("measures for a minute")
	}
	const providers, long, most = 200, 30 * time.Second, 0.02
	server := startServer(t)
	f := openIdle(t, server.connect, providers)
	stop := f.beat(t.Context())
	time.Sleep(long / 3) // opening costs more
	before, began := server.cpu(), time.Now()
	time.Sleep(long)
	share := float64(server.cpu()-before) / float64(time.Since(began))
	t.Logf("%d workers, %d providers: the server uses %.2f %% of a core", idleWorkers, providers, share*100)
	if share >= most {
		t.Errorf("more than %.0f %% of a core", most*100.)
	}
	stop()
	f.close()
}
