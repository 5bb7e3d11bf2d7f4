package dlq

import (
	"context"
	"time"

	"fetchworker/internal/record"

	"github.com/cenkalti/backoff/v4"
)

// Put stores a dead letter. Only after it returns nil may the request's
// message be acknowledged.
func Put(ctx context.Context, log *record.Log, l Letter) error {
	_, err := log.Put(ctx, l.DeadLetterSlot(), l.DeadLetter())
	return err
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
