package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker/internal/app"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/gateway/tokens"
	"fetchworker/internal/providers/providertest"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// door is a worker that is all of the service, with its front door open.
type door struct {
	t      *testing.T
	broken *atomic.Bool // the provider
	url    string
	token  string
	logs   *locked
}

// locked is a buffer that a running worker writes to.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const doorKey = "fmp-key-0123456789"

func openDoor(t *testing.T, pairs ...string) *door {
	t.Helper()
	upstream, err := providertest.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	broken := &atomic.Bool{}
	upstream.Fallback = func(r *http.Request) *providertest.Step {
		answer := providertest.JSON(200, `[{"symbol":"`+path.Base(r.URL.Path)+`","price":191.31}]`)
		if broken.Load() {
			answer = providertest.JSON(500, `{"Error Message":"apikey=`+doorKey+` is broken"}`)
		}
		return &answer
	}
	token, line, err := tokens.New("alice")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	if err := os.WriteFile(file, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &door{t: t, broken: broken, token: token, logs: &locked{}}
	addr := "127.0.0.1:" + strconv.Itoa(brokertest.FreePort(t))
	d.url = "http://" + addr
	env := map[string]string{
		"FMP_API_KEY": doorKey, "FMP_BASE_URL": upstream.URL() + "/api/v3", "FMP_REQUESTS_PER_MINUTE": "0",
		"FETCH_NATS_ADDR": "127.0.0.1:0", "FETCH_HTTP_ADDR": "127.0.0.1:0", "FETCH_DATA_DIR": t.TempDir(), "FETCH_SYNC": "interval",
		"FETCH_RETRY_BASE_SECONDS": "0.05", "FETCH_GATEWAY_ADDR": addr, "FETCH_GATEWAY_TOKENS": file, "FETCH_CIRCUIT_OPEN_SECONDS": "1",
	}
	for i := 0; i < len(pairs); i += 2 {
		env[pairs[i]] = pairs[i+1]
	}
	ctx, stop := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- serve(ctx, func(name string) string { return env[name] }, d.logs, &hooks{ready: func(_, _ string) { close(ready) }})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err, d.logs)
	}
	return d
}

func (d *door) ask(method, path, body string, headers ...string) (*http.Response, string) {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.url+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+d.token)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return res, string(text)
}

