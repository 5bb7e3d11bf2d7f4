package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/cancel"
	"fetchworker/internal/dlq"
	"fetchworker/internal/fetch"
	"fetchworker/internal/memory"
	"fetchworker/internal/observe"
	"fetchworker/internal/providers"
	"fetchworker/internal/record"
	"fetchworker/internal/sweep"
	"fetchworker/internal/usage"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// drainTime is how long a stop waits for what is in flight.
const drainTime = 30 * time.Second

// hooks are what a test or the demo puts into a worker.
type hooks struct {
	dial   providers.DialFunc
	record record.Hook
	ready  func(httpAddr, natsURL string)
	shown  func(pageURL string) // before ready

	acceptLoss bool // go on with a store that holds less than it did
}

// serve runs a worker until ctx ends, then drains it. Everything is opened in
// the order it depends on, and closed in the reverse.
func serve(ctx context.Context, getenv func(string) string, stderr io.Writer, h *hooks) (err error) {
	if h == nil {
		h = &hooks{}
	}
	environment := app.WatchEnvironment(getenv)
	getenv = environment.Get
	config, err := app.Load(getenv)
	if err != nil {
		return err
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

	var options []providers.Option
	if h.dial != nil {
		options = append(options, providers.WithDial(h.dial))
	}
	set, err := providers.Load(getenv, options...)
	if err != nil {
		return err
	}
	closing.Push("providers", func() error { set.Close(); return nil })

	name := workerName()
	logger = logger.With(zap.String("worker", name))
	for _, warning := range set.Warnings {
		logger.Warn("configuration", zap.String("warning", warning))
	}
	environment.Warn(logger, prefixes(set)...)
	tracer, stopTraces, err := app.StartTracing(ctx, getenv, "fetchworker", version, name, logger)
	if err != nil {
		return err
	}
	closing.Push("traces", stopTraces)
	var folder *broker.Folder
	if !config.NATS.Remote() {
		if folder, err = broker.TakeFolder(config.DataDir); err != nil {
			return err
		}
		closing.Push("data folder", func() error { folder.Leave(); return nil })
	}

	// Whoever watches the process sees it from here on.
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	vitals := app.NewVitals(registry)
	listener, err := app.Listen(config.HTTPAddr, registry, vitals.Ready, config.Pprof)
	if err != nil {
		return err
	}
	closing.Push("http", listener.Close)

	config.Topology.Return = h.acceptLoss
	server, err := join(ctx, config, folder, h.acceptLoss, name, logger, &closing)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // stopped while it waited
	}
	if err != nil {
		return err
	}
	nc, embedded := server.nc, server.embedded
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
	replays := config.Replay == "on" || config.Replay == "auto" && embedded != nil
	if replays {
		if err := errors.Join(broker.ServeDLQ(ctx, js), broker.MayReplay(ctx, js)); err != nil {
			return fmt.Errorf("FETCH_REPLAY=%s: %w", config.Replay, err)
		}
	}
	vitals.WaitsFor("what the fleet shares")
	kv, err := js.KeyValue(ctx, wire.BucketProviders)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", wire.BucketProviders, err)
	}

	// What is large goes over a connection of its own, so that nothing small waits
	// behind it.
	apart, err := server.connect("fetchworker worker " + name + ", large bodies")
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // stopped while it waited
	}
	if err != nil {
		return err
	}
	closing.Push("nats for large bodies", func() error {
		if !apart.IsConnected() {
			apart.Close() // what it still holds is of the cache, and no stop waits for that
			return nil
		}
		return drain(ctx, apart)
	})
	large, err := broker.JetStream(apart)
	if err != nil {
		return err
	}
	log := record.New(js, h.record)
	log.Apart(apart)
	events := newEvents(log, logger)
	closing.Push("events", events.close)
	if embedded != nil {
		registry.MustRegister(serverWarnings(embedded))
	}
	// A replayer asks all the time who lives; others seldom do.
	own := fleet.OwnKeys(name)
	if replays {
		own = nil
	}
	mirror, err := store.NewMirror(ctx, js, kv, nil, own...)
	if err != nil {
		return fmt.Errorf("watch %s: %w", wire.BucketProviders, err)
	}
	closing.Push("mirror", func() error { mirror.Close(); return nil })
	var board *fleet.View
	if replays {
		board = fleet.Follow(mirror)
	} else {
		board = fleet.Consult(js, kv, mirror)
	}
	closing.Push("board", func() error { board.Close(); return nil })
	roll, err := enrolled(ctx, js, board, set.Configured())
	if err != nil {
		return err
	}
	bodies := memory.New(config.BodyMemory)
	starts := newStarts(logger)
	serving, err := serveProviders(set.Configured(), &closing, func(p *providers.Provider) (fetch.Served, error) {
		p.AtMost(config.Concurrency)
		p.Within(bodies)
		return serveProvider(ctx, js, kv, p, budget.Settings{
			Provider: p.Name, Worker: name, Limits: p.Limits, Groups: fetch.Groups(p), Bytes: p.BytesPerMonth, Concurrency: config.Concurrency,
			Quota: p.Quota, AtOnce: int(p.AtOnce),
			CircuitFailures: config.CircuitFailures, CircuitOpen: config.CircuitOpen, CallTimeout: p.LongestTimeout(), Mirror: mirror,
			Begin: starts.begin(p.Name, roll.begins(js, kv, p.Name)),
		}, events.see)
	})
	if err != nil {
		return err
	}
	logStart(logger, config, set, embedded)

	cancels, guard, err := watchCancels(ctx, js, kv, name, &closing)
	if err != nil {
		return err
	}
	book := usage.NewBook(js, logger)
	closing.Push("usage", app.Beside(book.Run)) // after the last answer
	worker, err := fetch.New(fetch.Config{
		Name: name, JS: js, Large: large, KV: kv, Log: log, Serve: serving, Rights: set.Rights,
		Retries: config.Retries, RetryBase: config.RetryBase, MaxLife: config.MaxLife, Drain: drainTime, Rest: restAfter(),
		Logger: logger, Metrics: registry, Tracer: tracer,
		Cancels: guard, Usage: book, Memory: bodies,
	})
	if err != nil {
		return err
	}
	sweeper := sweep.New(js, log, board, sweep.Config{
		Known: set.Known, MaxLife: config.MaxLife, Backlog: config.AgentBacklog, Logger: logger,
	})
	registry.MustRegister(observe.New(js, board, observed(serving), logger))

	desk := cancel.NewDesk(cancels, log, served(board, set), config.MaxLife, logger)
	closing.Push("orders to cancel", func() error { desk.Close(); return nil })
	leave, err := announce(nc, name, serving, app.Endpoint{Name: "cancel", Subject: cancel.Subject, Handle: desk.Handle}, tellCatalogue(set, board, serving, logger))
	if err != nil {
		return err
	}
	closing.Push("micro service", leave)

	door, err := openGateway(ctx, config, embedded, name, registry, tracer, logger, &closing)
	if err != nil {
		return err
	}

	group, running := errgroup.WithContext(ctx)
	// A connection that was closed for good does not come back by itself.
	closed, largeClosed := nc.StatusChanged(nats.CLOSED), apart.StatusChanged(nats.CLOSED)
	group.Go(func() error {
		select {
		case <-running.Done():
			return nil
		case <-closed:
			return fmt.Errorf("the connection to NATS was closed: %w", nc.LastError())
		case <-largeClosed:
			return fmt.Errorf("the connection to NATS for large bodies was closed: %w", apart.LastError())
		}
	})
	group.Go(func() error { return worker.Run(running) })
	group.Go(func() error { return sweeper.Run(running) })
	group.Go(func() error {
		presence := fleet.Worker{Name: name, Version: version, Providers: names(serving), Keyless: keyless(set), Limits: configured(serving), Bytes: budgets(serving), Quotas: quotas(serving), Look: func(w *fleet.Worker) {
			w.Unable, w.Recent = unable(serving), recently(book)
		}}
		lives := fleet.Presence{Worker: presence, Mirror: mirror, Busy: worker.Busy}
		lives.Run(running, js, kv, func(err error) { logger.Warn("presence", zap.Error(err)) })
		return nil
	})
	group.Go(func() error {
		for wait.For(running, time.Minute) == nil {
			if err := board.Bury(running, kv); err != nil && running.Err() == nil {
				logger.Warn("presence", zap.Error(err))
			}
		}
		return nil
	})
	group.Go(func() error {
		adopt(running, js, serving, logger)
		return nil
	})
	group.Go(func() error { return starts.run(running) })
	checks := []app.Health{starts.ready, app.Connected(apart, "large bodies"), readiness(ctx, js, worker)}
	if replays {
		replayer := dlq.NewReplayer(js, log, board, dlq.Config{
			Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer,
			Heal:    func(ctx context.Context) error { return broker.HealDLQ(ctx, js, logger) },
			Cancels: cancels,
			Failed:  func(l dlq.Letter) { book.Add(l.Provider, l.Agent, usage.Failed, 1, board.Now()) },
			Retries: config.Retries, MaxLife: config.MaxLife, Logger: logger, Registerer: registry, Tracer: tracer,
		})
		checks = append(checks, func(context.Context) error { return replayer.Ready() })
		group.Go(func() error { return replayer.Run(running) })
	}
	if embedded != nil {
		if err := showPage(ctx, nc, embedded.URL(), config, getenv, h.shown, listener, logger, &closing); err != nil {
			return err
		}
	}
	vitals.Serves(app.All(checks...))
	url := ""
	if embedded != nil {
		url = embedded.URL()
	}
	logger.Info("serving", zap.Strings("providers", names(serving)), zap.String("http", listener.Addr()), zap.String("gateway", door), zap.String("next", next(url, serving)))
	if h.ready != nil {
		h.ready(listener.Addr(), url)
	}
	err = group.Wait()
	logger.Info("stopped")
	return err
}

