package gateway

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"fetchworker/internal/broker/brokertest"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// A bug costs one request: its caller is told where nothing was said yet, and cut
// off in the midst of an answer, or half of one would look like a good one; the log
// says where the bug is and never what it held, which may be a key; and it is
// counted, its span ends as an error, and the agent's place is given back.
func TestABugCostsOneRequest(t *testing.T) {
	b := brokertest.Start(t)
	for name, c := range map[string]struct {
		bug    func(*call)
		status int
		body   string
		cutOff bool
		logged int
	}{
		"before anything is said":  {func(*call) { panic("key s3cret") }, http.StatusInternalServerError, "a bug in the gateway; it is in its log", false, 1},
		"an error as its value":    {func(*call) { panic(http.ErrBodyNotAllowed) }, http.StatusInternalServerError, "a bug in the gateway; it is in its log", false, 1},
		"in the midst of it":       {func(c *call) { _, _ = c.w.Write([]byte("half")); panic("key s3cret") }, http.StatusInternalServerError, "half", true, 1},
		"what ends a cut answer":   {func(c *call) { _, _ = c.w.Write([]byte("half")); panic(http.ErrAbortHandler) }, 499, "half", true, 0},
		"nothing but its head":     {func(c *call) { c.w.WriteHeader(http.StatusOK); panic("key s3cret") }, http.StatusInternalServerError, "", true, 1},
		"none":                     {func(c *call) { c.w.WriteHeader(http.StatusNoContent) }, http.StatusNoContent, "", false, 0},
		"none, and it goes wrong":  {func(c *call) { refuse(c.w, http.StatusServiceUnavailable, "later") }, http.StatusServiceUnavailable, "later", false, 0},
		"a hint before the answer": {func(c *call) { c.w.WriteHeader(http.StatusEarlyHints); refuse(c.w, http.StatusNotFound, "no") }, http.StatusNotFound, "no", false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.DebugLevel)
			spans := tracetest.NewSpanRecorder()
			traces := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
			registry := prometheus.NewRegistry()
			g, err := New(Config{NC: b.NC, Logger: zap.New(core), Tracer: traces.Tracer(""), Metrics: registry})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			w := httptest.NewRecorder()
			cutOff := func() (cut bool) {
				defer func() { cut = recover() != nil }()
				g.handle("/v1/limits", c.bug).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/limits", nil))
				return false
			}()
			if cutOff != c.cutOff || !strings.Contains(w.Body.String(), c.body) || !c.cutOff && w.Code != c.status && w.Code != http.StatusEarlyHints {
				t.Errorf("cut off: %t, %d %q", cutOff, w.Code, w.Body)
			}
			if got, want := counted(t, registry), fmt.Sprint(c.status); got != want {
				t.Errorf("it is counted as %s, want %s", got, want)
			}
			ended := spans.Ended()
			if len(ended) != 1 || (ended[0].Status().Code == codes.Error) != (c.status == 500 || c.status == 503) {
				t.Errorf("%d spans ended, %v", len(ended), ended)
			}
			if logs.Len() != c.logged {
				t.Errorf("%d lines in the log", logs.Len())
			}
			for _, line := range logs.All() {
				text := line.Message
				for _, f := range line.ContextMap() {
					said, _ := f.(string)
					text += said
				}
				if strings.Contains(text, "s3cret") || !strings.Contains(text, "bug_internal_test.go") || !strings.Contains(text, "/v1/limits") {
					t.Errorf("the log says %s", text)
				}
			}
			if one := g.agents.byName[anybody]; one == nil || one.users != 0 {
				t.Errorf("its agent is %+v", one)
			}
		})
	}
}

// counted are the statuses of the requests of a path that were counted, each once.
func counted(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var statuses []string
	for _, family := range families {
		if family.GetName() != "fetch_gateway_requests_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetName() == "status" {
					statuses = append(statuses, label.GetValue()+strings.Repeat(" again", int(m.GetCounter().GetValue())-1))
				}
			}
		}
	}
	return strings.Join(statuses, ", ")
}
