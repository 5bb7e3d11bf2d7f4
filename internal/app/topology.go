package app

import (
	"context"
	"fmt"

	"fetchworker/internal/broker"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// Start joins the contract's streams: it waits for them if somebody else is to
// make them or the server is still coming up.
func Start(ctx context.Context, v *Vitals, js jetstream.JetStream, c Config, logger *zap.Logger) error {
	return Patiently(ctx, v, logger, "the streams (JetStream, and worker apply where workers may not create them)", func(ctx context.Context) error {
		return Topology(ctx, js, c, logger)
	}, broker.ErrMissing)
}

// Topology makes sure, at a start, that the streams are as the contract needs
// them. What an operator has decided otherwise is told in a line and stays.
func Topology(ctx context.Context, js jetstream.JetStream, c Config, logger *zap.Logger) error {
	err := broker.Apply(ctx, js, c.Topology, func(a broker.Applied) {
		stream := zap.String("stream", a.Stream)
		if len(a.Kept) > 0 {
			logger.Info("stream kept as its operator made it", stream, zap.Strings("what", a.Kept))
		}
		if len(a.Losing) > 0 {
			logger.Warn("stream left as it is: the change would lose something, and only worker apply --accept-loss makes it", stream, zap.Strings("what", a.Losing))
		}
		if len(a.Undone) > 0 {
			logger.Warn("stream differs where no guarantee stands on it", stream, zap.String("why", a.Did), zap.Strings("what", a.Undone))
		}
	})
	if err != nil {
		return fmt.Errorf("topology: %w", err)
	}
	return nil
}
