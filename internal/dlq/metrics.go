package dlq

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What is done with letters, as the metric's action says.
const (
	didRelease = "released"
	didProbe   = "probe"
	didExpire  = "deadline_exceeded"
	didRefuse  = "provider_not_configured"
	didCancel  = "cancelled"
	didReview  = "review"
	didTell    = "told_to_wait"
	didFinish  = "already_answered"
)

// metrics count what one replayer does.
type metrics struct {
	letters *prometheus.CounterVec
	panics  prometheus.Counter
	dropped prometheus.Counter
}

func newMetrics(r prometheus.Registerer, ready func() error, now func() time.Time) *metrics {
	m := &metrics{
		letters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "replayer_letters_total",
			Help: "Dead letters by what this replayer did with them.",
		}, []string{"provider", "action"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "replayer_panics_total",
			Help: "Dead letters set aside because they made this replayer panic.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "replayer_dropped_total",
			Help: "Messages deleted from the DLQ because no answer could be stored under what their subject names.",
		}),
	}
	running := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "replayer_running", Help: "1 while letters can be pulled.",
	}, func() float64 {
		if ready() != nil {
			return 0
		}
		return 1
	})
	skew := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "replayer_clock_skew_seconds",
		Help: "How far this machine's clock is ahead of the server's, which is the one that counts.",
	}, func() float64 { return time.Since(now()).Seconds() })
	if r != nil {
		r.MustRegister(m.letters, m.panics, m.dropped, running, skew)
	}
	return m
}

// otherProviders is the label of names that nobody serves: anybody can make
// one up, and as many as they like.
const otherProviders = "(other)"

func (r *Replayer) did(action, provider string) {
	if !r.gates.of(provider, r.now()).known {
		provider = otherProviders
	}
	r.metrics.letters.WithLabelValues(provider, action).Inc()
}

// ended tells that a request has ended without what was asked for, if this
// replayer's answer is what ended it.
func (r *Replayer) ended(l Letter, mine bool) {
	if mine && r.config.Failed != nil {
		r.config.Failed(l)
	}
}
