package fetch

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// A request's trace tells its turns: how long it was queued and waited for its
// permit, what it was called with and what that came to, what was stored of it,
// and what went wrong; and of a letter's, which attempt it comes after.
func TestWhatATurnTellsInItsTrace(t *testing.T) {
	stepping(t, func(t *testing.T, s *steps) {
		spans := tracetest.NewSpanRecorder()
		s.tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("")
		stumbles, fails, cut := false, true, false
		s.hook = func(point string, _ bool) error {
			if point == "ack" && stumbles {
				stumbles = false
				return errors.New("stumbled")
			}
			return nil
		}
		s.upstream.Fallback = func(*http.Request) *providertest.Step {
			step := providertest.JSON(200, `[{"symbol":"AAPL","price":1}]`)
			if fails {
				step = providertest.JSON(503, "boom")
			}
			if fails = false; cut {
				step.Cut = -1
			}
			return &step
		}
		told := func() (lines []string) {
			t.Helper()
			names := map[string]string{}
			for _, span := range spans.Ended() {
				names[span.SpanContext().SpanID().String()] = span.Name()
			}
			for _, span := range spans.Ended() {
				line := span.Name()
				if parent := names[span.Parent().SpanID().String()]; parent != "" {
					line += " < " + parent
				}
				for _, a := range span.Attributes() {
					switch key := string(a.Key); key {
					case "fetch.reason", "fetch.class", "fetch.error_class", "fetch.failures", "fetch.status", "fetch.final", "fetch.source",
						"http.request.resend_count", "http.response.status_code", "error.type", "server.port", "server.address", "fetch.request_id", "fetch.deliveries":
						line += fmt.Sprintf(" %s=%s", key, a.Value.String())
					}
				}
				if len(span.Links()) > 0 {
					line += fmt.Sprintf(" after %d", len(span.Links()))
				}
				if span.Status().Description != "" {
					line += " " + span.Status().Code.String()
				}
				lines = append(lines, line)
			}
			spans.Reset()
			return lines
		}
		expect := func(what string, want ...string) {
			t.Helper()
			if got := told(); !slices.Equal(got, want) {
				t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		d := s.take("q", "AAPL", "")
		s.handle(d)
		expect("a failure",
			"queue < process FETCH_REQUESTS",
			"permit < process FETCH_REQUESTS",
			"GET /quote/{symbol} < process FETCH_REQUESTS server.address=upstream.test server.port=80 http.response.status_code=503 fetch.class=transient error.type=503 Error",
			"dead letter FETCH_DLQ < process FETCH_REQUESTS fetch.error_class=transient fetch.failures=1",
			"process FETCH_REQUESTS fetch.deliveries=1 fetch.request_id=q fetch.failures=0")
		raw, err := s.log.Last(t.Context(), wire.StreamDLQ, "fetch.dlq.fmp.interactive.quote.alice.q")
		if err != nil {
			t.Fatal(err)
		}
		letter, err := dlq.Decode(raw.Subject, raw.Header, raw.Data)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.b.JS.PublishMsg(t.Context(), letter.Replayed()); err != nil {
			t.Fatal(err)
		}
		s.handle(<-s.came)
		expect("its retry",
			"queue < process FETCH_REPLAY",
			"permit < process FETCH_REPLAY",
			"GET /quote/{symbol} < process FETCH_REPLAY server.address=upstream.test server.port=80 http.request.resend_count=1 http.response.status_code=200 fetch.class=ok",
			"answer FETCH_RESULTS < process FETCH_REPLAY fetch.status=ok fetch.final=true fetch.source=origin",
			"process FETCH_REPLAY fetch.deliveries=1 fetch.request_id=q fetch.failures=1 after 1")
		stumbles = true
		s.handle(s.take("stumbles", "MSFT", ""))
		expect("one that begins anew",
			"queue < process FETCH_REQUESTS",
			"permit < process FETCH_REQUESTS",
			"GET /quote/{symbol} < process FETCH_REQUESTS server.address=upstream.test server.port=80 http.response.status_code=200 fetch.class=ok",
			"answer FETCH_RESULTS < process FETCH_REQUESTS fetch.status=ok fetch.final=true fetch.source=origin",
			"process FETCH_REQUESTS fetch.deliveries=1 fetch.request_id=stumbles fetch.failures=0 Error",
			"queue < process FETCH_REQUESTS", // and finds its answer
			"process FETCH_REQUESTS fetch.deliveries=1 fetch.request_id=stumbles fetch.failures=0")
		cut = true
		s.handle(s.take("cut", "TSLA", ""))
		expect("a call that is cut off",
			"queue < process FETCH_REQUESTS",
			"permit < process FETCH_REQUESTS",
			"GET /quote/{symbol} < process FETCH_REQUESTS server.address=upstream.test server.port=80 fetch.class=transient error.type=network Error",
			"dead letter FETCH_DLQ < process FETCH_REQUESTS fetch.error_class=transient fetch.failures=1",
			"process FETCH_REQUESTS fetch.deliveries=1 fetch.request_id=cut fetch.failures=0")
		if err := fleet.Pause(t.Context(), s.b.KV, "fmp", time.Now().Add(time.Hour), "ann", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		s.handle(s.take("paused", "NVDA", ""))
		expect("a pause",
			"queue < process FETCH_REQUESTS",
			"permit < process FETCH_REQUESTS fetch.reason=paused",
			"dead letter FETCH_DLQ < process FETCH_REQUESTS fetch.error_class=paused fetch.failures=0",
			"answer FETCH_RESULTS < process FETCH_REQUESTS fetch.status=waiting fetch.final=false fetch.source=",
			"process FETCH_REQUESTS fetch.deliveries=1 fetch.request_id=paused fetch.failures=0")
	})
}
