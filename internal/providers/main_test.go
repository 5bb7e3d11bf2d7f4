package providers_test

import (
	"maps"
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"fetchworker/internal/providers"
	"fetchworker/internal/providers/classify"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/providers/sheet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// key is the key of every provider in these tests: it has characters that are
// escaped in URLs and JSON, so that an echo in any form is found.
const key = "canary/K3Y+with&escapes"

// basePaths are the built-in base URLs below their host, by the generation.
var basePaths = map[string]string{
	"fmp": "/api/v3", "fmp-stable": "/stable", "polygon": "", "fred": "/fred", "newsapi": "/v2",
}

var prefixes = map[string]string{"fmp": "FMP", "polygon": "POLYGON", "fred": "FRED", "newsapi": "NEWS"}

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func load(t *testing.T, vars map[string]string, options ...providers.Option) *providers.Set {
	t.Helper()
	set, err := providers.Load(env(vars), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(set.Close)
	return set
}

// play starts a server for a provider's exchanges and a provider that asks
// it. generation is a key of basePaths; extra are more variables.
func play(t *testing.T, generation string, extra map[string]string) (*providers.Provider, *providertest.Server) {
	t.Helper()
	name := generation
	if generation == "fmp-stable" {
		name = "fmp"
	}
	exchanges, err := providertest.Exchanges(name)
	if err != nil {
		t.Fatal(err)
	}
	server, err := providertest.Listen(exchanges...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	vars := map[string]string{
		prefixes[name] + "_API_KEY":  key,
		prefixes[name] + "_BASE_URL": server.URL() + basePaths[generation],
	}
	maps.Copy(vars, extra)
	p, ok := load(t, vars).Provider(name)
	if !ok {
		t.Fatalf("no provider %s", name)
	}
	return p, server
}

func plan(t *testing.T, p *providers.Provider, operation, params string) *providers.Call {
	t.Helper()
	call, err := p.Plan(operation, []byte(params))
	if err != nil {
		t.Fatalf("Plan(%s, %s): %v", operation, params, err)
	}
	return call
}

// verdict is the classification of an answer, for tables.
func verdict(p *providers.Provider, format sheet.Format, status int, contentType string, body []byte, readErr error) *providers.Result {
	v := classify.Answer(&p.Spec, classify.Input{
		Format: format, Status: status, Header: http.Header{"Content-Type": {contentType}}, Body: body, ReadErr: readErr,
	})
	return &providers.Result{Class: v.Class, Code: v.Code, ErrorType: v.ErrorType, Detail: v.Detail, MinHold: v.MinHold, Cacheable: !v.NoCache}
}
