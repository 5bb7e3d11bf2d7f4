package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"fetchworker/internal/providers/call"
	"fetchworker/internal/providers/providertest"
)

// env is an environment of these variables only.
func env(pairs ...string) func(string) string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return m[name] }
}

const testKey = "a-key-that-nobody-may-see-0123"

func TestCheckPrintsWhatIsInForceAndNoKey(t *testing.T) {
	rights := filepath.Join(t.TempDir(), "rights.yaml")
	if err := os.WriteFile(rights, []byte("agents:\n  alice: [export]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := run(t.Context(), []string{"check"}, env(
		"FMP_API_KEY", testKey, "FMP_REQUESTS_PER_MINUTE", "77", "POLYGON_BANDWIDTH_LIMIT_GB", "1.5", "NEWS_TIER", "business",
		"FETCH_RETRIES", "5", "FETCH_RIGHTS", rights,
	), &out, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"FMP_API_KEY is set", "FRED_API_KEY is not set", "77/min", "1.5 GB", "business", "5, the first after 1s",
		"alice", "fundamentals", "https://api.polygon.io", "options_chain", "fresh 15s, stale 24h", "60/min,2/s",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(out.String(), testKey) {
		t.Error("the key is shown")
	}
	if t.Failed() {
		t.Log(out.String())
	}
}

// A worker that would serve the gateway does not start without its tokens, so
// check refuses what it would refuse.
func TestCheckReadsTheTokensOfTheGateway(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.yaml", strings.Repeat("0a", 32)+": alice\n")
	bad := write("bad.yaml", "a-token-in-clear: alice\n")
	for _, test := range []struct {
		env  []string
		fine bool
	}{
		{[]string{"FETCH_GATEWAY_TOKENS", good}, true},
		{[]string{"FETCH_GATEWAY_TOKENS", bad}, false},
		{[]string{"FETCH_GATEWAY_TOKENS", dir}, false},
		{[]string{"FETCH_GATEWAY_TOKENS", filepath.Join(dir, "none.yaml")}, false},
		{[]string{"FETCH_GATEWAY_TOKENS", bad, "FETCH_GATEWAY", "off"}, true},
		{[]string{"FETCH_GATEWAY_TOKENS", bad, "NATS_URL", "nats://127.0.0.1:1"}, true},
		{[]string{"FETCH_GATEWAY_TOKENS", bad, "NATS_URL", "nats://127.0.0.1:1", "FETCH_GATEWAY", "on"}, false},
	} {
		err := run(t.Context(), []string{"check"}, env(test.env...), io.Discard, io.Discard)
		if (err == nil) != test.fine || err != nil && (!strings.Contains(err.Error(), "FETCH_GATEWAY_TOKENS") || strings.Contains(err.Error(), "in-clear")) {
			t.Errorf("%v: %v", test.env, err)
		}
	}
}

// TestCheckSaysWhoseErrorsAreTakenForAnswers: a provider has a rule for errors
// under 2xx, or that it has none is told.
func TestCheckSaysWhoseErrorsAreTakenForAnswers(t *testing.T) {
	const told = "none is told from an answer under 2xx"
	for errors, want := range map[string]bool{
		"": true,
		"errors: [{status: 429, class: throttled}]":                             true,
		"errors: [{status: 2xx, at: /empty, class: ok, no_cache: true}]":        true,
		"errors: [{status: 2xx, at: /error, class: permanent, code: rejected}]": false,
		"errors: [{status: [404, 200], at: /error, class: transient}]":          false,
		"errors: [{at: /error, class: transient}]":                              false,
	} {
		catalog := filepath.Join(t.TempDir(), "catalog.yaml")
		text := "providers:\n  tides:\n    base_url: https://tides.example.com\n    auth: {header: X-Token}\n" +
			"    " + errors + "\n    operations: {heights: {path: /heights}}\n"
		if err := os.WriteFile(catalog, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := run(t.Context(), []string{"check", "--catalog", catalog}, env(), &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		// The built-in ones know theirs.
		if n := strings.Count(out.String(), told); n > 1 || n == 1 != want {
			t.Errorf("%q: told %d times\n%s", errors, n, out.String())
		}
	}
}

func TestCheckNamesEveryMistakeAtOnce(t *testing.T) {
	catalog := filepath.Join(t.TempDir(), "catalog.yaml")
	if err := os.WriteFile(catalog, []byte("providers:\n  fmp:\n    timeout: soon\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), []string{"check", "--catalog", catalog}, env("FETCH_RETRIES", "many", "FRED_TIMEOUT_SECONDS", "x"), io.Discard, io.Discard)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"FETCH_RETRIES", "FRED_TIMEOUT_SECONDS", "catalog.yaml:3"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
}

// TestEveryCommandHasItsOwnHelp: asked for it in any way, and a command line
// that cannot be meant does nothing but say so.
func TestEveryCommandHasItsOwnHelp(t *testing.T) {
	root := (&cli{getenv: env()}).root()
	for _, cmd := range root.Commands() {
		for _, args := range [][]string{{cmd.Name(), "--help"}, {cmd.Name(), "-h"}, {"help", cmd.Name()}} {
			var out strings.Builder
			if err := run(t.Context(), args, env(), &out, io.Discard); err != nil || !strings.Contains(out.String(), "worker "+cmd.Name()) || cmd.Short == "" {
				t.Errorf("%v: %v\n%s", args, err, out.String())
			}
		}
	}
	for _, args := range [][]string{{"version"}, {"--version"}, {"-v"}} {
		var out strings.Builder
		if err := run(t.Context(), args, env(), &out, io.Discard); err != nil || out.String() != "fetchworker worker "+version+" "+runtime.Version()+"\n" {
			t.Errorf("%v: %v %q", args, err, out.String())
		}
	}
	for _, args := range [][]string{
		{"check", "extra"},
		{"check", "--nonsense"},
		{"check", "--try", "fmp"},
		{"dance"},
		{"--nonsense"},
		{"serve", "extra"},
		{"--accept-loss", "extra"},
		{"health", "extra"},
		{"apply", "extra"},
		{"version", "extra"},
		{"record"},
	} {
		if err := run(t.Context(), args, env(), io.Discard, io.Discard); !errors.Is(err, errUsage) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestRecordWritesAnExchangeThatCanBePlayed(t *testing.T) {
	exchanges, err := providertest.Exchanges("fmp")
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := providertest.Listen(exchanges...)
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	upstream.SetKey(testKey)
	with := env("FMP_API_KEY", testKey, "FMP_BASE_URL", upstream.URL()+"/api/v3")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"record", "fmp", "quote", "symbol=AAPL"}, with, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), testKey) {
		t.Errorf("the key is in the recording:\n%s", out.String())
	}
	e, err := call.ParseExchange("recorded", out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if want := upstream.Named("v3_quote"); e.Target != "/api/v3/quote/AAPL" || e.Status != 200 || !bytes.Equal(e.Body, want.Body) {
		t.Errorf("recorded %s %d\n%s", e.Target, e.Status, e.Body)
	}

	for name, args := range map[string][]string{
		"no operation":      {"record", "fmp"},
		"unknown provider":  {"record", "nobody", "quote"},
		"unknown operation": {"record", "fmp", "dance"},
		"no such parameter": {"record", "fmp", "quote", "symbol=AAPL", "colour=red"},
		"not a pair":        {"record", "fmp", "quote", "AAPL"},
	} {
		if err := run(t.Context(), args, with, io.Discard, io.Discard); !errors.Is(err, errUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := run(t.Context(), []string{"record", "fred", "series", "series_id=GDP"}, with, io.Discard, io.Discard); err == nil {
		t.Error("a provider without a key was called")
	}
}
