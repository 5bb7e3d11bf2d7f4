package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// adoptEach is the pause between two consumers that are looked at: there may be
// thousands, and nothing waits for it.
const adoptEach = 50 * time.Millisecond

// Adopt gives the consumers that an earlier version left to some providers the
// time after which the server takes them away, and tells how many there were.
// One that is pulled from stays, by whichever version.
func Adopt(ctx context.Context, js jetstream.JetStream, ours func(provider string) bool) (adopted int, err error) {
	for _, name := range []string{fetchworker.StreamRequests, wire.StreamReplay} {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return adopted, fmt.Errorf("adopt consumers: %w", err)
		}
		names := stream.ConsumerNames(ctx)
		for consumer := range names.Name() {
			provider, isReplay := strings.CutSuffix(consumer, "-replay")
			if !isReplay || name != wire.StreamReplay {
				provider = ServedProvider(consumer)
			}
			if provider == "" || !ours(provider) {
				continue
			}
			changed, err := adopt(ctx, js, name, consumer)
			if err != nil {
				return adopted, err
			}
			if changed {
				adopted++
			}
			if err := wait.For(ctx, adoptEach); err != nil {
				return adopted, err
			}
		}
		if err := names.Err(); err != nil {
			return adopted, fmt.Errorf("adopt consumers: %w", err)
		}
	}
	return adopted, nil
}

func adopt(ctx context.Context, js jetstream.JetStream, stream, name string) (changed bool, err error) {
	c, err := js.Consumer(ctx, stream, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("adopt consumer %s: %w", name, err)
	}
	config := c.CachedInfo().Config
	if config.InactiveThreshold > 0 {
		return false, nil
	}
	config.InactiveThreshold = ConsumerRest
	err = refusable(ctx, js, func(ctx context.Context) error {
		_, err := js.UpdateConsumer(ctx, stream, config)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrConsumerDoesNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("adopt consumer %s: %w", name, err)
	}
	return true, nil
}
