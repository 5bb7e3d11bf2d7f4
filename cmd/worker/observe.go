package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/fetch"
	"fetchworker/internal/observe"
	"fetchworker/internal/providers"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// readiness is what /readyz answers: every stream there, every consumer giving
// work, and not draining.
func readiness(stop context.Context, js jetstream.JetStream, worker *fetch.Worker) app.Health {
	return func(ctx context.Context) error {
		if stop.Err() != nil {
			return errors.New("draining")
		}
		for _, name := range slices.Sorted(maps.Values(broker.StreamNames())) {
			if _, err := js.Stream(ctx, name); err != nil {
				return fmt.Errorf("stream %s: %w", name, err)
			}
		}
		return worker.Ready(ctx)
	}
}

// announce lists the worker as one of the fleet.
func announce(nc *nats.Conn, name string, serving []fetch.Served, endpoints ...app.Endpoint) (leave func() error, err error) {
	return app.Announce(nc, app.Instance{
		Service: "fetchworker", Description: "Fetches for agents, inside every provider's limits", Version: version,
		Metadata: map[string]string{"worker": name, "providers": strings.Join(names(serving), ",")},
		State:    func() any { return fetch.StatusOf(serving) }, Endpoints: endpoints,
	})
}

// observed are the served providers with what is told of them as metrics.
func observed(serving []fetch.Served) []observe.Served {
	all := make([]observe.Served, len(serving))
	for i, s := range serving {
		all[i] = observe.Served{Provider: s.Provider.Name, Gate: s.Gate}
	}
	return all
}

// buildInfo says which version runs.
func buildInfo() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fetch_build_info", Help: "1, with the version that runs as labels.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
	}, func() float64 { return 1 })
}

// serverWarnings counts what the embedded server warned of. A server of one's
// own has its own log.
func serverWarnings(embedded *broker.Embedded) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "fetch_nats_server_warnings_total", Help: "Warnings and errors that the embedded NATS server has logged.",
	}, func() float64 { return float64(embedded.Warnings()) })
}

// next says what to type, to somebody who has started a worker and looks at it;
// url is the embedded server's, if there is one.
func next(url string, serving []fetch.Served) string {
	server := ""
	switch {
	case len(serving) == 0:
		return "no provider can be called: set a key; worker check shows which variables are read"
	case url == "":
		return "replayer status shows what the fleet does"
	case url != nats.DefaultURL:
		server = " --server " + url
	}
	return fmt.Sprintf("fetch ops %s%s lists what can be asked, replayer status%s shows what the fleet does", serving[0].Provider.Name, server, server)
}

// logStart prints the configuration in force; it holds no key.
func logStart(logger *zap.Logger, config app.Config, set *providers.Set, embedded *broker.Embedded) {
	if embedded != nil {
		logger.Info("embedded NATS", zap.String("url", embedded.URL()), zap.String("data", config.DataDir))
	}
	for _, p := range set.All() {
		logger.Info("provider", zap.String("provider", p.Name), zap.Bool("configured", p.Configured()),
			zap.String("base_url", p.BaseURL), zap.Stringer("limits", p.Limits), zap.Duration("timeout", p.Timeout),
			zap.Int64("bytes_per_month", p.BytesPerMonth), zap.String("tier", p.Tier))
	}
	logger.Info("configuration", append(config.Fields(), zap.String("version", version))...)
}
