package main

import (
	"context"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/fetch"
	"fetchworker/internal/providers"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// serveProvider makes a provider's consumers, its register and its gate.
func serveProvider(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue, p *providers.Provider, settings budget.Settings, on budget.Observer, logger *zap.Logger) (fetch.Served, error) {
	served, err := broker.IsServed(ctx, js, p.Name)
	if err != nil {
		return fetch.Served{}, err
	}
	// The register comes before the consumers: one that is missing while they
	// exist has been lost, and counts as full.
	if !served {
		if err := budget.CreateRegister(ctx, kv, p.Name); err != nil {
			return fetch.Served{}, err
		}
	}
	if err := broker.ServeProvider(ctx, js, p.Name, broker.Held(perMinute(p.Limits))); err != nil {
		return fetch.Served{}, err
	}
	if err := fleet.Reinstate(ctx, kv, p.Name); err != nil {
		return fetch.Served{}, err
	}
	gate, err := budget.Open(ctx, js, kv, settings, on)
	if err != nil {
		return fetch.Served{}, err
	}
	provider, err := fetch.Open(ctx, js, p, gate,
		func(lane fetchworker.Lane, shard int) string { return broker.ShardConsumer(p.Name, lane, shard) }, broker.ReplayConsumer(p.Name))
	if err != nil {
		gate.Close()
		return fetch.Served{}, err
	}
	provider.Heal = func(ctx context.Context) error {
		return broker.HealProvider(ctx, js, p.Name, broker.Held(perMinute(p.Limits)), logger)
	}
	return provider, nil
}

// perMinute is the rate of the tightest window, at least 1; 0 is unlimited.
func perMinute(limits ledger.Limits) int {
	rate := 0
	for _, w := range limits {
		n := max(1, int(float64(w.N)*float64(time.Minute)/float64(w.Per)))
		if rate == 0 || n < rate {
			rate = n
		}
	}
	return rate
}
