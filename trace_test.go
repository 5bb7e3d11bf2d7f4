package fetchworker

import (
	"testing"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"
)

func TestATraceTravelsOnlyIfThereIsOne(t *testing.T) {
	m := nats.NewMsg("fetch.request.fmp.interactive.quote.alice")
	inject(t.Context(), m)
	if len(m.Header) != 0 {
		t.Errorf("without a trace: %v", m.Header)
	}
	const want = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	traceID, err := trace.TraceIDFromHex(want[3:35])
	if err != nil {
		t.Fatal(err)
	}
	spanID, err := trace.SpanIDFromHex(want[36:52])
	if err != nil {
		t.Fatal(err)
	}
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: traceID, SpanID: spanID, TraceFlags: trace.FlagsSampled,
	}))
	inject(ctx, m)
	// NATS headers keep their case, and the worker looks for this one.
	if got := m.Header["traceparent"]; len(got) != 1 || got[0] != want {
		t.Errorf("%v", m.Header)
	}
}
