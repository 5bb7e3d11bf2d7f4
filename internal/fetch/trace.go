package fetch

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"fetchworker/internal/budget"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers"
	"fetchworker/internal/wire"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// tracer traces a request's turn in a worker: how long it was queued, waited
// for its permit, was called, and what was stored of it. A nil one costs
// nothing: every method returns at once.
type tracer struct{ trace.Tracer }

func newTracer(t trace.Tracer) *tracer {
	if t == nil {
		return nil
	}
	return &tracer{t}
}

// noSpan is what is ended where nothing is traced.
var noSpan = trace.SpanFromContext(context.Background())

// turn is the span of one delivery, from when its message was stored: what it
// waited in the queue is part of what the agent waits for.
func (t *tracer) turn(ctx context.Context, d *delivery) (context.Context, trace.Span) {
	if t == nil {
		return ctx, noSpan
	}
	h := d.msg.Headers()
	remote := dlq.Remote(ctx, h.Get(wire.HeaderTraceparent), h.Get(wire.HeaderTracestate))
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(d.stored),
		dlq.Messaging(semconv.MessagingOperationTypeProcess, "process", d.stream()),
		trace.WithAttributes(attribute.Int64("fetch.deliveries", int64(d.count))), //nolint:gosec // small
	}
	if d.replayed { // an agent's own tracestate links to nothing of ours
		options = append(options, trace.WithLinks(dlq.Previous(remote)...))
	}
	ctx, span := t.Start(remote, "process "+d.stream(), options...)
	_, queued := t.Start(ctx, "queue", trace.WithTimestamp(d.stored))
	queued.End()
	return ctx, span
}

// ended closes a turn's span.
func ended(span trace.Span, err error) {
	if err != nil && span.IsRecording() {
		dlq.Failed(span, err)
	}
	span.End()
}

// join makes the request part of the trace of ctx, if it has none of its own.
func (t *tracer) join(ctx context.Context, r *request) {
	if t == nil {
		return
	}
	span := trace.SpanFromContext(ctx)
	r.Describe(span)
	if r.Traceparent == "" {
		r.Trace(span.SpanContext())
	}
}

// permit is the span of a wait for a permit.
func (t *tracer) permit(ctx context.Context) (context.Context, func(*budget.ClosedError)) {
	if t == nil {
		return ctx, func(*budget.ClosedError) {}
	}
	ctx, span := t.Start(ctx, "permit")
	return ctx, func(closed *budget.ClosedError) {
		if closed != nil {
			span.SetAttributes(attribute.String("fetch.reason", string(closed.Reason)))
		}
		span.End()
	}
}

// call is the span of a provider call. Its context ends with the worker, not
// with the turn: a call once begun is not broken off.
func (t *tracer) call(ctx, working context.Context, r *request) (context.Context, func(*providers.Result)) {
	if t == nil {
		return working, func(*providers.Result) {}
	}
	target := r.served.Provider.URL(r.call)
	ctx, span := t.Start(trace.ContextWithSpan(working, trace.SpanFromContext(ctx)), http.MethodGet+" "+r.call.Operation.Path,
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
			semconv.HTTPRequestMethodGet, semconv.URLFull(target.String()), semconv.URLTemplate(r.call.Operation.Path),
			semconv.ServerAddress(target.Hostname()), semconv.ServerPort(portOf(target)),
			attribute.String("fetch.provider", r.Provider), attribute.String("fetch.operation", r.Operation)))
	if r.Calls > 0 {
		span.SetAttributes(semconv.HTTPRequestResendCount(r.Calls))
	}
	return ctx, func(result *providers.Result) {
		if result.HTTPStatus != 0 {
			span.SetAttributes(semconv.HTTPResponseStatusCode(result.HTTPStatus))
		}
		span.SetAttributes(attribute.String("fetch.class", string(result.Class)), attribute.Int64("fetch.wire_bytes", result.WireBytes))
		if result.ErrorType != "" {
			kind := result.ErrorType
			if result.HTTPStatus >= http.StatusBadRequest {
				kind = strconv.Itoa(result.HTTPStatus)
			}
			span.SetAttributes(semconv.ErrorTypeKey.String(kind))
			span.SetStatus(codes.Error, result.Detail) // redacted by providers
		}
		span.End()
	}
}

func portOf(u *url.URL) int {
	if port, err := strconv.Atoi(u.Port()); err == nil {
		return port
	}
	return map[string]int{"http": 80, "https": 443}[u.Scheme]
}

// store is the span of storing a letter or an answer.
func (t *tracer) store(ctx context.Context, what, stream string) (context.Context, trace.Span) {
	if t == nil {
		return ctx, noSpan
	}
	return t.Start(ctx, what+" "+stream, trace.WithSpanKind(trace.SpanKindProducer),
		dlq.Messaging(semconv.MessagingOperationTypeSend, what, stream))
}

// closedBy is the reason that a gate gave, nil if it was another error.
func closedBy(err error) *budget.ClosedError {
	if err == nil {
		return nil
	}
	var closed *budget.ClosedError
	errors.As(err, &closed)
	return closed
}
