package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// receiver takes spans as a collector does.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*otlp.Span
	raw   bytes.Buffer // everything that came, to search it for secrets
	wrong int          // batches that were none
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body := io.Reader(req.Body)
		if req.Header.Get("Content-Encoding") == "gzip" {
			body, _ = gzip.NewReader(req.Body)
		}
		content, err := io.ReadAll(body)
		var m collector.ExportTraceServiceRequest
		if err != nil || proto.Unmarshal(content, &m) != nil {
			r.mu.Lock()
			r.wrong++
			r.mu.Unlock()
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.raw.Write(content)
		for _, resource := range m.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				r.spans = append(r.spans, scope.GetSpans()...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(r.Close)
	return r
}

// tree is the trace as indented lines, children in the order they started; a
// link is an arrow to the name of what it points to.
func (r *receiver) tree(trace string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	byID, children := map[string]*otlp.Span{}, map[string][]*otlp.Span{}
	for _, s := range r.spans {
		if hex.EncodeToString(s.GetTraceId()) == trace {
			byID[string(s.GetSpanId())] = s
			children[string(s.GetParentSpanId())] = append(children[string(s.GetParentSpanId())], s)
		}
	}
	var b strings.Builder
	var write func(parent, indent string)
	write = func(parent, indent string) {
		slices.SortStableFunc(children[parent], func(x, y *otlp.Span) int {
			return int(int64(x.GetStartTimeUnixNano()) - int64(y.GetStartTimeUnixNano()))
		})
		for _, s := range children[parent] {
			b.WriteString(indent + s.GetName())
			for _, l := range s.GetLinks() {
				b.WriteString(" -> " + byID[string(l.GetSpanId())].GetName())
			}
			b.WriteString("\n")
			write(string(s.GetSpanId()), indent+"  ")
		}
	}
	write("", "")
	return b.String()
}

func attributeOf(s *otlp.Span, key string) string {
	for _, a := range s.GetAttributes() {
		if a.GetKey() == key {
			if text := a.GetValue().GetStringValue(); text != "" {
				return text
			}
			return a.GetValue().String()
		}
	}
	return ""
}

// TestOneTraceFromTheAgentToReview follows a request that fails, is replayed
// and fails for good, and holds its spans to be one tree without a key in it.
func TestOneTraceFromTheAgentToReview(t *testing.T) {
	const key = "fmp-key-0123456789"
	spans := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	upstream, err := providertest.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	upstream.Script(providertest.JSON(500, `{"Error Message":"`+key+`"}`), providertest.JSON(422, `{"Error Message":"no such thing `+key+`"}`))

	env := map[string]string{
		"FMP_API_KEY": key, "FMP_BASE_URL": upstream.URL() + "/api/v3",
		"FETCH_NATS_ADDR": "127.0.0.1:0", "FETCH_HTTP_ADDR": "127.0.0.1:0", "FETCH_DATA_DIR": t.TempDir(), "FETCH_SYNC": "interval", "FETCH_GATEWAY": "off",
		"FETCH_RETRY_BASE_SECONDS": "0.1", "OTEL_EXPORTER_OTLP_ENDPOINT": spans.URL,
	}
	ctx, stop := context.WithCancel(t.Context())
	var logs bytes.Buffer
	urls, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- serve(ctx, func(name string) string { return env[name] }, &logs, &hooks{ready: func(_, url string) { urls <- url }})
	}()

	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	client, err := fetchworker.Connect(<-urls, "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	asking, ask := provider.Tracer("agent").Start(ctx, "ask")
	waiting, cancel := context.WithTimeout(asking, 20*time.Second)
	defer cancel()
	answer, err := client.Fetch(waiting, fetchworker.Request{Provider: "fmp", Operation: "quote", ID: "q-1", Params: []byte(`{"symbol":"AAPL"}`)})
	ask.End()
	if err != nil || answer.Status != fetchworker.StatusFailed || !answer.Review {
		t.Fatalf("%+v %v", answer, err)
	}
	trace := ask.SpanContext().TraceID().String()
	want := strings.TrimLeft(`
ask
  process FETCH_REQUESTS
    queue
    permit
    GET /quote/{symbol}
    dead letter FETCH_DLQ
  replay FETCH_REPLAY -> dead letter FETCH_DLQ
  process FETCH_REPLAY -> dead letter FETCH_DLQ
    queue
    permit
    GET /quote/{symbol}
    dead letter FETCH_DLQ
    answer FETCH_RESULTS
  review FETCH_REVIEW -> dead letter FETCH_DLQ
`, "\n")
	for deadline := time.Now().Add(10 * time.Second); spans.tree(trace) != want && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	if got := spans.tree(trace); got != want {
		t.Errorf("the trace is\n%s\nwant\n%s", got, want)
	}

	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	spans.mu.Lock()
	defer spans.mu.Unlock()
	if bytes.Contains(spans.raw.Bytes(), []byte(key)) {
		t.Error("the key is in a span")
	}
	for _, s := range spans.spans {
		if !strings.HasPrefix(s.GetName(), "GET ") {
			continue
		}
		url := attributeOf(s, "url.full")
		if url != upstream.URL()+"/api/v3/quote/AAPL" || s.GetKind() != otlp.Span_SPAN_KIND_CLIENT || attributeOf(s, "error.type") == "" {
			t.Errorf("%s: %v", url, s)
		}
	}
	if !strings.Contains(logs.String(), `"trace_id":"`+trace+`"`) {
		t.Error("the log does not name the trace")
	}
	if strings.Contains(logs.String(), key) {
		t.Error("the key is in the log")
	}
}

// TestOddBytesCostNobodyTheirTrace has agents send what is no UTF-8 wherever
// bytes can be: the spans of those who ask well, in the same batch, arrive.
func TestOddBytesCostNobodyTheirTrace(t *testing.T) {
	spans := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "700")
	upstream, err := providertest.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	upstream.Fallback = func(*http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, "[{\"price\":1,\"name\":\"\xff\xfe\"}]")
		return &step
	}
	env := map[string]string{
		"FMP_API_KEY": "fmp-key-0123456789", "FMP_BASE_URL": upstream.URL() + "/api/v3", "FMP_REQUESTS_PER_MINUTE": "0",
		"FETCH_NATS_ADDR": "127.0.0.1:0", "FETCH_HTTP_ADDR": "127.0.0.1:0", "FETCH_DATA_DIR": t.TempDir(), "FETCH_SYNC": "interval", "FETCH_GATEWAY": "off",
		"OTEL_EXPORTER_OTLP_ENDPOINT": spans.URL,
	}
	ctx, stop := context.WithCancel(t.Context())
	var logs bytes.Buffer
	urls, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- serve(ctx, func(name string) string { return env[name] }, &logs, &hooks{ready: func(_, url string) { urls <- url }})
	}()
	nc, err := nats.Connect(<-urls)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	send := func(subject, body string, headers ...string) {
		t.Helper()
		m := nats.NewMsg(subject)
		m.Data = []byte(body)
		for i := 0; i < len(headers); i += 2 {
			m.Header[headers[i]] = []string{headers[i+1]}
		}
		if _, err := nc.RequestMsg(m, 5*time.Second); err != nil {
			t.Fatalf("%q: %v", subject, err)
		}
	}
	const odd = "\xff\xc0\xed\xa0\x80"
	send("fetch.request.fmp.interactive.quote"+odd+".alice", `{"params":{"symbol":"A"}}`)
	send("fetch.request.fmp.interactive.quote.al"+odd, `{"params":{"symbol":"A"}}`)
	send("fetch.request.fmp.int"+odd+".quote.alice", `{"params":{"symbol":"A"}}`)
	send("fetch.request.f"+odd+".interactive.quote.alice", `{"params":{"symbol":"A"}}`)
	send("fetch.request.fmp.interactive.quote.alice", `{"id":"`+odd+`","params":{"symbol":"A"}}`)
	send("fetch.request.fmp.interactive.quote.alice", `{"params":{"symbol":"`+odd+`"}}`)
	send("fetch.request.fmp.interactive.quote.alice", `{"params":{"`+odd+`":"A"}}`)
	send("fetch.request.fmp.interactive.quote.alice", `{"reply_to":"`+odd+`","params":{"symbol":"A"}}`)
	send("fetch.request.fmp.interactive.quote.alice", odd)
	send("fetch.request.fmp.interactive.get.alice", `{"params":{"path":"/`+odd+`"}}`)
	send("fetch.request.fmp.interactive.quote.alice", `{"params":{"symbol":"B"}}`, "traceparent", odd, "tracestate", odd, "Nats-Msg-Id", odd)
	client, err := fetchworker.NewClient(nc, "bob")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const good = 5
	for i := range good {
		waiting, cancel := context.WithTimeout(ctx, 20*time.Second)
		if _, err := client.Fetch(waiting, fetchworker.Request{Provider: "fmp", Operation: "quote", ID: fmt.Sprint("good-", i), Params: []byte(`{"symbol":"AAPL"}`)}); err != nil {
			t.Error(err)
		}
		cancel()
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	spans.mu.Lock()
	defer spans.mu.Unlock()
	seen := map[string]bool{}
	for _, s := range spans.spans {
		if id := attributeOf(s, "fetch.request_id"); strings.HasPrefix(id, "good-") {
			seen[id] = true
		}
	}
	if len(seen) != good || spans.wrong > 0 {
		t.Errorf("%d of %d traces came, %d batches were refused", len(seen), good, spans.wrong)
	}
	if line := "invalid UTF-8"; strings.Contains(logs.String(), line) {
		t.Errorf("spans are lost: %s", logs.String()[strings.Index(logs.String(), line):])
	}
}
