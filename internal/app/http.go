package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Sampling of repeated log messages.
const (
	samplePeriod     = time.Second
	sampleFirst      = 100
	sampleThereafter = 100
)

// Listener serves metrics and health on one address.
type Listener struct {
	server *http.Server
	addr   net.Addr
	done   chan error
}

// Health says what /readyz answers; nil is ready.
type Health func(context.Context) error

// Listen starts to serve. Port 0 takes a free one; "off" serves nothing.
func Listen(addr string, metrics prometheus.Gatherer, ready Health, profiles bool) (*Listener, error) {
	if addr == "off" {
		return &Listener{}, nil
	}
	ln, err := net.Listen("tcp", addr) //nolint:noctx // at start, for the life of the process
	if err != nil {
		return nil, fmt.Errorf("%w: FETCH_HTTP_ADDR: %w (another worker on this machine? give each its own, or \"off\")", ErrConfig, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context()); err != nil {
			say(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		say(w, http.StatusOK, "ready")
	})
	if profiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	l := &Listener{
		server: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second},
		addr:   ln.Addr(), done: make(chan error, 1),
	}
	go func() { l.done <- l.server.Serve(ln) }()
	return l, nil
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, text) // the client is gone then
}

// Addr is where it listens, empty when it does not.
func (l *Listener) Addr() string {
	if l.addr == nil {
		return ""
	}
	return l.addr.String()
}

// Close stops serving; requests under way get two seconds.
func (l *Listener) Close() error {
	if l.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := l.server.Shutdown(ctx)
	if serveErr := <-l.done; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}
