package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"fetchworker"
	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/fetch"
	"fetchworker/internal/providers"
	"fetchworker/internal/usage"
	"fetchworker/internal/wait"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// roll is what is known of the providers when a worker starts.
type roll struct {
	noted  map[string]bool // that they are served
	served map[string]bool // noted so, or by consumers of an earlier version
	board  *fleet.View
}

// enrolled looks once for all, whatever their number. An error tells also of a
// right that is missing to serve them.
func enrolled(ctx context.Context, js jetstream.JetStream, board *fleet.View, all []*providers.Provider) (r roll, err error) {
	r.board = board
	if len(all) == 0 {
		return r, nil
	}
	if err := broker.MayServe(ctx, js, all[0].Name); err != nil {
		return r, err
	}
	if r.noted, err = fleet.Served(ctx, js); err != nil {
		return r, err
	}
	r.served = maps.Clone(r.noted)
	if slices.ContainsFunc(all, func(p *providers.Provider) bool { return !r.noted[p.Name] }) {
		earlier, err := broker.Replayed(ctx, js)
		maps.Copy(r.served, earlier)
		return r, err
	}
	return r, nil
}

// begins is what has to be done before a provider is called for the first time,
// or again after it was retired; nil: nothing.
func (r roll) begins(js jetstream.JetStream, kv jetstream.KeyValue, provider string) func(context.Context) error {
	noted, served := r.noted[provider], r.served[provider]
	retired := r.board.Provider(provider, r.board.Now()).Control.Retired != nil
	if noted && !retired {
		return nil
	}
	return func(ctx context.Context) error {
		// The register comes before the note: one that is missing while that is there
		// has been lost, and counts as full.
		if !served {
			if err := budget.CreateRegister(ctx, kv, provider); err != nil {
				return err
			}
		}
		if !noted {
			if err := fleet.NoteServed(ctx, js, provider); err != nil {
				return err
			}
		}
		if retired {
			return fleet.Reinstate(ctx, kv, provider)
		}
		return nil
	}
}

// shortRest, where the linker sets it, is how soon shards rest and how soon the
// server takes their consumers away: for tests of whole processes, which do not
// wait for a quarter of an hour.
var shortRest string

// restAfter is shortRest, 0 where it is as ever.
func restAfter() time.Duration {
	d, _ := time.ParseDuration(shortRest)
	return d
}

// serveProvider opens a provider's gate, which lets nobody through before the
// provider's start is over. Its consumers are made when something comes for them.
func serveProvider(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue, p *providers.Provider, settings budget.Settings, on budget.Observer) (fetch.Served, error) {
	gate, err := budget.Open(ctx, js, kv, settings, on)
	if err != nil {
		return fetch.Served{}, err
	}
	held := broker.Held(perMinute(p.Limits))
	consumer := func(lane fetchworker.Lane, shard int) (c jetstream.ConsumerConfig) {
		if c = broker.RequestConsumer(p.Name, lane, shard, held); shard < 0 {
			c = broker.ReplaysConsumer(p.Name, held)
		}
		c.InactiveThreshold = cmp.Or(restAfter(), c.InactiveThreshold)
		return c
	}
	return fetch.Served{
		Provider: p, Gate: gate,
		Consumer: func(lane fetchworker.Lane, shard int) string { return consumer(lane, shard).Durable },
		Make: func(ctx context.Context, lane fetchworker.Lane, shard int) (time.Time, bool, error) {
			return broker.MakeConsumer(ctx, js, consumer(lane, shard))
		},
	}, nil
}

// adoptAgain is how often consumers of an earlier version are looked for.
const adoptAgain = time.Hour

// adopt lets consumers that an earlier version left go when nobody needs them.
func adopt(ctx context.Context, js jetstream.JetStream, serving []fetch.Served, logger *zap.Logger) {
	ours := map[string]bool{}
	for _, name := range names(serving) {
		ours[name] = true
	}
	for {
		adopted, err := broker.Adopt(ctx, js, func(provider string) bool { return ours[provider] })
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			logger.Warn("consumers of an earlier version stay", zap.Error(err))
		}
		if adopted > 0 {
			logger.Info("consumers of an earlier version go when nobody uses them", zap.Int("consumers", adopted))
		}
		if wait.For(ctx, adoptAgain) != nil {
			return
		}
	}
}

// serveProviders serves all of them, in their order. Gates that were opened
// are closed with the rest, also after an error.
func serveProviders(all []*providers.Provider, closing *app.Stack, serve func(*providers.Provider) (fetch.Served, error)) ([]fetch.Served, error) {
	serving := make([]fetch.Served, 0, len(all))
	for _, p := range all {
		s, err := serve(p)
		if err != nil {
			return nil, fmt.Errorf("provider %s: %w", p.Name, err)
		}
		closing.Push("gate of "+p.Name, func() error { s.Gate.Close(); return nil })
		serving = append(serving, s)
	}
	return serving, nil
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

// recently are the final answers of the last quarter of an hour, as presence
// tells them.
func recently(book *usage.Book) map[string]fleet.Ends {
	told := map[string]fleet.Ends{}
	for provider, ends := range book.Recent(time.Now()) {
		told[provider] = fleet.Ends(ends)
	}
	return told
}
