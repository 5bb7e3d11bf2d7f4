package budget

import (
	"errors"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/budget/circuit"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"fetchworker"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverDir); dir != "" {
		beServer(dir)
		return
	}
	// The server's access-time ticker must start outside of every bubble, or
	// it would keep the bubbles' clocks from moving.
	ats.Register()
	if os.Getenv("GOGC") == "" && !underRace {
		debug.SetGCPercent(400) // the simulations leave much behind, and hold little
	}
	code := m.Run()
	ats.Unregister()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			println(err.Error())
			code = 1
		}
	}
	os.Exit(code) //nolint:forbidigo // a TestMain that looks for leaks must
}

// bubble runs a test on fake time with a real server.
func bubble(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, dir: dir}
		b.start()
		defer func() { // also when the test gives up: nothing may be left in the bubble
			for _, g := range b.gates {
				g.Close()
			}
			for _, nc := range b.conns {
				nc.Close()
			}
			b.stop()
		}()
		b.js, b.kv = b.connect()
		test(t, b)
	})
}

func (b *bench) start() {
	b.Helper()
	if b.server != nil {
		// Clients will reconnect, with a timer of the library's pool: one of
		// another bubble would end this one. A collection empties what the one
		// before it has left over.
		runtime.GC()
		runtime.GC()
	}
	s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: b.dir, NoSigs: true, NoLog: true})
	if err != nil {
		b.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		b.Fatal("the server does not start")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.server = s
}

func (b *bench) stop() {
	b.server.Shutdown()
	b.server.WaitForShutdown()
}

// InProcessConn connects to the server of now: it may be started again.
func (b *bench) InProcessConn() (net.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.server.InProcessConn()
}

// bench is a fleet's shared state and its gates.
type bench struct {
	*testing.T
	dir    string
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
	nc, err := nats.Connect("", nats.InProcessServer(b), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // it prints by default
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
		Bucket: store.Bucket, History: 1, Storage: jetstream.FileStorage, LimitMarkerTTL: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: store.CounterStream, Subjects: []string{"fetch.budget.>"}, AllowMsgCounter: true, AllowDirect: true, MaxMsgsPerSubject: 1,
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
	s := Settings{Provider: "fmp", Worker: worker, CircuitFailures: 3, CircuitOpen: time.Minute, Limits: perMinute(120)}
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

// told counts the events of a kind that somebody would publish.
func (b *bench) told(kind string, want func(Event) bool) (n int) {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if e.Kind == kind && e.Mine && want(e) {
			n++
		}
	}
	return n
}

// start takes a permit to the point where the request would be written.
func (b *bench) begin(g *Gate, a turns.Ask) *Permit {
	b.Helper()
	p, err := g.Acquire(b.Context(), a)
	if err != nil {
		b.Fatal(err)
	}
	if err := p.Start(); err != nil {
		b.Fatal(err)
	}
	return p
}

// asks is alice's, for a quote.
func asks(request string) turns.Ask {
	return turns.Ask{Call: circuit.Call{Operation: "quote", Agent: "alice", Key: request}}
}

// call makes a whole call.
func (b *bench) call(g *Gate, o Outcome, request string) {
	b.Helper()
	b.begin(g, asks(request)).Done(Report{Outcome: o, Remaining: -1})
	settle()
}

// settle lets what is on its way between workers and server arrive.
func settle() {
	time.Sleep(20 * time.Millisecond)
	synctest.Wait()
}

// refused asserts that a gate is closed for a reason, and returns until when.
func (b *bench) refused(g *Gate, reason fetchworker.Reason) time.Time {
	b.Helper()
	p, err := g.Acquire(b.Context(), asks("a"))
	var closed *ClosedError
	if !errors.As(err, &closed) || closed.Reason != reason {
		b.Fatalf("got permit %v, error %v; want closed, %s", p != nil, err, reason)
	}
	return closed.Until
}

// about asserts a moment, to a second.
func (b *bench) about(got, want time.Time) {
	b.Helper()
	if d := got.Sub(want); max(d, -d) > time.Second {
		b.Errorf("%v, want %v", got, want)
	}
}
