package fetch

import (
	"strconv"
	"time"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/providers"
	"fetchworker/internal/wire"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what a worker counts of its own work. Labels are bounded: the
// endpoint is an operation's name, never a path.
type metrics struct {
	requests   *prometheus.CounterVec
	latency    *prometheus.HistogramVec
	errors     *prometheus.CounterVec
	limitHits  *prometheus.CounterVec
	throttled  *prometheus.CounterVec
	permitWait *prometheus.HistogramVec
	answers    *prometheus.CounterVec
	toAnswer   *prometheus.HistogramVec
	letters    *prometheus.CounterVec
	replays    *prometheus.CounterVec
	lookups    *prometheus.CounterVec

	cacheDropped prometheus.Counter
}

// laneReplay is what the lane of a replayed request is called in metrics.
const laneReplay = "replay"

// limitHitAfter is the wait from which a request counts as having met the
// rate limit: longer than a permit takes while there are any.
const limitHitAfter = 250 * time.Millisecond

func newMetrics(r prometheus.Registerer, serve []Served) *metrics {
	if r == nil {
		r = prometheus.NewRegistry()
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		r.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		r.MustRegister(h)
		return h
	}
	calls := []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	waits := []float64{.001, .01, .1, .5, 1, 2, 5, 10, 30, 60, 90}
	lives := []float64{.01, .05, .1, .5, 1, 5, 15, 60, 300, 1800, 7200, 86400}
	m := &metrics{
		requests:   counter("provider_requests_total", "Calls made to a provider, by HTTP status, or error type where there was none.", "provider", "endpoint", "status"),
		latency:    histogram("provider_latency_seconds", "Duration of calls to a provider.", calls, "provider", "endpoint"),
		errors:     counter("provider_errors_total", "Calls that ended in an error, by type.", "provider", "endpoint", "error_type"),
		limitHits:  counter("rate_limit_hits_total", "Requests that had to wait for a permit, or were parked for want of one.", "provider"),
		throttled:  counter("rate_limit_429_total", "Calls that a provider answered as throttled.", "provider"),
		permitWait: histogram("fetch_permit_wait_seconds", "How long requests waited for a permit.", waits, "provider", "lane"),
		answers:    counter("fetch_answers_total", "Answers stored, by status.", "provider", "endpoint", "status", "source", "final"),
		toAnswer:   histogram("fetch_request_duration_seconds", "From a request's publish to its final answer.", lives, "provider", "lane"),
		letters:    counter("fetch_dead_letters_total", "Dead letters written, by class.", "provider", "class"),
		replays:    counter("fetch_replays_total", "Dead letters that came back to work.", "provider"),
		lookups:    counter("fetch_cache_lookups_total", "Looks for a body young enough: hit or miss.", "provider", "result"),
	}
	m.cacheDropped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fetch_cache_writes_dropped_total", Help: "Bodies not written to the shared cache, because it was slower than the providers.",
	})
	r.MustRegister(m.cacheDropped)
	for _, s := range serve {
		// A counter that is not there until its first event hides that event
		// from rate().
		p := s.Provider.Name
		for _, c := range []*prometheus.CounterVec{m.limitHits, m.throttled, m.replays} {
			c.WithLabelValues(p)
		}
		for _, result := range []string{lookupHit, lookupMiss} {
			m.lookups.WithLabelValues(p, result)
		}
		for _, class := range []wire.Class{wire.ClassTransient, wire.ClassCircuitOpen, wire.ClassPoison} {
			m.letters.WithLabelValues(p, string(class))
		}
	}
	return m
}

const (
	lookupHit  = "hit"
	lookupMiss = "miss"
)

func (m *metrics) lookup(r *request, hit bool) {
	result := lookupMiss
	if hit {
		result = lookupHit
	}
	m.lookups.WithLabelValues(r.Provider, result).Inc()
}

func (m *metrics) replayed(provider string) { m.replays.WithLabelValues(provider).Inc() }

func (m *metrics) called(r *request, result *providers.Result) {
	status := result.ErrorType
	if result.HTTPStatus != 0 {
		status = strconv.Itoa(result.HTTPStatus)
	}
	provider, endpoint := r.Provider, r.call.Operation.Name
	m.requests.WithLabelValues(provider, endpoint, status).Inc()
	m.latency.WithLabelValues(provider, endpoint).Observe(result.Latency.Seconds())
	if result.Class != wire.ClassOK {
		m.errors.WithLabelValues(provider, endpoint, result.ErrorType).Inc()
	}
	if result.Class == wire.ClassThrottled {
		m.throttled.WithLabelValues(provider).Inc()
	}
}

func (m *metrics) waited(r *request, wait time.Duration, closed *budget.ClosedError) {
	m.permitWait.WithLabelValues(r.Provider, laneName(r)).Observe(wait.Seconds())
	if wait >= limitHitAfter || closed != nil && (closed.Reason == fetchworker.ReasonQuota || closed.Reason == fetchworker.ReasonThrottled) {
		m.limitHits.WithLabelValues(r.Provider).Inc()
	}
}

func (m *metrics) answer(r *request, a fetchworker.Answer) {
	endpoint := "unknown" // what an agent invents must not become a label
	if r.call != nil {
		endpoint = r.call.Operation.Name
	}
	m.answers.WithLabelValues(r.Provider, endpoint, string(a.Status), string(a.Source), strconv.FormatBool(a.Final)).Inc()
	if a.Final {
		m.toAnswer.WithLabelValues(r.Provider, laneName(r)).Observe(r.now().Sub(r.RequestedAt).Seconds())
	}
}

func (m *metrics) letter(r *request) {
	m.letters.WithLabelValues(r.Provider, string(r.Class)).Inc()
}

func laneName(r *request) string {
	if r.replayed {
		return laneReplay
	}
	return string(r.Lane)
}
