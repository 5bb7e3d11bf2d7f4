package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"fetchworker/internal/app"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/cancel"
	"fetchworker/internal/providers"

	"github.com/nats-io/nats.go/jetstream"
)

// watchCancels opens the view of what agents have cancelled, and the guard
// that a worker's calls begin behind.
func watchCancels(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue, name string, closing *app.Stack) (*cancel.View, *cancel.Guard, error) {
	view, err := cancel.Watch(ctx, js, kv)
	if err != nil {
		return nil, nil, fmt.Errorf("watch what is cancelled: %w", err)
	}
	guard := cancel.NewGuard(view, name)
	closing.Push("cancels", func() error {
		leaving, end := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer end()
		err := guard.Leave(leaving)
		view.Close()
		if leaving.Err() != nil {
			return nil // nobody waits for us longer than the lease
		}
		return err
	})
	return view, guard, nil
}

// served reports whether a provider is known here or served anywhere.
func served(board *fleet.View, set *providers.Set) func(string) bool {
	return func(provider string) bool {
		return set.Known(provider) || slices.Contains(board.Providers(), provider)
	}
}
