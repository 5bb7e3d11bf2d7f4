package budget

import (
	"context"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The server's access-time ticker must start outside of every bubble, or
	// it would keep the bubbles' clocks from moving.
	ats.Register()
	code := m.Run()
	ats.Unregister()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			println(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}

// bubble runs a test on fake time with a real server.
func bubble(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		b := &bench{T: t, server: s}
		b.js, b.kv = b.connect()
		test(t, b)
		for _, g := range b.gates {
			g.Close()
		}
		for _, nc := range b.conns {
			nc.Close()
		}
		s.Shutdown()
		s.WaitForShutdown()
	})
}

// bench is a fleet's shared state and its gates.
type bench struct {
	*testing.T
	server *server.Server
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	conns  []*nats.Conn
	gates  []*Gate

	mu     sync.Mutex
	events []Event
}

func (b *bench) connect() (jetstream.JetStream, jetstream.KeyValue) {
	b.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(b.server))
	if err != nil {
		b.Fatal(err)
	}
	b.conns = append(b.conns, nc)
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	kv := topology(b, js)
	return js, kv
}

func topology(t testing.TB, js jetstream.JetStream) jetstream.KeyValue {
	t.Helper()
	ctx := t.Context()
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: Bucket, History: 1, Storage: jetstream.FileStorage, LimitMarkerTTL: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: BytesStream, Subjects: []string{"fetch.budget.>"}, AllowMsgCounter: true, AllowDirect: true, MaxMsgsPerSubject: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

// open opens a gate; the provider is fmp, and its register is created.
func (b *bench) open(worker string, edit func(*Settings)) *Gate {
	b.Helper()
	if err := CreateRegister(b.Context(), b.kv, "fmp"); err != nil {
		b.Fatal(err)
	}
	s := Settings{Provider: "fmp", Worker: worker, CircuitFailures: 3, CircuitOpen: time.Minute, Limits: Limits{{N: 120, Per: time.Minute}}}
	if edit != nil {
		edit(&s)
	}
	js, kv := b.connect()
	g, err := Open(b.Context(), js, kv, s, func(e Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, e)
	})
	if err != nil {
		b.Fatal(err)
	}
	b.gates = append(b.gates, g)
	return g
}

// call makes one call through a gate and says when it started.
func (b *bench) call(ctx context.Context, g *Gate, a Ask, r Report) (time.Time, error) {
	b.Helper()
	p, err := g.Acquire(ctx, a)
	if err != nil {
		return time.Time{}, err
	}
	defer p.Done(r)
	return time.Now(), p.Start()
}
