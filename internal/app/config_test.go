package app_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/app"
)

func env(pairs ...string) func(string) string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return m[name] }
}

func TestDefaultsAreTheContracts(t *testing.T) {
	c, err := app.Load(env())
	if err != nil {
		t.Fatal(err)
	}
	if c.NATS.Remote() || c.NATSAddr != "127.0.0.1:4222" || c.DataDir != "./data" || c.Sync != 0 || c.Replay != "auto" ||
		c.HTTPAddr != "127.0.0.1:8080" || c.Concurrency != 16 || c.Topology.Replicas != 0 || c.Topology.ResultAge != 0 || c.ResultAge != 168*time.Hour || c.MaxLife != 72*time.Hour ||
		c.CircuitOpen != time.Minute || c.CircuitFailures != 3 || c.RetryBase != time.Second || c.Retries != 3 || c.LogLevel != "info" {
		t.Errorf("%+v", c)
	}
}

func TestFractionsOfSeconds(t *testing.T) {
	c, err := app.Load(env("FETCH_CIRCUIT_OPEN_SECONDS", "0.25", "FETCH_RETRY_BASE_SECONDS", "1.5"))
	if err != nil || c.CircuitOpen != 250*time.Millisecond || c.RetryBase != 1500*time.Millisecond {
		t.Errorf("%+v %v", c, err)
	}
}

// A second that is none would be a wait of nothing: retries and probes without
// end. What is too long is told as that.
func TestSecondsThatAreNone(t *testing.T) {
	for _, name := range []string{"FETCH_CIRCUIT_OPEN_SECONDS", "FETCH_RETRY_BASE_SECONDS"} {
		for _, value := range []string{"0", "-0", "-1", "1e-12", "1e-300", "NaN", "Inf", "-Inf", "1e9", "1s", "x"} {
			if _, err := app.Load(env(name, value)); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "up to 1000000") {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		}
	}
	if c, err := app.Load(env("FETCH_RETRY_BASE_SECONDS", "1e-9")); err != nil || c.RetryBase <= 0 {
		t.Error(c.RetryBase, err)
	}
}

