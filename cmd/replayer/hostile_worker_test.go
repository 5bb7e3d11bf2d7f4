package main

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/fetch"
	"fetchworker/internal/providers"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// hostileWorker runs a worker of fmp over a server until stop, with a provider
// that answers everything.
func hostileWorker(f *testing.F, b *brokertest.Broker) (stop func() error) {
	f.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	upstream := providertest.Pipe("upstream.test")
	upstream.Fallback = func(*http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, `[{"symbol":"X","price":1}]`)
		return &step
	}
	env := map[string]string{"FMP_API_KEY": "fmp-key-0123456789", "FMP_BASE_URL": upstream.URL() + "/api/v3", "FMP_REQUESTS_PER_MINUTE": "0"}
	set, err := providers.Load(func(name string) string { return env[name] }, providers.WithDial(upstream.DialContext))
	if err != nil {
		f.Fatal(err)
	}
	p := set.Configured()[0]
	if err := errors.Join(budget.CreateRegister(ctx, b.KV, p.Name), fleet.NoteServed(ctx, b.JS, p.Name)); err != nil {
		f.Fatal(err)
	}
	gate, err := budget.Open(ctx, b.JS, b.KV, budget.Settings{Provider: p.Name, Worker: "w", Concurrency: 16, CircuitFailures: 0}, func(budget.Event) {})
	if err != nil {
		f.Fatal(err)
	}
	consumer := func(lane fetchworker.Lane, shard int) jetstream.ConsumerConfig {
		if shard < 0 {
			return broker.ReplaysConsumer(p.Name, 256)
		}
		return broker.RequestConsumer(p.Name, lane, shard, 256)
	}
	w, err := fetch.New(fetch.Config{
		Name: "w", JS: b.JS, KV: b.KV, Log: record.New(b.JS, nil), Rights: set.Rights,
		Serve: []fetch.Served{{
			Provider: p, Gate: gate,
			Consumer: func(lane fetchworker.Lane, shard int) string { return consumer(lane, shard).Durable },
			Make: func(ctx context.Context, lane fetchworker.Lane, shard int) (time.Time, bool, error) {
				return broker.MakeConsumer(ctx, b.JS, consumer(lane, shard))
			},
		}},
		Retries: 1, RetryBase: time.Second, MaxLife: time.Hour, Drain: time.Second, Logger: zap.NewNop(), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		f.Fatal(err)
	}
	present := make(chan struct{})
	go func() {
		defer close(present)
		fleet.Present(ctx, b.JS, b.KV, fleet.Worker{Name: "w", Providers: []string{p.Name}}, nil)
	}()
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	return func() error {
		cancel()
		err := <-ended
		<-present
		gate.Close()
		set.Close()
		upstream.Close()
		return err
	}
}
