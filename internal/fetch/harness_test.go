package fetch_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/cancel"
	"fetchworker/internal/dlq"
	"fetchworker/internal/fetch"
	"fetchworker/internal/memory"
	"fetchworker/internal/providers"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/record"
	"fetchworker/internal/sweep"
	"fetchworker/internal/usage"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestMain(m *testing.M) {
	brokertest.Main()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// rig is a real server, a played provider, and as many workers as a test
// starts, all on one clock.
type rig struct {
	t        *testing.T
	b        *brokertest.Broker
	upstream *providertest.Server
	env      map[string]string
	circuit  int
	open     time.Duration
	maxLife  time.Duration
	logs     *lockedBuffer
	rest     time.Duration      // 0: as in production; else consumers go as soon, too
	earlier  bool               // start workers that ask all consumers for ever, as earlier versions do
	memory   *memory.Budget     // of large bodies; nil: no bound
	dial     providers.DialFunc // nil: the upstream's own
	wire     *brokertest.Wire   // between workers and the server; nil: none

	mu   sync.Mutex
	seen []budget.Event // that somebody would publish

	gates []*budget.Gate // of all workers that were started

	// Of the worker started last.
	registry *prometheus.Registry
	serving  []fetch.Served
	worker   *fetch.Worker
}

// inBubble runs a test with a rig on a clock of its own.
func inBubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dir, providertest.Pipe("upstream.test"))
		test(t, r)
		r.close()
	})
}

func newRig(t *testing.T, dir string, upstream *providertest.Server) *rig {
	t.Helper()
	r := &rig{
		t: t, b: brokertest.StartIn(t, dir, ""), upstream: upstream,
		env: map[string]string{
			"FMP_API_KEY": "fmp-key-0123456789", "FMP_BASE_URL": upstream.URL() + "/api/v3", "FMP_REQUESTS_PER_MINUTE": "0",
		},
		circuit: 3, open: 60 * time.Second, maxLife: 72 * time.Hour,
		logs: new(lockedBuffer),
	}
	r.b.Ageless(t)
	return r
}

func (r *rig) close() {
	r.upstream.Close()
	r.b.Stop()
}

// start starts a worker; the returned function stops it and waits.
func (r *rig) start(hook record.Hook) (stop func()) {
	r.t.Helper()
	_, stop = r.startWorker(hook)
	return stop
}

