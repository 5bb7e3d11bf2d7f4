package operate

import (
	"context"
	"errors"
	"time"

	"fetchworker/internal/wait"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// patience is how long an act waits for a server that does not answer. An
// election takes four to nine seconds; a paced act of hours must not need
// somebody to start it again at each.
const patience = 2 * time.Minute

// patiently tries until it works, is refused, or patience ends. What is tried
// must be one that may be done again.
func (o *Operator) patiently(ctx context.Context, try func() error) error {
	began, told := time.Now(), false
	for n := 0; ; n++ {
		err := try()
		if err == nil || ctx.Err() != nil || !passes(err) || time.Since(began) > patience {
			if told {
				o.Waits(0)
			}
			return err
		}
		if o.Waits != nil && time.Since(began) > time.Second {
			o.Waits(time.Since(began))
			told = true
		}
		if err := wait.Between(ctx, 100*time.Millisecond, 200*time.Millisecond<<min(n, 4)); err != nil {
			return err
		}
	}
}

// passes reports whether an error is one of a server that is away or chooses
// a leader, and so passes by itself.
func passes(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.Code >= 500
	}
	for _, passing := range []error{
		context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
		nats.ErrReconnectBufExceeded, nats.ErrStaleConnection, jetstream.ErrNoStreamResponse, jetstream.ErrJetStreamNotEnabled,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}
