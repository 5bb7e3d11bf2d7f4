package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/gateway"
	"fetchworker/internal/gateway/tokens"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// opens reports whether a worker serves the gateway.
func opens(config app.Config, embeds bool) bool {
	return config.Gateway.Open == "on" || config.Gateway.Open == "auto" && embeds
}

func gatewayTokens(config app.Config, logger *zap.Logger) (*tokens.File, error) {
	known, err := tokens.Of(config.Gateway.Tokens, logger)
	if err != nil {
		return nil, fmt.Errorf("%w: FETCH_GATEWAY_TOKENS: %w", app.ErrConfig, err)
	}
	return known, nil
}

// openGateway serves HTTP for agents that do not speak NATS, where this
// worker does. It has a connection of its own, as any agent has. The default
// address may be taken by another process of this machine; one that was given
// must be had. It returns where it listens, or nothing.
func openGateway(ctx context.Context, config app.Config, embedded *broker.Embedded, name string, metrics prometheus.Registerer, tracer trace.Tracer, logger *zap.Logger, closing *app.Stack) (addr string, err error) {
	if !opens(config, embedded != nil) {
		return "", nil
	}
	known, err := gatewayTokens(config, logger)
	if err != nil {
		return "", err
	}
	var nc *nats.Conn
	if embedded != nil {
		nc, err = embedded.Connect(append(broker.Watched(logger, nil), nats.Name("fetchworker gateway "+name))...)
	} else {
		config.NATS.Name = "fetchworker gateway " + name
		nc, err = broker.Connect(ctx, config.NATS, logger, nil)
	}
	if err != nil {
		return "", err
	}
	closing.Push("gateway's nats", func() error { nc.Close(); return nil })
	door, err := gateway.New(gateway.Config{
		NC: nc, Tokens: known, Origins: config.Gateway.Origins, Version: version, Logger: logger, Metrics: metrics, Tracer: tracer,
	})
	if err != nil {
		return "", err
	}
	closing.Push("gateway", func() error { door.Close(); return nil })
	served, err := door.Listen(config.Gateway.Addr)
	if errors.Is(err, syscall.EADDRINUSE) && !config.Gateway.Given {
		logger.Warn("no gateway: its default address is taken; FETCH_GATEWAY_ADDR names another, FETCH_GATEWAY=off does without", zap.Error(err))
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%w: FETCH_GATEWAY_ADDR: %w", app.ErrConfig, err)
	}
	closing.Push("gateway's http", served.Close)
	context.AfterFunc(ctx, func() { _ = served.Close() }) // nothing is asked of a worker that drains; told by the one above
	return served.Addr, nil
}
