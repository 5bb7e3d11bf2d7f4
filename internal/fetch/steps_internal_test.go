package fetch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/intake"
	"fetchworker/internal/memory"
	"fetchworker/internal/providers"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// steps is a worker of which a test takes the steps one by one, on a real server
// and with a played provider: it takes in what it is asked to, and does no more.
type steps struct {
	*Worker
	t        *testing.T
	b        *brokertest.Broker
	nc       *nats.Conn
	wire     *brokertest.Wire
	upstream *providertest.Server
	registry *prometheus.Registry
	logs     *observer.ObservedLogs
	tracer   trace.Tracer      // before take
	env      map[string]string // before take
	maxLife  time.Duration     // before take
	hook     record.Hook       // before take
	room     *memory.Budget    // before take

	came chan *delivery
	end  func()
}

// stepping runs a test with such a worker in a bubble.
func stepping(t *testing.T, test func(t *testing.T, s *steps)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := &steps{
			t: t, b: brokertest.StartIn(t, dir, ""), wire: &brokertest.Wire{}, upstream: providertest.Pipe("upstream.test"),
			registry: prometheus.NewRegistry(), maxLife: 72 * time.Hour, came: make(chan *delivery, 16), end: func() {},
		}
		s.env = map[string]string{
			"FMP_API_KEY": "fmp-key-0123456789", "FMP_BASE_URL": s.upstream.URL() + "/api/v3", "FMP_REQUESTS_PER_MINUTE": "0",
		}
		s.b.Ageless(t)
		test(t, s)
		s.end()
		s.upstream.Close()
		s.b.Stop()
	})
}

// begin makes the worker, which from then on takes in what comes.
func (s *steps) begin() {
	t := s.t
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	s.nc = s.b.ConnectThrough(t, s.wire)
	js, err := broker.JetStream(s.nc)
	must(err)
	kv, err := js.KeyValue(ctx, wire.BucketProviders)
	must(err)
	set, err := providers.Load(func(name string) string { return s.env[name] }, providers.WithDial(s.upstream.DialContext))
	must(err)
	p := set.Configured()[0]
	p.AtMost(16)
	p.Within(s.room)
	must(errors.Join(budget.CreateRegister(ctx, kv, p.Name), fleet.NoteServed(ctx, js, p.Name)))
	gate, err := budget.Open(ctx, js, kv, budget.Settings{
		Provider: p.Name, Worker: "w", Limits: p.Limits, Bytes: p.BytesPerMonth, Concurrency: 16, CircuitFailures: 3, CircuitOpen: time.Minute,
	}, func(budget.Event) {})
	must(err)
	consumer := func(lane fetchworker.Lane, shard int) jetstream.ConsumerConfig {
		if shard < 0 {
			return broker.ReplaysConsumer(p.Name, 256)
		}
		return broker.RequestConsumer(p.Name, lane, shard, 256)
	}
	core, logs := observer.New(zap.DebugLevel)
	s.logs = logs
	s.Worker, err = New(Config{
		Name: "w", JS: js, KV: kv, Log: record.New(js, s.hook), Rights: set.Rights, Serve: []Served{{
			Provider: p, Gate: gate,
			Consumer: func(lane fetchworker.Lane, shard int) string { return consumer(lane, shard).Durable },
			Make: func(ctx context.Context, lane fetchworker.Lane, shard int) (time.Time, bool, error) {
				return broker.MakeConsumer(ctx, js, consumer(lane, shard))
			},
		}},
		Retries: 3, RetryBase: time.Second, MaxLife: s.maxLife, Drain: 30 * time.Second,
		Logger: zap.New(core), Metrics: s.registry, Tracer: s.tracer, Memory: s.room,
	})
	must(err)
	s.stopping, s.working, s.pulled = ctx, ctx, make(chan struct{})
	s.intake.Deliver = func(from *intake.Shard, msg intake.Message, meta *nats.MsgMetadata) {
		d, err := newDelivery(msg, meta, from, s.held)
		if err != nil {
			t.Error(err)
			return
		}
		s.held.Add(d)
		s.came <- d
	}
	var runs sync.WaitGroup
	for _, run := range []func(){
		func() { _ = s.intake.Run(ctx) }, // the test may cut it off
		func() { s.held.Run(ctx) },
		func() { s.cache.Run(ctx) },
	} {
		runs.Go(run)
	}
	s.end = func() {
		stop()
		runs.Wait()
		s.owed.Wait()
		s.cache.Close()
		s.used.Close()
		gate.Close()
		set.Close()
		s.nc.Close()
	}
}

// take asks for a quote, and is what of it comes into the worker's hands.
func (s *steps) take(id, symbol, more string) *delivery {
	s.t.Helper()
	return s.takes("fetch.request.fmp.interactive.quote.alice", fmt.Sprintf(`{"id":%q,"params":{"symbol":%q}%s}`, id, symbol, more))
}

func (s *steps) takes(subject, body string) *delivery {
	s.t.Helper()
	if s.Worker == nil {
		s.begin()
	}
	if _, err := s.b.JS.Publish(s.t.Context(), subject, []byte(body)); err != nil {
		s.t.Fatal(err)
	}
	select {
	case d := <-s.came:
		return d
	case <-time.After(time.Minute): //nolint:forbidigo // of a bubble
		s.t.Fatal("nothing comes")
		return nil
	}
}

// request is what comes of a delivery, planned.
func (s *steps) request(d *delivery) *request {
	s.t.Helper()
	r, err := s.decode(d)
	if err != nil {
		s.t.Fatal(err)
	}
	if r.call, err = r.served.Provider.Plan(r.Operation, r.asked.Params); err != nil {
		s.t.Fatal(err)
	}
	return r
}
