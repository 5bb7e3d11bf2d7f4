package fetch

import (
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

func TestNoTraceCostsNothing(t *testing.T) {
	var off *tracer
	ctx := t.Context()
	allocations := testing.AllocsPerRun(100, func() {
		ctx, span := off.turn(ctx, nil)
		off.join(ctx, nil)
		waiting, permit := off.permit(ctx)
		permit(nil)
		calling, call := off.call(waiting, ctx, nil)
		call(nil)
		_, store := off.store(calling, "answer", "")
		store.End()
		ended(span, nil)
	})
	if allocations != 0 {
		t.Errorf("%v allocations", allocations)
	}
}

// A request that has a trace of its own stays in it, one that has none joins the
// worker's.
func TestARequestKeepsItsTrace(t *testing.T) {
	const own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	tr := newTracer(sdktrace.NewTracerProvider().Tracer(""))
	ctx, span := tr.Start(t.Context(), "turn")
	defer span.End()
	for had, keeps := range map[string]bool{own: true, "": false} {
		r := &request{delivery: new(delivery)}
		r.Traceparent = had
		tr.join(ctx, r)
		if keeps && r.Traceparent != own || !keeps && traceID(r.Traceparent) != span.SpanContext().TraceID().String() {
			t.Errorf("of %q became %q", had, r.Traceparent)
		}
	}
}
