package app

import (
	"context"
	"fmt"

	"fetchworker/internal/broker"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

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