// TestTheFrontDoor is what somebody sees who has curl and nothing else: an
// answer, a wait with an honest reason, and the answer when the provider is
// back. It is one trace, and neither key nor token is found anywhere.
func TestTheFrontDoor(t *testing.T) {
	spans := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	d := openDoor(t, "OTEL_EXPORTER_OTLP_ENDPOINT", spans.URL)
	res, body := d.ask("GET", "/v1/fmp/quote?symbol=AAPL", "")
	if res.StatusCode != http.StatusOK || body != `[{"symbol":"AAPL","price":191.31}]` || res.Header.Get("Fetch-Source") != "origin" || res.Header.Get("ETag") == "" {
		t.Fatalf("%d %v %s\n%s", res.StatusCode, res.Header, body, d.logs)
	}
	const want = `GET /v1/{provider}/{operation}
  process FETCH_REQUESTS
    queue
    permit
    GET /quote/{symbol}
    answer FETCH_RESULTS
`
	got := ""
	for deadline := time.Now().Add(10 * time.Second); got != want && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		got = spans.tree(spans.traceOf("GET /v1/{provider}/{operation}"))
	}
	if got != want {
		t.Errorf("the trace is\n%s", got)
	}
	res, body = d.ask("GET", "/v1/limits", "")
	if res.StatusCode != http.StatusOK || !strings.Contains(body, `"provider":"fmp"`) || !strings.Contains(body, `"workers":1`) {
		t.Errorf("%d %s", res.StatusCode, body)
	}

	d.broken.Store(true)
	var bodies strings.Builder
	for n := range 40 {
		for _, ask := range [][]string{
			{"GET", "/v1/fmp/quote?symbol=F" + strconv.Itoa(n), "", "Prefer", "respond-async"},
			{"GET", "/v1/fmp/quote?apikey=" + doorKey, ""},
			{"POST", "/v1/fmp/quote", `{"params":{"symbol":1}}`},
			{"POST", "/v1/nobody/" + strings.ToLower(d.token[:20]), `{`},
			{"GET", "/v1/fmp/quote?symbol=A", "", "Authorization", "Bearer " + d.token + "x"},
		} {
			res, body := d.ask(ask[0], ask[1], ask[2], ask[3:]...)
			if res.StatusCode < 202 {
				t.Errorf("%v: %d", ask, res.StatusCode)
			}
			if ask[1] != "/v1/fmp/quote?apikey="+doorKey { // an agent that sends it gets its own words back
				fmt.Fprintln(&bodies, res.Header, body)
			}
		}
	}
	fmt.Fprintln(&bodies, d.events())
	for _, call := range []string{
		`{"name":"fetch","arguments":{"provider":"fmp","operation":"quote","params":{"symbol":"F1"},"wait":1}}`,
		`{"name":"fetch","arguments":{"provider":"nobody","operation":"quote","wait":0}}`,
		`{"name":"limits","arguments":{}}`, `{"name":"nothing"}`, `{"name":"read_answer","arguments":{"id":1}}`,
	} {
		res, body := d.ask("POST", "/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":`+call+`}`, "Content-Type", "application/json", "Accept", "application/json, text/event-stream", "Mcp-Protocol-Version", "2025-06-18")
		if !strings.Contains(body, `"jsonrpc"`) {
			t.Errorf("%s: %d %s", call, res.StatusCode, body)
		}
		fmt.Fprintln(&bodies, res.Header, body)
	}
	res, body = d.ask("POST", "/v1/fmp/quote", `{"params":{"symbol":"LAST"}}`, "Idempotency-Key", "last", "Prefer", "wait=1")
	location := res.Header.Get("Location")
	if again, err := strconv.Atoi(res.Header.Get("Retry-After")); res.StatusCode != http.StatusAccepted || location == "" || err != nil || again < 1 || again > 120 {
		t.Fatalf("%d %v %s", res.StatusCode, res.Header, body)
	}
	d.broken.Store(false)
	res, body = d.ask("GET", location, "", "Prefer", "wait=25")
	if res.StatusCode != http.StatusOK || !strings.Contains(body, "LAST") {
		t.Errorf("%d %v %s", res.StatusCode, res.Header, body)
	}
	spans.mu.Lock()
	defer spans.mu.Unlock()
	for where, text := range map[string]string{"logs": d.logs.String(), "answers": bodies.String(), "spans": spans.raw.String()} {
		for what, secret := range map[string]string{"the key": doorKey, "the token": d.token} {
			if strings.Contains(text, secret) {
				t.Errorf("%s is in the %s", what, where)
			}
		}
	}
}

// events are the answers so far, as they are sent.
func (d *door) events() string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+"/v1/answers", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+d.token)
	req.Header.Set("Last-Event-ID", "0")
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, _ := io.ReadAll(res.Body) // it ends with ctx
	if !strings.Contains(string(text), "event: answer") {
		d.t.Errorf("no events: %s", text)
	}
	return string(text)
}

// traceOf is the trace of the first span of a name.
func (r *receiver) traceOf(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if s.GetName() == name {
			return hex.EncodeToString(s.GetTraceId())
		}
	}
	return ""
}

func TestAnAddressThatIsTaken(t *testing.T) {
	env := map[string]string{
		"FETCH_NATS_ADDR": "127.0.0.1:0", "FETCH_HTTP_ADDR": "127.0.0.1:0", "FETCH_DATA_DIR": t.TempDir(), "FETCH_SYNC": "interval",
		"FETCH_GATEWAY_ADDR": "127.0.0.1:" + strconv.Itoa(brokertest.FreePort(t)),
	}
	taken, err := app.Listen(env["FETCH_GATEWAY_ADDR"], nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	err = serve(t.Context(), func(name string) string { return env[name] }, io.Discard, nil)
	if !errors.Is(err, app.ErrConfig) || !strings.Contains(err.Error(), "FETCH_GATEWAY_ADDR") {
		t.Errorf("one that was given: %v", err)
	}
}

// The default address may belong to somebody else: that is no reason not to
// fetch.
func TestADefaultAddressThatIsTakenIsAWarning(t *testing.T) {
	b := brokertest.Start(t)
	taken, err := app.Listen("127.0.0.1:0", nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	core, logs := observer.New(zap.InfoLevel)
	var closing app.Stack
	for open, want := range map[string]int{"auto": 1, "off": 0} {
		config := app.Config{Gateway: app.Gateway{Open: open, Addr: taken.Addr()}}
		addr, err := openGateway(t.Context(), config, b.Server, "w", prometheus.NewRegistry(), nil, zap.New(core), &closing)
		if got := logs.FilterMessageSnippet("no gateway").Len(); addr != "" || err != nil || got != want {
			t.Errorf("%s: %s %v, %d warnings", open, addr, err, got)
		}
		logs.TakeAll()
	}
	if addr, err := openGateway(t.Context(), app.Config{Gateway: app.Gateway{Open: "auto"}}, nil, "w", nil, nil, zap.New(core), &closing); addr != "" || err != nil {
		t.Errorf("beside a server of one's own: %s %v", addr, err)
	}
	if err := closing.Close(); err != nil {
		t.Error(err)
	}
}
