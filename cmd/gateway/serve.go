package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/gateway"
	"fetchworker/internal/gateway/tokens"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
)

// serve runs a gateway until ctx ends. Everything is opened in the order it
// depends on, and closed in the reverse; what was asked goes on without it.
func serve(ctx context.Context, getenv func(string) string, stderr io.Writer, ready func(addr, httpAddr string)) (err error) {
	environment := app.WatchEnvironment(getenv)
	config, err := app.Load(environment.Get)
	if err != nil {
		return err
	}
	if !config.NATS.Remote() {
		config.NATS.URL = nats.DefaultURL // a worker's embedded server
	}
	logger, err := app.NewLogger(config, stderr)
	if err != nil {
		return err
	}
	var closing app.Stack
	defer func() {
		err = errors.Join(err, closing.Close())
		_ = logger.Sync() // a terminal cannot be synced
	}()
	name := processName()
	logger = logger.With(zap.String("gateway", name))
	environment.Warn(logger)
	tracer, stopTraces, err := app.StartTracing(ctx, getenv, "fetchworker-gateway", version, name, logger)
	if err != nil {
		return err
	}
	closing.Push("traces", stopTraces)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	vitals := app.NewVitals(registry)
	vitals.WaitsFor("NATS")
	listener, err := app.ListenIfFree(config, getenv, registry, vitals.Ready, logger)
	if err != nil {
		return err
	}
	closing.Push("http", listener.Close)

	config.NATS.Name = "fetchworker gateway " + name
	nc, err := broker.Connect(ctx, config.NATS, logger, nil)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // stopped while it waited
	}
	if err != nil {
		return err
	}
	closing.Push("nats", func() error { nc.Close(); return nil })
	vitals.Joined(nc)
	known, err := tokens.Of(config.Gateway.Tokens, logger)
	if err != nil {
		return fmt.Errorf("FETCH_GATEWAY_TOKENS: %w", err)
	}
	door, err := gateway.New(gateway.Config{
		NC: nc, Tokens: known, Origins: config.Gateway.Origins, Version: version, Logger: logger, Metrics: registry, Tracer: tracer,
	})
	if err != nil {
		return err
	}
	closing.Push("gateway", func() error { door.Close(); return nil })
	served, err := door.Listen(config.Gateway.Addr)
	if err != nil {
		return fmt.Errorf("FETCH_GATEWAY_ADDR: %w", err)
	}
	closing.Push("gateway's http", served.Close)
	vitals.Serves(func(context.Context) error {
		if ctx.Err() != nil {
			return errors.New("stopping")
		}
		return nil
	})
	logger.Info("gateway serves", zap.String("addr", served.Addr), zap.Bool("tokens", known != nil), zap.String("nats", nc.ConnectedUrlRedacted()), zap.String("http", listener.Addr()))
	if ready != nil {
		ready(served.Addr, listener.Addr())
	}
	closed := nc.StatusChanged(nats.CLOSED)
	select {
	case <-ctx.Done():
	case <-closed:
		err = fmt.Errorf("the connection to NATS was closed: %w", nc.LastError())
	}
	logger.Info("gateway stops")
	return err
}

// processName is unique in the fleet: host and a few random letters, since
// hosts in containers may share a name.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "gateway"
	}
	return strings.ToLower(host) + "-" + strings.ToLower(rand.Text()[:4])
}

func health(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	config, err := app.Load(getenv)
	if err != nil {
		return err
	}
	said, err := app.AskReady(ctx, config.HTTPAddr)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, said)
	return err
}
