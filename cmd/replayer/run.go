package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"

	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/cancel"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/sweep"
	"fetchworker/internal/usage"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

func (c *cli) cmdRun() *cobra.Command {
	var shows bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon: release due letters, bury exhausted ones",
		Long: `Run the daemon that sends due letters back to work, sends exhausted ones to
review, answers those whose deadline passes and tells agents why they wait. Any
number may run, and any may be killed. It logs JSON lines on stderr and is
configured by the same environment as a worker; SIGTERM stops it cleanly.`,
		Example: `  NATS_URL=nats://127.0.0.1:4222 replayer run`,
		Args:    cobra.NoArgs,
		RunE:    c.do(func(cmd *cobra.Command, _ []string) error { return c.serve(cmd, shows) }),
	}
	cmd.Flags().BoolVar(&shows, "page", false, "show the operators' page too, on FETCH_PAGE_ADDR; its acts need an operator's rights")
	return cmd
}

// serve runs the daemon until ctx ends. Everything is opened in the order it
// depends on, and closed in the reverse.
func (c *cli) serve(cmd *cobra.Command, shows bool) (err error) {
	ctx := cmd.Context()
	environment := app.WatchEnvironment(c.getenv)
	config, err := app.Load(environment.Get)
	if err != nil {
		return err
	}
	logger, err := app.NewLogger(config, c.errs)
	if err != nil {
		return err
	}
	var closing app.Stack
	defer func() {
		err = errors.Join(err, closing.Close())
		_ = logger.Sync() // a terminal cannot be synced
	}()
	name := daemonName()
	logger = logger.With(zap.String("replayer", name))
	environment.Warn(logger)
	tracer, stopTraces, err := app.StartTracing(ctx, c.getenv, "fetchworker-replayer", version, name, logger)
	if err != nil {
		return err
	}
	closing.Push("traces", stopTraces)

	address, err := c.address("replayer")
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	vitals := app.NewVitals(registry)
	listener, err := app.ListenIfFree(config, c.getenv, registry, vitals.Ready, logger)
	if err != nil {
		return err
	}
	closing.Push("http", listener.Close)
	nc, err := broker.Connect(ctx, address, logger, nil)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // stopped while it waited
	}
	if err != nil {
		return connectError(address, err)
	}
	closing.Push("nats", func() error { nc.Close(); return nil })
	vitals.Joined(nc)
	js, err := broker.JetStream(nc)
	if err != nil {
		return err
	}
	if err := app.Start(ctx, vitals, js, config, logger); ctx.Err() != nil {
		return nil
	} else if err != nil {
		return err
	}
	if err := errors.Join(broker.ServeDLQ(ctx, js), broker.MayReplay(ctx, js)); err != nil {
		return err
	}
	kv, err := js.KeyValue(ctx, wire.BucketProviders)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", wire.BucketProviders, err)
	}
	board, err := fleet.Watch(ctx, js, kv)
	if err != nil {
		return err
	}
	closing.Push("board", func() error { board.Close(); return nil })

	cancels, err := cancel.Watch(ctx, js, kv)
	if err != nil {
		return fmt.Errorf("watch what is cancelled: %w", err)
	}
	closing.Push("cancels", func() error { cancels.Close(); return nil })

	book := usage.NewBook(js, logger)
	closing.Push("usage", app.Beside(book.Run))
	log := record.New(js, nil)
	replayer := dlq.NewReplayer(js, log, board, dlq.Config{
		Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer,
		Heal:    func(ctx context.Context) error { return broker.HealDLQ(ctx, js, logger) },
		Cancels: cancels,
		Failed:  func(l dlq.Letter) { book.Add(l.Provider, l.Agent, usage.Failed, 1, board.Now()) },
		Retries: config.Retries, MaxLife: config.MaxLife, Logger: logger, Registerer: registry, Tracer: tracer,
	})
	// Which names are known providers only a worker can say, so requests for
	// any other are left for one.
	sweeper := sweep.New(js, log, board, sweep.Config{
		MaxLife: config.MaxLife, Backlog: config.AgentBacklog, Logger: logger,
	})
	if shows && config.PageAddr != "off" {
		shown, err := c.showPage(cmd, nc, config, logger)
		if err != nil {
			return err
		}
		closing.Push("page", shown.Close)
		listener.Shows(shown.Addr())
		logger.Info("the operators' page is shown", zap.String("url", shown.URL()))
	}
	vitals.Serves(app.All(ready(js), func(context.Context) error { return replayer.Ready() }))
	logger.Info("replayer runs", zap.String("nats", nc.ConnectedUrlRedacted()), zap.String("http", listener.Addr()))
	group, running := errgroup.WithContext(ctx)
	// A connection that was closed for good does not come back by itself.
	closed := js.Conn().StatusChanged(nats.CLOSED)
	group.Go(func() error {
		select {
		case <-running.Done():
			return nil
		case <-closed:
			return fmt.Errorf("the connection to NATS was closed: %w", js.Conn().LastError())
		}
	})
	group.Go(func() error { return replayer.Run(running) })
	group.Go(func() error { return sweeper.Run(running) })
	err = group.Wait()
	logger.Info("replayer stops", zap.Error(err))
	return err
}

// ready says whether the DLQ can be reached.
func ready(js jetstream.JetStream) app.Health {
	return func(ctx context.Context) error {
		if _, err := js.Consumer(ctx, wire.StreamDLQ, broker.ReplayerConsumer); err != nil {
			return fmt.Errorf("consumer %s: %w", broker.ReplayerConsumer, err)
		}
		return nil
	}
}

// daemonName is unique in the fleet: host and a few random letters, since
// hosts in containers may share a name.
func daemonName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "replayer"
	}
	return strings.ToLower(host) + "-" + strings.ToLower(rand.Text()[:4])
}