func TestALinkToTracesLeadsSomewhere(t *testing.T) {
	for _, value := range []string{"https://traces.example.com/trace/{trace}", "http://127.0.0.1:16686/trace/{trace}?x=1", ""} {
		if c, err := app.Load(env("FETCH_PAGE_TRACE_URL", value)); err != nil || c.PageTrace != value {
			t.Errorf("%q: %q, %v", value, c.PageTrace, err)
		}
	}
	for _, value := range []string{"traces", "https://traces.example.com/", "javascript:alert('{trace}')", "/trace/{trace}", "//h/{trace}", "ftp://h/{trace}", "http:///{trace}", "http://[bad/{trace}", "data:text/html,{trace}"} {
		if _, err := app.Load(env("FETCH_PAGE_TRACE_URL", value)); err == nil || !strings.Contains(err.Error(), "FETCH_PAGE_TRACE_URL") {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func TestEveryMistakeIsNamed(t *testing.T) {
	_, err := app.Load(env("FETCH_CONCURRENCY", "many", "FETCH_SYNC", "never", "FETCH_RETRY_BASE_SECONDS", "-1", "FETCH_MAX_LIFE", "forever"))
	if !errors.Is(err, app.ErrConfig) {
		t.Fatal(err)
	}
	for _, name := range []string{"FETCH_CONCURRENCY", "FETCH_SYNC", "FETCH_RETRY_BASE_SECONDS", "FETCH_MAX_LIFE"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in: %v", name, err)
		}
	}
}

func TestAddressesAreReadAtOnce(t *testing.T) {
	for _, c := range []struct{ name, value string }{
		{"FETCH_HTTP_ADDR", "foo"},
		{"FETCH_HTTP_ADDR", "127.0.0.1:http"},
		{"FETCH_HTTP_ADDR", ":99999"},
		{"FETCH_NATS_ADDR", "junk"},
		{"FETCH_NATS_ADDR", "0.0.0.0:4222"},
		{"FETCH_NATS_ADDR", "127.0.0.1:x"},
		{"FETCH_PAGE_ADDR", "127.0.0.1:99999"},
		{"FETCH_PAGE_ADDR", "127.0.0.1:http"},
		{"FETCH_PAGE_ADDR", ":"},
		{"FETCH_GATEWAY_ADDR", "127.0.0.1:-1"},
		{"NATS_URL", "::bad"},
		{"NATS_URL", "nats://ok:4222,nats://user:secret@[bad"},
	} {
		_, err := app.Load(env(c.name, c.value))
		if err == nil || !strings.Contains(err.Error(), c.name) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "TOKEN") {
			t.Errorf("%s=%s: %v", c.name, c.value, err)
		}
	}
	if _, err := app.Load(env("NATS_URL", "nats://a:4222", "NATS_CREDS", "/nowhere/a.creds")); err == nil || !strings.Contains(err.Error(), "NATS_CREDS") {
		t.Errorf("a file that is missing: %v", err)
	}
	for _, c := range []struct{ name, value string }{
		{"FETCH_HTTP_ADDR", "off"},
		{"FETCH_HTTP_ADDR", ":0"},
		{"FETCH_HTTP_ADDR", "[::1]:8080"},
		{"FETCH_PAGE_ADDR", "localhost:0"},
		{"FETCH_PAGE_ADDR", "off"},
		{"FETCH_NATS_ADDR", "localhost:0"},
		{"FETCH_NATS_ADDR", "[::1]:4222"},
		{"NATS_URL", "a:4222, tls://b:4222"},
		{"NATS_URL", "127.0.0.1"},
		{"NATS_URL", "nats://user:pass@[::1]:4222"},
	} {
		if _, err := app.Load(env(c.name, c.value)); err != nil {
			t.Errorf("%s=%s: %v", c.name, c.value, err)
		}
	}
}

func TestARequestMayNotOutliveItsAnswer(t *testing.T) {
	_, err := app.Load(env("FETCH_RESULT_AGE", "48h", "FETCH_MAX_LIFE", "25h"))
	if err == nil || !strings.Contains(err.Error(), "FETCH_MAX_LIFE") {
		t.Error(err)
	}
	if _, err := app.Load(env("FETCH_RESULT_AGE", "48h", "FETCH_MAX_LIFE", "24h")); err != nil {
		t.Error(err)
	}
}

func TestEveryStreamsSizeAndAge(t *testing.T) {
	c, err := app.Load(env("FETCH_STREAM_BYTES", "results=8GiB, bodies=unlimited,cache=500MB,dlq=1.5GiB", "FETCH_STREAM_AGE", "events=30d,audit=forever,cache=36h"))
	if err != nil {
		t.Fatal(err)
	}
	if b := c.Topology.Bytes; b["FETCH_RESULTS"] != 8<<30 || b["FETCH_BODIES"] != -1 || b["KV_fetch_cache"] != 500e6 || b["FETCH_DLQ"] != 3<<29 || len(b) != 4 {
		t.Error(b)
	}
	if a := c.Topology.Ages; a["FETCH_EVENTS"] != 30*24*time.Hour || a["FETCH_AUDIT"] != 0 || a["KV_fetch_cache"] != 36*time.Hour || len(a) != 3 {
		t.Error(a)
	}
	for name, values := range map[string][]string{
		"FETCH_STREAM_BYTES": {"results", "results=", "results=-1", "results=8XB", "nothing=1GiB", "results=0", "results=NaNGiB", "results=1e30", "results=1GiB,bodies=1GiB,results=2GiB"},
		"FETCH_STREAM_AGE":   {"events=", "events=soon", "results=24h", "requests=24h", "events=-5d", "events=1s", "events=1e9d", "events=1d,events=1d"},
	} {
		for _, value := range values {
			if _, err := app.Load(env(name, value)); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		}
	}
}
