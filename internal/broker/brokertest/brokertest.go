// Package brokertest starts a real nats-server with the real topology for a
// test, on the wall clock or inside a testing/synctest bubble.
package brokertest

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Main is to be called first in TestMain of a package that uses bubbles: the
// server's access-time ticker must start outside of any bubble, or the
// bubble's clock would never move.
func Main() {
	ats.Register()
	inMemory()
	if os.Getenv("GOGC") == "" {
		// A server and what uses it are a heap of a few megabytes, which would be
		// collected again and again: up to a fifth of what the tests take.
		debug.SetGCPercent(400)
	}
}

// Sampled reports whether a case of many alike is among those of the short
// form: one of so many, others each time. The whole form has them all.
func Sampled(oneOf int) bool {
	return !testing.Short() || rand.IntN(oneOf) == 0 //nolint:gosec // it is no secret
}

// Broker is a server with the topology applied.
type Broker struct {
	Server *broker.Embedded
	NC     *nats.Conn
	JS     jetstream.JetStream
	KV     jetstream.KeyValue // fetch_providers
	dir    string
	listen string
	runs   atomic.Pointer[broker.Embedded] // the server, while it does

	ageless bool
}

// Start starts a server that is reached in-process only and stops it when
// the test ends. Inside a bubble call Stop before the bubble ends.
func Start(t testing.TB) *Broker {
	t.Helper()
	b := StartIn(t, t.TempDir(), "")
	t.Cleanup(b.Stop)
	return b
}

// StartIn is Start with a data directory of the caller's, and a loopback
// address to listen on as well; the caller stops it.
func StartIn(t testing.TB, dir, listen string) *Broker {
	t.Helper()
	b := &Broker{dir: dir, listen: listen}
	b.start(t)
	return b
}

// Of is a server that somebody else has started, and stops.
func Of(server *broker.Embedded) *Broker {
	b := &Broker{Server: server}
	b.runs.Store(server)
	return b
}

func (b *Broker) start(t testing.TB) {
	t.Helper()
	forgetTimers()
	var err error
	// Tests kill processes, not machines: the lazy sync is enough and fast.
	if b.Server, err = broker.Embed(broker.EmbedOptions{DataDir: b.dir, Listen: b.listen, Sync: time.Minute}); err != nil {
		t.Fatal(err)
	}
	b.runs.Store(b.Server)
	b.NC = b.Connect(t)
	if b.JS, err = broker.JetStream(b.NC); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) //nolint:usetesting // a restart may come in a cleanup
	defer cancel()
	if err := broker.Apply(ctx, b.JS, broker.Options{ResultAge: forLong, Ages: map[string]time.Duration{wire.StreamUsage: forLong}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := broker.ServeDLQ(ctx, b.JS); err != nil {
		t.Fatal(err)
	}
	if b.KV, err = b.JS.KeyValue(ctx, wire.BucketProviders); err != nil {
		t.Fatal(err)
	}
	if b.ageless {
		b.Ageless(t)
	}
}

// Ageless lets answers and cached bodies live for ever in a bubble: where one
// message has a time to live the server looks for old ones too, by a clock
// outside of the bubble, and finds that all are.
func (b *Broker) Ageless(t testing.TB) {
	t.Helper()
	b.ageless = true
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) //nolint:usetesting // as above
	defer cancel()
	for _, name := range []string{fetchworker.StreamResults, "KV_" + wire.BucketCache} {
		stream, err := b.JS.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		config := stream.CachedInfo().Config
		config.MaxAge = 0
		if _, err := b.JS.UpdateStream(ctx, config); err != nil {
			t.Fatal(err)
		}
	}
}

// forLong is how long answers are kept in tests. The server compares ages with
// a clock that is outside of every bubble: one that begins in the year 2000
// would lose all its answers at the first look.
const forLong = 100 * 365 * 24 * time.Hour

// Connect opens one more connection, for a second worker or an agent.
func (b *Broker) Connect(t testing.TB) *nats.Conn {
	t.Helper()
	nc, err := b.Server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

// Stop closes the connection and the server. It may be called twice.
func (b *Broker) Stop() {
	if b.Server == nil {
		return
	}
	b.NC.Close()
	b.runs.Store(nil)
	b.Server.Shutdown()
	b.Server = nil
}

// Forget has a server that is stopped forget what the consumers of a stream gave
// out, and what of it was acknowledged: as one does that is killed before it has
// written it down.
func (b *Broker) Forget(t testing.TB, stream string) {
	t.Helper()
	states, err := filepath.Glob(filepath.Join(b.dir, "jetstream", "$G", "streams", stream, "obs", "*", "o.dat"))
	if err != nil || len(states) == 0 {
		t.Fatalf("%s has no states of consumers: %v", stream, err)
	}
	for _, state := range states {
		if err := os.Remove(state); err != nil {
			t.Fatal(err)
		}
	}
}

// Restart starts the server again after Stop, with what it had stored.
func (b *Broker) Restart(t testing.TB) {
	t.Helper()
	b.start(t)
}

// forgetTimers empties the client library's pool of timers. A connection takes
// one of them when it comes back, and one of another bubble would end this one.
// What a pool has left over is gone after two collections.
func forgetTimers() {
	runtime.GC()
	runtime.GC()
}

// given are the ports that FreePort gave out: most are not listened on yet.
var given sync.Map

// FreePort is a port of the loopback address that nobody listens on. It is
// below those that the system gives out by itself, so that nothing else gets
// it before its server starts, or while that is down.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20_000 + rand.IntN(10_000) //nolint:gosec // it is no secret
		ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		if _, again := given.LoadOrStore(port, true); !again {
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}
