// Package gateway is the front door for agents that do not speak NATS: HTTP,
// server-sent events, and tools for language models (MCP) on /mcp.
//
// It stands on the agents' client alone and holds no state that matters: any
// gateway serves any call, a request that waits holds no connection, and what
// was asked goes on when the gateway stops.
package gateway

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"

	"fetchworker"
	"fetchworker/internal/gateway/catalogue"
	"fetchworker/internal/gateway/tokens"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

// Config is what a gateway stands on.
type Config struct {
	NC      *nats.Conn   // of a user who may ask for every agent; it goes on being the caller's
	Tokens  *tokens.File // who asks; nil: this machine only, and Fetch-Agent says who
	Origins []string     // of pages in browsers that may ask, beside the gateway's own
	Version string
	Logger  *zap.Logger
	Metrics prometheus.Registerer
	Tracer  trace.Tracer // nil: no spans; a caller's trace goes on all the same

	patience patience // zero: the usual
}

// Gateway answers HTTP requests.
type Gateway struct {
	config    Config
	agents    *agents
	catalogue *catalogue.Catalogue
	lately    *lately
	metrics   *metrics
	handler   http.Handler
	api       cachedAPI
	streams   atomic.Int64  // that are open
	reading   chan struct{} // who reads the store for a stream
	parts     chan struct{} // of large bodies that are on their way
	small     atomic.Int64  // when the last small answer was, in Unix nanoseconds

	stopping context.Context // ends when the gateway is about to stop
	stop     context.CancelFunc
}

// New makes a gateway. Close ends it.
func New(c Config) (*Gateway, error) {
	if c.Tracer == nil {
		c.Tracer = noop.NewTracerProvider().Tracer("")
	}
	if c.patience == (patience{}) {
		c.patience = usual
	}
	asking, err := fetchworker.NewClient(c.NC, "gateway")
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	g := &Gateway{config: c, agents: newAgents(c.NC), catalogue: catalogue.New(asking), lately: newLately(), metrics: newMetrics(c.Metrics), reading: make(chan struct{}, readers), parts: make(chan struct{}, partsAtOnce)}
	g.stopping, g.stop = context.WithCancel(context.Background())
	g.handler = g.routes()
	return g, nil
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.handler.ServeHTTP(w, r) }

// Close ends every wait and every stream, and the clients.
func (g *Gateway) Close() {
	g.stop()
	g.agents.close()
}
