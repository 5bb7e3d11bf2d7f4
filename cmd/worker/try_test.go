package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// One real call shows what came, what it was taken for and why, and no key.
func TestTry(t *testing.T) {
	exchanges, err := providertest.Exchanges("fmp")
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := providertest.Listen(exchanges...)
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	vars := []string{"FMP_API_KEY", testKey, "FMP_BASE_URL", upstream.URL() + "/api/v3"}
	try := func(more ...string) (string, error) {
		var out bytes.Buffer
		err := run(t.Context(), []string{"check", "--try", "fmp", "quote", "symbol=AAPL"}, env(append(vars, more...)...), &out, io.Discard)
		if strings.Contains(out.String(), testKey) {
			t.Errorf("the key is shown:\n%s", out.String())
		}
		return out.String(), err
	}
	shows := func(out string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in\n%s", want, out)
			}
		}
	}

	out, err := try()
	if err != nil {
		t.Fatal(err)
	}
	shows(out, "GET "+upstream.URL()+"/api/v3/quote/AAPL", "status 200", "taken for", "ok", "because", "kept", `"symbol"`)
	for want, step := range map[string]providertest.Step{
		"permanent not_entitled": upstream.Named("error_restricted_endpoint"),
		"error type foreign":     {Status: 403, Body: []byte("error code: 1010")},
		"no rule of own matches": {Status: 404, Body: []byte("404 page not found")},
		"errors.1 matches":       upstream.Named("error_rate_limited"),
	} {
		upstream.Script(step)
		if out, err = try(); err == nil {
			t.Errorf("%s: no error", want)
		}
		shows(out, want)
	}

	// Where a server is named the call is one of the fleet's.
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	defer b.Stop()
	calls := len(upstream.Calls())
	if _, err := try("NATS_URL", b.Server.URL()); err == nil || !strings.Contains(err.Error(), "has ever served fmp") || len(upstream.Calls()) != calls {
		t.Errorf("a provider that nobody serves: %v", err)
	}
	kv, err := b.JS.KeyValue(t.Context(), wire.BucketProviders)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(budget.CreateRegister(t.Context(), kv, "fmp"), broker.ServeProvider(t.Context(), b.JS, "fmp", 16)); err != nil {
		t.Fatal(err)
	}
	if out, err = try("NATS_URL", b.Server.URL()); err != nil {
		t.Fatal(err)
	}
	shows(out, "status 200")
	if entry, err := kv.Get(t.Context(), "permits.fmp"); err != nil || entry.Revision() < 2 {
		t.Errorf("no permit was claimed for it: %v", err)
	}
}

func TestSchemaIsPrinted(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"check", "--schema"}, env(), &out, io.Discard); err != nil || !strings.Contains(out.String(), `"$schema"`) {
		t.Errorf("%v: %.200s", err, out.String())
	}
}