// workerName is unique in the fleet, and tells an operator which process it is.
func workerName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "worker"
	}
	host = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(host))
	return fmt.Sprintf("%.32s-%d-%s", host, os.Getpid(), strings.ToLower(rand.Text()[:6]))
}

// unable is why this worker cannot call some of its providers.
func unable(serving []fetch.Served) map[string]string {
	why := map[string]string{}
	for _, s := range serving {
		if state := s.Gate.State(); state.Unable != "" {
			why[s.Provider.Name] = state.Unable
		}
	}
	return why
}

// configured are the limits of this worker's own configuration.
func configured(serving []fetch.Served) map[string]string {
	limits := map[string]string{}
	for _, s := range serving {
		limits[s.Provider.Name] = s.Provider.Limits.String()
	}
	return limits
}

// budgets are the months' bytes of the providers that have such a budget.
func budgets(serving []fetch.Served) map[string]int64 {
	bytes := map[string]int64{}
	for _, s := range serving {
		if s.Provider.BytesPerMonth > 0 {
			bytes[s.Provider.Name] = s.Provider.BytesPerMonth
		}
	}
	return bytes
}

// quotas are those that providers share with others.
func quotas(serving []fetch.Served) map[string]string {
	all := map[string]string{}
	for _, s := range serving {
		if s.Provider.Quota != "" {
			all[s.Provider.Name] = s.Provider.Quota
		}
	}
	return all
}

// keyless are the providers that are known and have no key.
func keyless(set *providers.Set) map[string]string {
	missing := map[string]string{}
	for _, p := range set.All() {
		if !p.Configured() {
			missing[p.Name] = p.KeyVariable()
		}
	}
	return missing
}

func names(serving []fetch.Served) []string {
	list := make([]string, 0, len(serving))
	for _, s := range serving {
		list = append(list, s.Provider.Name)
	}
	return list
}