func (r *rig) startWorker(hook record.Hook) (*nats.Conn, func()) {
	t := r.t
	t.Helper()
	var nc *nats.Conn
	if r.wire != nil {
		nc = r.b.ConnectThrough(t, r.wire)
	} else {
		nc = r.b.Connect(t)
	}
	js, err := broker.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stopping := context.WithCancel(context.Background())
	kv, err := js.KeyValue(ctx, wire.BucketProviders)
	if err != nil {
		t.Fatal(err)
	}
	dial := r.dial
	if dial == nil {
		dial = r.upstream.DialContext
	}
	set, err := providers.Load(func(name string) string { return r.env[name] }, providers.WithDial(dial))
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("w-%p", nc)
	var serving []fetch.Served
	for _, p := range set.Configured() {
		p.AtMost(16)
		p.Within(r.memory)
		served, err := fleet.Served(ctx, js)
		if err != nil {
			t.Fatal(err)
		}
		if !served[p.Name] {
			if err := errors.Join(budget.CreateRegister(ctx, kv, p.Name), fleet.NoteServed(ctx, js, p.Name)); err != nil {
				t.Fatal(err)
			}
		}
		gate, err := budget.Open(ctx, js, kv, budget.Settings{
			Provider: p.Name, Worker: name, Limits: p.Limits, Groups: fetch.Groups(p), Bytes: p.BytesPerMonth, Concurrency: 16,
			Quota: p.Quota, AtOnce: int(p.AtOnce),
			CircuitFailures: r.circuit, CircuitOpen: r.open,
		}, r.see)
		if err != nil {
			t.Fatal(err)
		}
		consumer := func(lane fetchworker.Lane, shard int) (c jetstream.ConsumerConfig) {
			if c = broker.RequestConsumer(p.Name, lane, shard, 256); shard < 0 {
				c = broker.ReplaysConsumer(p.Name, 256)
			}
			c.InactiveThreshold = cmp.Or(r.rest, c.InactiveThreshold)
			return c
		}
		s := fetch.Served{
			Provider: p, Gate: gate,
			Consumer: func(lane fetchworker.Lane, shard int) string { return consumer(lane, shard).Durable },
			Make: func(ctx context.Context, lane fetchworker.Lane, shard int) (time.Time, bool, error) {
				return broker.MakeConsumer(ctx, js, consumer(lane, shard))
			},
		}
		if r.earlier {
			s.Make = nil
		}
		serving = append(serving, s)
		r.gates = append(r.gates, gate)
	}
	r.registry, r.serving = prometheus.NewRegistry(), serving
	cancels, err := cancel.Watch(ctx, js, kv)
	if err != nil {
		t.Fatal(err)
	}
	guard := cancel.NewGuard(cancels, name)
	desk := cancel.NewDesk(cancels, record.New(js, nil), set.Known, r.maxLife, r.logger())
	orders, err := micro.AddService(nc, micro.Config{Name: "fetchworker", Version: "0.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := orders.AddEndpoint("cancel", micro.HandlerFunc(desk.Handle), micro.WithEndpointSubject(cancel.Subject)); err != nil {
		t.Fatal(err)
	}
	flush(nc) // orders may come from now on
	book := usage.NewBook(js, r.logger())
	counting, stopCounting := context.WithCancel(context.Background())
	var counts sync.WaitGroup
	counts.Go(func() { book.Run(counting) })
	w, err := fetch.New(fetch.Config{
		Name: name, JS: js, KV: kv, Log: record.New(js, hook), Serve: serving, Rights: set.Rights,
		Retries: 3, RetryBase: time.Second, MaxLife: r.maxLife, Drain: 30 * time.Second, Rest: r.rest,
		Logger: r.logger(), Metrics: r.registry, Cancels: guard, Usage: book, Memory: r.memory,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.worker = w
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	var beside sync.WaitGroup
	beside.Go(func() {
		var names []string
		quotas := map[string]string{}
		for _, s := range serving {
			names = append(names, s.Provider.Name)
			quotas[s.Provider.Name] = s.Provider.Quota
		}
		fleet.Present(ctx, js, kv, fleet.Worker{Name: name, Providers: names, Quotas: quotas}, nil)
	})
	var once sync.Once
	return nc, func() {
		once.Do(func() {
			stopping()
			desk.Close() // no order comes while a worker of these tests stops
			if err := <-done; err != nil {
				t.Errorf("worker: %v", err)
			}
			beside.Wait()
			stopCounting()
			counts.Wait()
			leaving, left := context.WithTimeout(context.Background(), time.Second)
			_ = guard.Leave(leaving)
			left()
			cancels.Close()
			for _, s := range serving {
				s.Gate.Close()
			}
			set.Close()
			flush(nc)
			nc.Close()
		})
	}
}

// startReplayer starts a replayer with its sweep.
func (r *rig) startReplayer(hook record.Hook) (stop func()) {
	t := r.t
	t.Helper()
	nc := r.b.Connect(t)
	js, err := broker.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stopping := context.WithCancel(context.Background())
	kv, err := js.KeyValue(ctx, wire.BucketProviders)
	if err != nil {
		t.Fatal(err)
	}
	board, err := fleet.Watch(ctx, js, kv)
	if err != nil {
		t.Fatal(err)
	}
	cancels, err := cancel.Watch(ctx, js, kv)
	if err != nil {
		t.Fatal(err)
	}
	log := record.New(js, hook)
	book := usage.NewBook(js, r.logger())
	counting, stopCounting := context.WithCancel(context.Background())
	var counts sync.WaitGroup
	counts.Go(func() { book.Run(counting) })
	replayer := dlq.NewReplayer(js, log, board, dlq.Config{
		Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer,
		Heal:    func(ctx context.Context) error { return broker.ServeDLQ(ctx, js) },
		Retries: 3, MaxLife: r.maxLife, Logger: r.logger(), Cancels: cancels,
		Failed: func(l dlq.Letter) { book.Add(l.Provider, l.Agent, usage.Failed, 1, board.Now()) },
	})
	sweeper := sweep.New(js, log, board, sweep.Config{
		Known: func(p string) bool { return p == "polygon" }, MaxLife: r.maxLife, Logger: r.logger(),
	})
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{replayer.Run, sweeper.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("replayer: %v", err)
			}
		})
	}
	var once sync.Once
	return func() {
		once.Do(func() {
			stopping()
			running.Wait()
			stopCounting()
			counts.Wait()
			board.Close()
			cancels.Close()
			flush(nc)
			nc.Close()
		})
	}
}

