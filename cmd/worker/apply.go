package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"fetchworker/internal/app"
	"fetchworker/internal/broker"

	"github.com/nats-io/nats.go"
)

// apply brings the streams and buckets of a server to the form that this
// version needs, and exits. It is for a server where the workers' own
// credentials may not create them; the administrator's may.
func apply(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: apply takes no arguments; NATS_URL or NATS_CONTEXT names the server", errUsage)
	}
	config, err := app.Load(getenv)
	if err != nil {
		return err
	}
	if !config.NATS.Remote() {
		return fmt.Errorf("%w: apply needs NATS_URL or NATS_CONTEXT; an embedded server is brought up to date by its worker", errUsage)
	}
	config.NATS.Name = "fetchworker apply"
	// The server tells a refused permission beside the request, which would
	// wait for its answer in vain, stream after stream.
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	nc, err := broker.Connect(ctx, config.NATS, func(err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			refuse(err)
		}
	})
	if err != nil {
		return err
	}
	defer nc.Close()
	err = applyTo(ctx, nc, config, stdout)
	if cause := context.Cause(ctx); errors.Is(cause, nats.ErrPermissionViolation) {
		return fmt.Errorf("something is missing or differs, and these credentials may not change it: %w", cause)
	}
	return err
}

func applyTo(ctx context.Context, nc *nats.Conn, config app.Config, stdout io.Writer) error {
	js, err := broker.JetStream(nc)
	if err != nil {
		return err
	}
	streams := broker.Streams(broker.Options{Replicas: config.Replicas, ResultAge: config.ResultAge})
	if err := broker.Apply(ctx, js, streams); err != nil {
		return err
	}
	if err := broker.ServeDLQ(ctx, js); err != nil {
		return err
	}
	for _, s := range streams {
		if _, err := fmt.Fprintln(stdout, s.Name, "is as wanted"); err != nil {
			return fmt.Errorf("apply: %w", err)
		}
	}
	return nil
}
