package app

import (
	"context"
	"errors"
	"slices"
	"time"

	"fetchworker/internal/broker"

	"go.uber.org/zap"
)

// How long a start waits for what passes, and how often it tries and says so.
const (
	patience = time.Minute
	tryAgain = time.Second
	sayAgain = 10 * time.Second
)

// Patiently does a step of a start again while its error may pass, or is one
// of also, for a minute at the most. What it waits for is told in one line, and again every
// ten seconds.
func Patiently(ctx context.Context, v *Vitals, logger *zap.Logger, what string, step func(context.Context) error, also ...error) error {
	v.WaitsFor(what)
	started := time.Now()
	var said time.Time
	for {
		err := step(ctx)
		passing := broker.Passing(err) || slices.ContainsFunc(also, func(a error) bool { return errors.Is(err, a) })
		if err == nil || ctx.Err() != nil || !passing || time.Since(started) > patience {
			return err
		}
		if time.Since(said) >= sayAgain {
			said = time.Now()
			logger.Warn("waiting for "+what, zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(tryAgain): //nolint:forbidigo // beside ctx
		}
	}
}
