package broker

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// unavailable is JetStream's status for what will be there in a moment: no
// leader yet, too few servers up, not enabled yet.
const unavailable = 503

// Passing reports whether an error of a start may go away by itself: an
// election, servers that are still coming up. So may ErrMissing, where somebody
// else is about to make the streams.
func Passing(err error) bool {
	if api := new(jetstream.APIError); errors.As(err, &api) && api.Code == unavailable {
		return true
	}
	for _, passing := range []error{
		jetstream.ErrJetStreamNotEnabled, jetstream.ErrJetStreamNotEnabledForAccount,
		jetstream.ErrNoStreamResponse, nats.ErrNoResponders, nats.ErrTimeout, context.DeadlineExceeded,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}
