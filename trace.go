package fetchworker

import (
	"context"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"
)

// inject writes the trace that ctx carries into a message's headers, and
// nothing if it carries none: a client starts no trace of its own.
func inject(ctx context.Context, m *nats.Msg) {
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	propagation.TraceContext{}.Inject(ctx, traceCarrier(m.Header))
}

// traceCarrier is a message's headers, which unlike HTTP's keep their case.
type traceCarrier nats.Header

func (c traceCarrier) Get(key string) string { return nats.Header(c).Get(key) }
func (c traceCarrier) Set(key, value string) { nats.Header(c).Set(key, value) }
func (c traceCarrier) Keys() []string        { return nil }
