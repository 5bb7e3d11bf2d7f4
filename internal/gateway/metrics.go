package gateway

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what comes over HTTP. No label is a caller's word.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	streams  prometheus.Gauge
	corrupt  prometheus.Counter
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fetch_gateway_requests_total", Help: "HTTP requests, by path pattern and status. 499: the client went away.",
		}, []string{"path", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "fetch_gateway_request_seconds", Help: "How long HTTP requests took, the wait for the answer included.",
			Buckets: []float64{.005, .02, .1, .5, 2, 10, 30, 120},
		}, []string{"path"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fetch_gateway_event_streams", Help: "Streams of server-sent events that are open.",
		}),
		corrupt: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fetch_gateway_corrupt_bodies_total", Help: "Stored bodies that were not what their answers promise.",
		}),
	}
	if registry != nil {
		registry.MustRegister(m.requests, m.seconds, m.streams, m.corrupt)
	}
	return m
}

func (m *metrics) done(path string, status int, began time.Time) {
	if path == "" {
		path = "none"
	}
	m.requests.WithLabelValues(path, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(path).Observe(time.Since(began).Seconds())
}
