package main

import (
	"context"
	"fmt"
	"time"

	"fetchworker"
	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/fetch"
	"fetchworker/internal/providers"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
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
	return fetch.Served{
		Provider: p, Gate: gate,
		Requests: func(lane fetchworker.Lane, shard int) string { return broker.ShardConsumer(p.Name, lane, shard) },
		Replay:   broker.ReplayConsumer(p.Name),
		Heal: func(ctx context.Context) error {
			return broker.HealProvider(ctx, js, p.Name, broker.Held(perMinute(p.Limits)), logger)
		},
	}, nil
}

// atOnce are asked for together at a start: one after the other, a provider
// took some seventy round trips.
const atOnce = 8

// serveProviders serves all of them, in their order. Gates that were opened
// are closed with the rest, also after an error.
func serveProviders(ctx context.Context, all []*providers.Provider, closing *app.Stack, serve func(context.Context, *providers.Provider) (fetch.Served, error)) ([]fetch.Served, error) {
	serving := make([]fetch.Served, len(all))
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, p := range all {
		group.Go(func() (err error) {
			if serving[i], err = serve(asking, p); err != nil {
				return fmt.Errorf("provider %s: %w", p.Name, err)
			}
			return nil
		})
	}
	err := group.Wait()
	for _, s := range serving {
		if s.Gate != nil {
			closing.Push("gate of "+s.Provider.Name, func() error { s.Gate.Close(); return nil })
		}
	}
	return serving, err
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
