package app

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// Listener serves metrics and health on one address, and profiles there or on
// one of their own.
type Listener struct {
	addr, profiles *address
	page           *atomic.Value // the address of the operators' page
}

type address struct {
	server *http.Server
	addr   net.Addr
	done   chan error
}

// Listen starts to serve. Port 0 takes a free one; "off" serves nothing.
// profiles is "" for none, the same address, or another; a heap dump may hold
// a key, so it is to be loopback.
func Listen(addr string, metrics prometheus.Gatherer, ready Health, profiles string) (*Listener, error) {
	l := &Listener{page: new(atomic.Value)}
	mux := pages(metrics, ready, l.page)
	if profiles == addr {
		profile(mux)
	}
	var err error
	if addr != "off" {
		if l.addr, err = serve(addr, mux); err != nil {
			return nil, fmt.Errorf("%w: FETCH_HTTP_ADDR: %w (another worker on this machine? give each its own, or \"off\")", ErrConfig, err)
		}
	}
	if profiles != "" && profiles != addr {
		mux := http.NewServeMux()
		profile(mux)
		if l.profiles, err = serve(profiles, mux); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: FETCH_PPROF: %w", ErrConfig, err), l.Close())
		}
	}
	return l, nil
}

// ListenIfFree is Listen for a process that is no worker, of which one on the
// same machine may have the default address: only one that was asked for must
// be had.
func ListenIfFree(c Config, getenv func(string) string, metrics prometheus.Gatherer, ready Health, logger *zap.Logger) (*Listener, error) {
	l, err := Listen(c.HTTPAddr, metrics, ready, c.Pprof)
	if err != nil && getenv("FETCH_HTTP_ADDR") == "" {
		logger.Warn("no metrics and no health: set FETCH_HTTP_ADDR to an address that is free", zap.Error(err))
		return &Listener{}, nil
	}
	return l, err
}

func pages(metrics prometheus.Gatherer, ready Health, page *atomic.Value) *http.ServeMux {
	mux := http.NewServeMux()
	// One provider whose figures cannot be told is no reason to tell none.
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{EnableOpenMetrics: true, ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context()); err != nil {
			say(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		say(w, http.StatusOK, "ready")
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, home) // the client is gone then
		if addr, ok := page.Load().(string); ok {
			_, _ = fmt.Fprintf(w, homePage, html.EscapeString(asSeenFrom(r.Host, addr)))
		}
	})
	return mux
}

// Shows says that the operators' page is at this address, for who looks at the
// first page here.
func (l *Listener) Shows(addr string) {
	if l.page != nil {
		l.page.Store(addr)
	}
}

// asSeenFrom is an address for somebody who came to host: one that is every
// address of the machine is the one that they know.
func asSeenFrom(host, addr string) string {
	at, port, err := net.SplitHostPort(addr)
	if err != nil || !net.ParseIP(at).IsUnspecified() {
		return addr
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

const home = `<!doctype html><title>fetchworker</title>
<h1>fetchworker</h1>
<p><a href="/metrics">/metrics</a> for Prometheus
<p><a href="/readyz">/readyz</a> is it ready, or else why not
<p><a href="/healthz">/healthz</a> does it live
`

const homePage = `<p><a href="http://%[1]s/">the operators' page</a>
`

func profile(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

func serve(addr string, mux http.Handler) (*address, error) {
	ln, err := net.Listen("tcp", addr) //nolint:noctx // at start, for the life of the process
	if err != nil {
		return nil, err
	}
	a := &address{
		server: &http.Server{
			Handler: mux, MaxHeaderBytes: 64 << 10,
			// Nobody holds a connection for long; a profile takes half a minute.
			ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 90 * time.Second, IdleTimeout: 2 * time.Minute,
		},
		addr: ln.Addr(), done: make(chan error, 1),
	}
	go func() { a.done <- a.server.Serve(ln) }()
	return a, nil
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, text) // the client is gone then
}

// Addr is where it listens, empty when it does not.
func (l *Listener) Addr() string { return l.addr.text() }

// Profiles is where profiles are, if that is an address of their own.
func (l *Listener) Profiles() string { return l.profiles.text() }

func (a *address) text() string {
	if a == nil {
		return ""
	}
	return a.addr.String()
}

// Close stops serving; requests under way get two seconds.
func (l *Listener) Close() error { return errors.Join(l.addr.close(), l.profiles.close()) }

func (a *address) close() error {
	if a == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := a.server.Shutdown(ctx)
	if serveErr := <-a.done; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}
