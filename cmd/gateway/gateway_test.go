package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
)

// running is a gateway that runs as main runs it.
type running struct {
	t          *testing.T
	url, vital string
	stop       context.CancelFunc
	done       chan error
	logs       *bytes.Buffer
}

func start(t *testing.T, b *brokertest.Broker, pairs ...string) *running {
	t.Helper()
	env := map[string]string{"NATS_URL": b.Server.URL(), "FETCH_GATEWAY_ADDR": "127.0.0.1:0", "FETCH_HTTP_ADDR": "127.0.0.1:0"}
	for i := 0; i < len(pairs); i += 2 {
		env[pairs[i]] = pairs[i+1]
	}
	ctx, stop := context.WithCancel(t.Context())
	r := &running{t: t, stop: stop, done: make(chan error, 1), logs: &bytes.Buffer{}}
	ready := make(chan struct{})
	go func() {
		r.done <- serve(ctx, func(name string) string { return env[name] }, r.logs, func(addr, vital string) {
			r.url, r.vital = "http://"+addr, "http://"+vital
			close(ready)
		})
	}()
	select {
	case <-ready:
	case err := <-r.done:
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.end() })
	return r
}

func (r *running) end() error {
	r.stop()
	err := <-r.done
	r.done <- nil
	return err
}

func (r *running) do(method, url, body string, headers ...string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res, string(text)
}

// Who waits when a gateway stops is told so; the request goes on, and another
// gateway has its answer.
func TestAStopLeavesRequestsRunning(t *testing.T) {
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	defer b.Stop()
	first, second := start(t, b), start(t, b)
	if res, text := first.do("GET", first.vital+"/readyz", ""); res.StatusCode != http.StatusOK {
		t.Errorf("%d %s", res.StatusCode, text)
	}
	var asking sync.WaitGroup
	began := time.Now()
	asking.Go(func() {
		res, text := first.do("POST", first.url+"/v1/fmp/quote", `{"params":{"symbol":"AAPL"}}`, "Idempotency-Key", "q-1", "Prefer", "wait=60", "Fetch-Agent", "alice")
		if res.StatusCode != http.StatusAccepted || res.Header.Get("Location") != "/v1/requests/fmp/quote/q-1" || res.Header.Get("Retry-After") == "" {
			t.Errorf("%d %v %s", res.StatusCode, res.Header, text)
		}
	})
	stored := func() uint64 {
		stream, err := b.JS.Stream(t.Context(), fetchworker.StreamRequests)
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo().State.Msgs
	}
	for stored() == 0 && time.Since(began) < 10*time.Second {
		time.Sleep(5 * time.Millisecond)
	}
	if err := first.end(); err != nil {
		t.Error(err)
	}
	asking.Wait()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("a stop took %v", took)
	}
	a := fetchworker.Answer{
		Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}, Generation: 1,
		Status: fetchworker.StatusOK, Final: true, ContentType: "application/json", Body: []byte("[1]"),
	}
	if _, err := b.JS.PublishMsg(t.Context(), a.Encode()); err != nil {
		t.Fatal(err)
	}
	if res, text := second.do("GET", second.url+"/v1/requests/fmp/quote/q-1", "", "Fetch-Agent", "alice", "Prefer", "wait=5"); res.StatusCode != http.StatusOK || text != "[1]" {
		t.Errorf("%d %s", res.StatusCode, text)
	}
	if _, text := second.do("GET", second.vital+"/metrics", ""); !strings.Contains(text, `fetch_gateway_requests_total{path="/v1/requests/{provider}/{operation}/{id}",status="200"} 1`) {
		t.Error("it is not counted")
	}
	if log := first.logs.String(); !strings.Contains(log, `"gateway serves"`) || !strings.Contains(log, `"gateway stops"`) {
		t.Error(log)
	}
}

func TestATokenGoesToThePersonAndItsLineToTheFile(t *testing.T) {
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	defer b.Stop()
	var out, errs bytes.Buffer
	if err := run(t.Context(), []string{"token", "alice"}, os.Getenv, &out, &errs); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(errs.String())
	if !regexp.MustCompile(`^[0-9a-f]{64}: alice\n$`).MatchString(out.String()) || strings.Contains(out.String(), token) || len(token) < 40 {
		t.Errorf("%q %q", out.String(), token)
	}
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	g := start(t, b, "FETCH_GATEWAY_TOKENS", file, "FETCH_GATEWAY_ADDR", ":0")
	g.url = "http://127.0.0.1" + g.url[strings.LastIndex(g.url, ":"):]
	if res, _ := g.do("GET", g.url+"/v1/requests/fmp/quote/q-1", ""); res.StatusCode != http.StatusUnauthorized {
		t.Error(res.StatusCode)
	}
	if res, _ := g.do("GET", g.url+"/v1/requests/fmp/quote/q-1", "", "Authorization", "Bearer "+token); res.StatusCode != http.StatusNotFound {
		t.Error(res.StatusCode)
	}
}

func TestMistakes(t *testing.T) {
	for _, args := range [][]string{{"nothing"}, {"token"}, {"token", "Al Ice"}, {"token", "a", "b"}, {"--colour"}, {"health", "x"}, {"help", "nothing"}, {"help", "token", "nothing"}} {
		if err := run(t.Context(), args, func(string) string { return "" }, io.Discard, io.Discard); !errors.Is(err, errUsage) {
			t.Errorf("%v: %v", args, err)
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--version"}, os.Getenv, &out, io.Discard); err != nil || out.String() != "fetchworker gateway dev "+runtime.Version()+"\n" {
		t.Errorf("%s %v", out.String(), err)
	}
	for name, value := range map[string]string{"FETCH_GATEWAY_ADDR": "0.0.0.0:8081", "FETCH_GATEWAY": "maybe", "FETCH_GATEWAY_ORIGINS": "example.com"} {
		err := run(t.Context(), nil, func(n string) string { return map[string]string{name: value}[n] }, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	defer b.Stop()
	env := map[string]string{"NATS_URL": b.Server.URL(), "FETCH_GATEWAY_TOKENS": "/no/such/file", "FETCH_HTTP_ADDR": "127.0.0.1:0"}
	if err := run(t.Context(), nil, func(n string) string { return env[n] }, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "FETCH_GATEWAY_TOKENS") {
		t.Error(err)
	}
}
