package dlq

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fetchworker/internal/record"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go/jetstream"
)

// Put stores a dead letter. Only after it returns nil may the request's
// message be acknowledged.
func Put(ctx context.Context, log *record.Log, l Letter) error {
	_, err := Store(ctx, log, l)
	return err
}

// Store is Put for one who needs to know whether it is this letter that lies
// there now: under one id another request's may, and goes on for both.
func Store(ctx context.Context, log *record.Log, l Letter) (stored bool, err error) {
	out, err := log.Put(ctx, l.DeadLetterSlot(), l.DeadLetter())
	return out.Stored, err
}

// Carries reports whether the request of a letter is carried on by one that is
// stored: it waits in the DLQ, or is released. Not of the same id alone: of the
// same moment.
func Carries(ctx context.Context, log *record.Log, l Letter) (bool, error) {
	for _, slot := range []record.Slot{l.DeadLetterSlot(), l.ReplaySlot()} { // as it moves
		seen, err := log.Get(ctx, slot)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("letter of %s: %w", l.Identity, err)
		}
		if stored, err := Decode(slot.Subject, seen.Header, seen.Data); err == nil && stored.RequestedAt.Equal(l.RequestedAt) {
			return true, nil
		}
	}
	return false, nil
}

// Wait draws how long a letter waits after its n-th failure: base, twice
// base, four times base and so on, ± 20 %, at most longest.
func Wait(base, longest time.Duration, failures int) time.Duration {
	b := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(base),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0.2),
		backoff.WithMaxInterval(longest),
		backoff.WithMaxElapsedTime(0),
	)
	wait := b.NextBackOff()
	for range failures - 1 {
		wait = b.NextBackOff()
	}
	return min(wait, longest)
}
