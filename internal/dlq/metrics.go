package dlq

import (
	"github.com/prometheus/client_golang/prometheus"
)

// What is done with letters, as the metric's action says.
const (
	didRelease = "released"
	didProbe   = "probe"
	didExpire  = "deadline_exceeded"
	didRefuse  = "provider_not_configured"
	didReview  = "review"
	didTell    = "told_to_wait"
	didFinish  = "already_answered"
)

// metrics count what one replayer does.
type metrics struct {
	letters *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{letters: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "replayer_letters_total",
		Help: "Dead letters by what this replayer did with them.",
	}, []string{"provider", "action"})}
	if r != nil {
		r.MustRegister(m.letters)
	}
	return m
}

func (m *metrics) did(action, provider string) {
	m.letters.WithLabelValues(provider, action).Inc()
}