func (r *rig) see(e budget.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Mine {
		r.seen = append(r.seen, e)
	}
}

// events counts those of a kind.
func (r *rig) events(kind string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.seen {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

func (r *rig) logger() *zap.Logger {
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(r.logs), zap.DebugLevel))
}

// ask publishes a request and returns its identity.
func (r *rig) ask(subject, id, body string) fetchworker.Identity {
	r.t.Helper()
	m := nats.NewMsg(subject)
	m.Data = []byte(body)
	if _, err := r.b.JS.PublishMsg(context.Background(), m); err != nil {
		r.t.Fatal(err)
	}
	parts := strings.Split(subject, ".")
	return fetchworker.Identity{Provider: parts[2], Operation: parts[4], Agent: parts[5], ID: id}
}

// quote asks for a quote of fmp.
func (r *rig) quote(agent, id, symbol, more string) fetchworker.Identity {
	r.t.Helper()
	return r.ask("fetch.request.fmp.interactive.quote."+agent, id, fmt.Sprintf(`{"id":%q,"params":{"symbol":%q}%s}`, id, symbol, more))
}

// answer reads what is stored for a request; ok is false if nothing is.
func (r *rig) answer(id fetchworker.Identity) (a fetchworker.Answer, ok bool) {
	r.t.Helper()
	raw, err := record.New(r.b.JS, nil).Last(context.Background(), fetchworker.StreamResults, fetchworker.ResultSubject(id))
	if err != nil {
		return a, false
	}
	if a, err = fetchworker.DecodeAnswer(raw.Subject, raw.Header, raw.Data); err != nil {
		r.t.Fatal(err)
	}
	return a, true
}

// final waits for a final answer, at most this long on the test's clock.
func (r *rig) final(id fetchworker.Identity, within time.Duration) fetchworker.Answer {
	r.t.Helper()
	return r.until(id, within, func(a fetchworker.Answer) bool { return a.Final })
}

func (r *rig) until(id fetchworker.Identity, within time.Duration, enough func(fetchworker.Answer) bool) fetchworker.Answer {
	r.t.Helper()
	began := time.Now()
	deadline := began.Add(within)
	for {
		a, ok := r.answer(id)
		if ok && enough(a) {
			// What is asked next is asked later, also where the clock stands still
			// until all is done: a body of this very moment is as fresh as can be.
			time.Sleep(time.Microsecond)
			return a
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: after %v stands %+v (stored: %v)", id, within, a, ok)
		}
		rest(began, deadline)
	}
}

// count is how many messages a stream holds.
func (r *rig) count(stream string) int {
	r.t.Helper()
	s, err := r.b.JS.Stream(context.Background(), stream)
	if err != nil {
		r.t.Fatal(err)
	}
	return int(s.CachedInfo().State.Msgs)
}

// drained waits until a stream holds n messages.
func (r *rig) drained(stream string, n int, within time.Duration) {
	r.t.Helper()
	began := time.Now()
	deadline := began.Add(within)
	for r.count(stream) != n {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s holds %d messages after %v, want %d", stream, r.count(stream), within, n)
		}
		rest(began, deadline)
	}
}

// rest sleeps between two looks of a wait that began then: for a hundredth of
// it. Half an hour on the test's clock, looked at every hundredth of a second,
// is a hundred thousand questions to the server.
func rest(began, deadline time.Time) {
	const least = 10 * time.Millisecond
	time.Sleep(max(least, min(time.Since(began)/100, time.Until(deadline))))
}

// letter reads the dead letter of a request.
func (r *rig) letter(lane fetchworker.Lane, id fetchworker.Identity) (record.Raw, bool) {
	raw, err := record.New(r.b.JS, nil).Last(context.Background(), wire.StreamDLQ, wire.DLQSubject(lane, id))
	return raw, err == nil
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func respond(status int, body string) func(*http.Request) *providertest.Step {
	return func(*http.Request) *providertest.Step {
		step := providertest.JSON(status, body)
		return &step
	}
}

func newMsg(subject, body string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = []byte(body)
	return m
}

// next waits for a live message. The client's own timers come from a pool
// that bubbles must not share, so the wait is by context.
func next(sub *nats.Subscription, within time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

func flush(nc *nats.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = nc.FlushWithContext(ctx) // the test may have closed it
}
