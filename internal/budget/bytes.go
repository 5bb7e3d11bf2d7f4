package budget

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/meter"
	"fetchworker/internal/budget/store"
)

// keepAnnounced outlives every month: a threshold is announced once.
const keepAnnounced = 40 * 24 * time.Hour

func bytesSubject(provider, month string) string {
	return "fetch.budget." + provider + ".bytes." + month
}

// newMeter counts a provider's bytes in the fleet's counter. Whoever sees the
// total past a threshold creates the threshold's key, and the creator
// announces it: once for the fleet. A crash in between leaves the key without
// its event.
func (g *Gate) newMeter(js jetstream.JetStream, kv jetstream.KeyValue) *meter.Meter {
	counter := store.NewCounter(js)
	return meter.New(meter.Counter{
		Add: func(ctx context.Context, month string, n int64, id string) (int64, error) {
			total, err := counter.Add(ctx, bytesSubject(g.s.Provider, month), n, id)
			if errors.Is(err, store.ErrNotStored) {
				return 0, fmt.Errorf("%w: %w", meter.ErrNotCounted, err)
			}
			return total, err
		},
		Read: func(ctx context.Context, month string) (int64, error) {
			return counter.Read(ctx, bytesSubject(g.s.Provider, month))
		},
		Pass: func(ctx context.Context, month string, percent int) (bool, error) {
			key := fmt.Sprintf("budget.%s.%s.%d", g.s.Provider, month, percent)
			_, err := kv.Create(ctx, key, []byte(g.s.Worker), jetstream.KeyTTL(keepAnnounced))
			if errors.Is(err, jetstream.ErrKeyExists) {
				return false, nil
			}
			return err == nil, err
		},
	}, g.s.Bytes, g.clock.Now, g.budgetPassed)
}

// AddBytes counts bytes that came over the wire. What a killed worker had not
// yet flushed, some 100 ms, is not counted.
func (g *Gate) AddBytes(n int64) { g.bytes.Add(n) }

// Used is the fleet's bytes of this month and the month's limit (0: none). What
// others counted is in it after about a second. Whoever asks first after a
// while is told what was known then. Without a limit it is what this worker
// knows: nobody looks.
func (g *Gate) Used() (used, limit int64) { return g.bytes.Used() }
