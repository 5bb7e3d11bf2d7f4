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
	_, err := Store(ctx, log, l)
	return err
}

// Store is Put for one who needs to know whether it is this letter that lies
// there now: under one id another request's may, and goes on for both.
func Store(ctx context.Context, log *record.Log, l Letter) (stored bool, err error) {
	out, err := log.Put(ctx, l.DeadLetterSlot(), l.DeadLetter())
	return out.Stored, err
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
