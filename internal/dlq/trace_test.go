package dlq_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"fetchworker"
	"fetchworker/internal/dlq"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
)

// Whatever an agent calls what it asks for, its span can be exported, for the
// others of its process go with it; and what is as it should be is told.
func TestWhateverARequestIsCalledItsSpanIsText(t *testing.T) {
	good := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}
	for _, odd := range []string{"", "a\xff", "\xc3", "ü", "a b", strings.Repeat("x", 5000), "\x00"} {
		for name, edit := range map[string]func(*dlq.Letter){
			"provider":  func(l *dlq.Letter) { l.Provider = odd },
			"operation": func(l *dlq.Letter) { l.Operation = odd },
			"agent":     func(l *dlq.Letter) { l.Agent = odd },
			"id":        func(l *dlq.Letter) { l.ID = odd },
			"lane":      func(l *dlq.Letter) { l.Lane = fetchworker.Lane(odd) },
		} {
			spans := tracetest.NewSpanRecorder()
			provider := trace.NewTracerProvider(trace.WithSpanProcessor(spans))
			_, span := provider.Tracer("test").Start(context.Background(), "replay") //nolint:usetesting // nothing of the test's
			l := dlq.Letter{Identity: good, Lane: fetchworker.LaneBatch, Generation: 1}
			edit(&l)
			l.Describe(span)
			span.End()
			told := map[string]string{}
			for _, a := range spans.Ended()[0].Attributes() {
				told[string(a.Key)] = a.Value.String()
				if a.Value.Type() == attribute.STRING && (!utf8.ValidString(a.Value.AsString()) || len(a.Value.AsString()) > 500) {
					t.Errorf("%s %.20q: %s is %.20q", name, odd, a.Key, a.Value.AsString())
				}
			}
			for key, want := range map[string]string{"provider": good.Provider, "operation": good.Operation, "agent": good.Agent, "request_id": good.ID, "lane": "batch"} {
				if got := told["fetch."+key]; got != want && strings.TrimPrefix(key, "request_") != name {
					t.Errorf("%s %.20q: %s is %q", name, odd, key, got)
				}
			}
		}
	}
}

// A request has one trace for its whole life, its agent's if there is one, and each
// attempt comes after the last one's.
func TestEveryAttemptIsOfOneTrace(t *testing.T) {
	const agents = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for name, c := range map[string]struct{ parent, state string }{
		"its agent's": {agents, "vendor=1"}, "none": {"", ""},
	} {
		l := dlq.Letter{Traceparent: c.parent, Tracestate: c.state}
		if linked := dlq.Previous(dlq.Remote(t.Context(), l.Traceparent, l.Tracestate)); len(linked) != 0 {
			t.Errorf("%s: before the first attempt there is %+v", name, linked)
		}
		root := c.parent
		var last oteltrace.SpanContext
		for attempt := range 3 {
			ctx := dlq.Remote(t.Context(), l.Traceparent, l.Tracestate)
			if linked := dlq.Previous(ctx); attempt > 0 && (len(linked) != 1 || linked[0].SpanContext.SpanID() != last.SpanID() || linked[0].SpanContext.TraceID() != last.TraceID()) {
				t.Errorf("%s: attempt %d comes after %+v", name, attempt, linked)
			}
			_, span := trace.NewTracerProvider().Tracer("test").Start(ctx, "fetch")
			l.Trace(span.SpanContext())
			last = span.SpanContext()
			if root == "" {
				root = l.Traceparent
			}
			if l.Traceparent != root || !strings.Contains(root, last.TraceID().String()) || c.state != "" && !strings.Contains(l.Tracestate, c.state) {
				t.Errorf("%s: attempt %d of %s is of %s, its parent %s with %s", name, attempt, root, last.TraceID(), l.Traceparent, l.Tracestate)
			}
			span.End()
		}
	}
}

// However much its agent's state holds, an attempt comes after the last one's.
func TestAFullStateKeepsTheLink(t *testing.T) {
	members := make([]string, 0, 32) // as many as the standard allows
	for i := range cap(members) {
		members = append(members, "v"+strconv.Itoa(i)+"=1")
	}
	l := dlq.Letter{Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Tracestate: strings.Join(members, ",")}
	_, span := trace.NewTracerProvider().Tracer("test").Start(dlq.Remote(t.Context(), l.Traceparent, l.Tracestate), "fetch")
	l.Trace(span.SpanContext())
	linked := dlq.Previous(dlq.Remote(t.Context(), l.Traceparent, l.Tracestate))
	if len(linked) != 1 || linked[0].SpanContext.SpanID() != span.SpanContext().SpanID() || !strings.Contains(l.Tracestate, "v0=1,") {
		t.Errorf("after it comes %+v, of %s", linked, l.Tracestate)
	}
	span.End()
}
