package app

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// tracesFlush is how long a stop may take to send the last spans.
const tracesFlush = 5 * time.Second

// StartTracing sends spans over OTLP and HTTP if OpenTelemetry's own variables
// ask for it, and returns a nil tracer if they don't: then nothing is traced
// and nothing is spent on it. The variables are the SDK's; service and version
// are what it says of the process unless they say otherwise.
func StartTracing(ctx context.Context, getenv func(string) string, service, version, instance string, logger *zap.Logger) (trace.Tracer, func() error, error) {
	none := func() error { return nil }
	endpoint := getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") + getenv("OTEL_EXPORTER_OTLP_ENDPOINT")
	if endpoint == "" || getenv("OTEL_SDK_DISABLED") == "true" || getenv("OTEL_TRACES_EXPORTER") == "none" {
		return nil, none, nil
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if protocol := getenv(name); protocol != "" && protocol != "http/protobuf" {
			return nil, none, fmt.Errorf("%w: %s: spans are sent as http/protobuf only; it is %q", ErrConfig, name, protocol)
		}
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, none, fmt.Errorf("traces: %w", err)
	}
	attributes := []attribute.KeyValue{semconv.ServiceName(service), semconv.ServiceInstanceID(instance)}
	if version != "" {
		attributes = append(attributes, semconv.ServiceVersion(version))
	}
	described, err := resource.New(ctx, resource.WithAttributes(attributes...), resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, none, fmt.Errorf("traces: %w", err)
	}
	// The SDK's only way to say that spans are lost.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { logger.Warn("traces", zap.Error(err)) }))
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(described))
	stop := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), tracesFlush)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			logger.Warn("last spans not sent", zap.Error(err)) // no reason for the process to fail
		}
		return nil
	}
	return provider.Tracer("fetchworker"), stop, nil
}
