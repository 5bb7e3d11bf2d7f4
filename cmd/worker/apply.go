package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"fetchworker/internal/app"
	"fetchworker/internal/broker"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// errLoss says that something was left undone, since it would lose something.
var errLoss = errors.New("not done without --accept-loss")

// apply brings the streams and buckets of a server to the form that this
// version needs, and exits. It is for a server where the workers' own
// credentials may not create them; the administrator's may.
func apply(ctx context.Context, acceptLoss bool, getenv func(string) string, stdout, stderr io.Writer) error {
	config, err := app.Load(getenv)
	if err != nil {
		return err
	}
	if !config.NATS.Remote() {
		return fmt.Errorf("%w: apply needs NATS_URL or NATS_CONTEXT; an embedded server is brought up to date by its worker", errUsage)
	}
	config.NATS.Name = "fetchworker apply"
	config.Topology.AcceptLoss, config.Topology.Return = acceptLoss, acceptLoss
	logger, err := app.NewLogger(config, stderr)
	if err != nil {
		return err
	}
	nc, err := broker.Connect(ctx, config.NATS, logger, func(error) {}) // what is refused comes back as an error too
	if err != nil {
		return err
	}
	defer nc.Close()
	return applyTo(ctx, nc, config, stdout, logger)
}

func applyTo(ctx context.Context, nc *nats.Conn, config app.Config, stdout io.Writer, logger *zap.Logger) error {
	js, err := broker.JetStream(nc)
	if err != nil {
		return err
	}
	var lines strings.Builder
	var undone []error
	told := func(a broker.Applied) {
		_, _ = fmt.Fprintln(&lines, a.Stream, a.Did)
		for _, what := range append(a.Kept, a.Undone...) {
			_, _ = fmt.Fprintln(&lines, "  ", what)
		}
		for _, what := range a.Losing {
			undone = append(undone, fmt.Errorf("stream %s: %s: %w", a.Stream, what, errLoss))
		}
	}
	err = app.Patiently(ctx, &app.Vitals{}, logger, "JetStream", func(ctx context.Context) error {
		lines.Reset()
		undone = nil
		if err := broker.Apply(ctx, js, config.Topology, told); err != nil {
			return err
		}
		return broker.ServeDLQ(ctx, js)
	})
	_, writeErr := io.WriteString(stdout, lines.String())
	return errors.Join(append(undone, err, writeErr)...)
}
