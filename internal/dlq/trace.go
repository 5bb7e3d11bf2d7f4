package dlq

import (
	"context"
	"strings"

	"fetchworker"
	"fetchworker/internal/wire"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// A request has one trace for its whole life. Its traceparent is the agent's,
// or else the first worker's, and every attempt, replay and review is a child
// of it. What an attempt comes after is a link: the last span is kept in
// tracestate under this key.
const previousSpan = "fetch"

// Remote puts the trace that a message carries into ctx.
func Remote(ctx context.Context, traceparent, tracestate string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{
		wire.HeaderTraceparent: traceparent, wire.HeaderTracestate: tracestate,
	})
}

// Previous is a link to the last span of the attempt before, if there was one.
func Previous(remote context.Context) []trace.Link {
	parent := trace.SpanContextFromContext(remote)
	id, err := trace.SpanIDFromHex(parent.TraceState().Get(previousSpan))
	if err != nil {
		return nil
	}
	return []trace.Link{{SpanContext: trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: parent.TraceID(), SpanID: id, TraceFlags: parent.TraceFlags(), Remote: true,
	})}}
}

// Trace makes span the one that the letter's next attempt comes after; and the
// root of its trace, if the letter had none.
func (l *Letter) Trace(span trace.SpanContext) {
	if !span.IsValid() {
		return
	}
	parent := trace.SpanContextFromContext(Remote(context.Background(), l.Traceparent, l.Tracestate))
	if !parent.IsValid() {
		parent = span
	}
	// It cannot fail: both are what they should be. Of a full state the last goes.
	state, _ := parent.TraceState().Insert(previousSpan, span.SpanID().String())
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), parent.WithTraceState(state)), carrier)
	l.Traceparent, l.Tracestate = carrier[wire.HeaderTraceparent], carrier[wire.HeaderTracestate]
}

// Describe puts what a request is into a span, as far as it can be what it
// should be: one attribute that is no UTF-8 makes the exporter refuse every
// span that goes with it.
func (l Letter) Describe(span trace.Span) {
	if !span.IsRecording() {
		return
	}
	checked := func(value string, valid func(string) bool) string {
		if !valid(value) {
			return ""
		}
		return value
	}
	token, id := fetchworker.ValidToken, checked(l.ID, fetchworker.ValidID)
	span.SetAttributes(
		semconv.MessagingMessageID(id), semconv.MessagingMessageBodySize(len(l.Body)),
		attribute.String("fetch.provider", checked(l.Provider, token)), attribute.String("fetch.operation", checked(l.Operation, token)),
		attribute.String("fetch.agent", checked(l.Agent, token)), attribute.String("fetch.request_id", id),
		attribute.String("fetch.lane", checked(string(l.Lane), token)),
		attribute.Int("fetch.generation", l.Generation), attribute.Int("fetch.calls", l.Calls), attribute.Int("fetch.failures", l.Failures),
	)
}

// Messaging are the attributes of an operation on one of our streams.
func Messaging(kind attribute.KeyValue, name, stream string) trace.SpanStartEventOption {
	return trace.WithAttributes(
		semconv.MessagingSystemKey.String("nats"), kind,
		semconv.MessagingOperationName(name), semconv.MessagingDestinationName(stream),
	)
}

// trace starts the span of what the replayer does with a letter.
func (r *Replayer) trace(ctx context.Context, l *held, a act) (context.Context, func(error)) {
	if r.config.Tracer == nil {
		return ctx, func(error) {}
	}
	name, stream := a.name()
	remote := Remote(ctx, l.Traceparent, l.Tracestate)
	ctx, span := r.config.Tracer.Start(remote, name+" "+stream,
		trace.WithSpanKind(trace.SpanKindProducer), trace.WithLinks(Previous(remote)...),
		Messaging(semconv.MessagingOperationTypeSend, name, stream))
	l.Describe(span)
	span.SetAttributes(attribute.String("fetch.error_class", string(l.Class)))
	return ctx, func(err error) {
		if err != nil {
			Failed(span, err)
		}
		span.End()
	}
}

// Failed puts an error into a span: its text may quote what an agent sent.
func Failed(span trace.Span, err error) {
	span.SetStatus(codes.Error, strings.ToValidUTF8(err.Error(), "\uFFFD"))
}

// name is what an act is called in traces, and the stream that it writes to.
func (a act) name() (name, stream string) {
	switch a {
	case actRelease:
		return "replay", wire.StreamReplay
	case actReview:
		return "review", wire.StreamReview
	case actExpire:
		return "expire", fetchworker.StreamResults
	case actRefuse:
		return "refuse", fetchworker.StreamResults
	case actHold:
		return "wait", fetchworker.StreamResults
	case actCancel:
		return "cancel", fetchworker.StreamResults
	case actDone:
	}
	return "finish", wire.StreamDLQ
}
