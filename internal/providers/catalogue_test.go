package providers_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/providers"
	"fetchworker/internal/providers/providertest"
)

func write(t *testing.T, content string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "catalog.yaml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestExampleCatalogue(t *testing.T) {
	rates := providertest.Pipe("rates.example.org")
	defer rates.Close()
	tides := providertest.Pipe("tides.test")
	defer tides.Close()
	set := load(t, map[string]string{
		"FETCH_CATALOG": "../../examples/catalog.yaml", "TIDES_API_KEY": key, "TIDES_BASE_URL": "http://tides.test/v1",
		"EXCHANGE_RATES_BASE_URL": "http://rates.example.org",
	}, providers.WithDial(providertest.DialHosts(rates, tides)))

	names := []string{}
	for _, p := range set.Configured() {
		names = append(names, p.Name)
	}
	if want := []string{"exchange-rates", "tides"}; !slices.Equal(names, want) { // none of the others has a key
		t.Errorf("configured: %v, want %v", names, want)
	}

	fmp, _ := set.Provider("fmp")
	if got := fmp.Limits.String(); got != "300/min" || fmp.BytesPerMonth != 20<<30 || fmp.Timeout != 5*time.Second {
		t.Errorf("fmp: %s, %d bytes, %v", got, fmp.BytesPerMonth, fmp.Timeout)
	}
	quote := fmp.Operations["quote"]
	if quote.Fresh != 5*time.Second || quote.Stale != 24*time.Hour || quote.Path != "/quote/{symbol}" {
		t.Errorf("quote: %+v", quote)
	}
	if got := plan(t, fmp, "sector_performance", "").Target(); got != "/api/v3/sectors-performance" {
		t.Error(got)
	}

	p, _ := set.Provider("tides")
	if got := p.Limits.String(); got != "10/s,20000/d,500/h" {
		t.Errorf("tides: %s", got)
	}
	call := plan(t, p, "heights", `{"station":"9414290","date":"2026-02-13","datums":["mllw","mhw"]}`)
	tides.Script(
		providertest.JSON(403, `{"error":{"code":"quota_exceeded","message":"enough for today"}}`),
		providertest.JSON(200, `{"error":{"code":"no_such_date"}}`),
		providertest.JSON(200, `{"heights":[]}`),
	)
	for _, want := range []providers.Result{
		{Class: fetchworker.ClassThrottled, MinHold: 30 * time.Minute, Detail: "status 403: enough for today"},
		{Class: fetchworker.ClassPermanent, Code: fetchworker.CodeRejected, Detail: "status 200 OK"},
		{Class: fetchworker.ClassOK},
	} {
		r := p.Do(t.Context(), call, providers.Options{})
		if r.Class != want.Class || r.Code != want.Code || r.MinHold != want.MinHold || r.Detail != want.Detail {
			t.Errorf("got %s %s %v %q, want %s %s %v %q", r.Class, r.Code, r.MinHold, r.Detail, want.Class, want.Code, want.MinHold, want.Detail)
		}
	}
	if got, want := tides.Calls()[0], "/v1/stations/9414290/heights?date=2026-02-13&datums=mllw%2Cmhw&unit=m"; got.Target != want || got.Header.Get("X-Token") != key {
		t.Errorf("asked for %s with token %q", got.Target, got.Header.Get("X-Token"))
	}
	tides.Script(providertest.JSON(200, `{"total":120,"stations":[]}`))
	if r := p.Do(t.Context(), plan(t, p, "stations", ``), providers.Options{}); string(r.Next) != `{"page":"2"}` {
		t.Errorf("next page: %s", r.Next)
	}

	p, _ = set.Provider("exchange-rates")
	table := providertest.Step{Status: 200, Header: map[string][]string{"Content-Type": {"text/csv"}}, Body: []byte("day,rate\n2026-02-13,1.08\n")}
	rates.Script(table, providertest.JSON(200, `{"message":"maintenance"}`))
	call = plan(t, p, "daily", `{"base":"EUR"}`)
	if r := p.Do(t.Context(), call, providers.Options{}); r.Class != fetchworker.ClassOK || string(r.Body) != string(table.Body) {
		t.Errorf("table: %s %s", r.Class, r.Detail)
	}
	if r := p.Do(t.Context(), call, providers.Options{}); r.Class != fetchworker.ClassTransient {
		t.Errorf("JSON instead of a table: %s %s", r.Class, r.Detail)
	}
}

// The base URL a catalogue gives selects FMP's generation, and the
// environment's goes before it.
func TestCatalogueSelectsGeneration(t *testing.T) {
	vars := map[string]string{"FETCH_CATALOG": write(t, "providers:\n  fmp:\n    base_url: https://upstream.test/stable/\n")}
	p, _ := load(t, vars).Provider("fmp")
	if got := plan(t, p, "quote", `{"symbol":"AAPL"}`).Target(); got != "/stable/quote?symbol=AAPL" {
		t.Error(got)
	}
	vars["FMP_BASE_URL"] = "https://upstream.test/api/v3"
	p, _ = load(t, vars).Provider("fmp")
	if got := plan(t, p, "quote", `{"symbol":"AAPL"}`).Target(); got != "/api/v3/quote/AAPL" {
		t.Error(got)
	}
}

// Every mistake is found, with its line and what was expected there.
func TestCatalogueMistakes(t *testing.T) {
	for name, test := range map[string]struct{ yaml, want string }{
		"not YAML":          {"providers: [", "catalog.yaml: yaml: line 1"},
		"a list":            {"- fmp", ":1: catalogue: expected fields (name: value), got a list"},
		"unknown top":       {"provider:\n", ":1: catalogue: unknown field \"provider\", expected one of providers"},
		"unknown field":     {"providers:\n  fmp:\n    colour: red\n", ":3: fmp: unknown field \"colour\", expected one of auth, base_url"},
		"twice":             {"providers:\n  fmp:\n    timeout: 1s\n    timeout: 2s\n", ":4: fmp: \"timeout\" is here twice"},
		"duration":          {"providers:\n  fmp:\n    timeout: soon\n", ":3: fmp.timeout: expected a duration such as 30s, 1h30m or 7d, got \"soon\""},
		"no duration":       {"providers:\n  fmp:\n    timeout: 0s\n", ":3: fmp.timeout: expected a duration"},
		"limits":            {"providers:\n  fmp:\n    limits: fast\n", ":3: fmp.limits: expected windows of calls such as 60/min,2/s, or unlimited, got \"fast\""},
		"bytes":             {"providers:\n  fmp:\n    bytes_per_month: 5 apples\n", ":3: fmp.bytes_per_month: expected a size"},
		"name":              {"providers:\n  FMP:\n    base_url: https://x.test\n", ":2: provider \"FMP\": expected a name of 1 to 32 characters"},
		"no base":           {"providers:\n  x:\n    auth: none\n", ":2: x: base_url: expected http://host/path or https://host/path"},
		"key in base":       {"providers:\n  x:\n    auth: none\n    base_url: https://x.test/?key=1\n", ":2: x: base_url: expected a URL without user, query and fragment"},
		"no auth":           {"providers:\n  x:\n    base_url: https://x.test\n", ":2: x: auth: expected none, bearer, {query: NAME} or {header: NAME}"},
		"auth":              {"providers:\n  x:\n    base_url: https://x.test\n    auth: cookie\n", ":4: x.auth: expected one of none, bearer, got \"cookie\""},
		"two kinds of auth": {"providers:\n  x:\n    base_url: https://x.test\n    auth: {query: a, header: b}\n", ":4: x.auth: expected one of query and header"},
		"auth kind":         {"providers:\n  x:\n    base_url: https://x.test\n    auth: {cookie: a}\n", ":4: x.auth: unknown field \"cookie\", expected one of header, query"},
		"variables":         {"providers:\n  news:\n    base_url: https://x.test\n    auth: bearer\n", ":2: news: its variables would be those of newsapi"},
		"tier":              {"providers:\n  newsapi:\n    tier: gold\n", ":2: newsapi: tier \"gold\": expected one of tiers: business, developer"},
		"path":              {op("path: quote"), ":6: x y: path \"quote\": expected a path such as /quote/{symbol}"},
		"slot":              {op("path: /a/{b}"), ":6: x y: path: {b} expected a parameter of that name that is required or has a default"},
		"optional slot":     {op("path: /a/{b}\n        params: {b: {type: int}}"), ":6: x y: path: {b} expected a parameter"},
		"op name":           {"providers:\n  fmp:\n    operations:\n      Get It: {path: /x}\n", ":4: fmp Get It: name \"Get It\": expected a name"},
		"get":               {"providers:\n  fmp:\n    operations:\n      get: {path: /x}\n", ":4: fmp get: name \"get\""},
		"op field":          {op("path: /a\n        verb: POST"), ":8: x y: unknown field \"verb\", expected one of any_of, auth, exclusive, format"},
		"param type":        {op("path: /a\n        params:\n          b: {type: integer}"), ":9: x y parameter b: type: expected one of string, int, number"},
		"param field":       {op("path: /a\n        params:\n          b: {typ: int}"), ":9: x y parameter b: unknown field \"typ\""},
		"bound":             {op("path: /a\n        params:\n          b: {type: int, min: x}"), ":9: x y parameter b: min: expected a whole number, got \"x\""},
		"bounds":            {op("path: /a\n        params:\n          b: {type: int, min: 5, max: 2}"), ":9: x y: parameter b: expected min and max from 0"},
		"default":           {op("path: /a\n        params:\n          b: {type: int, max: 9, default: 10}"), ":9: x y: parameter b: default \"10\": expected a whole number from 0 to 9"},
		"enum":              {op("path: /a\n        params:\n          b: {type: enum}"), ":9: x y: parameter b: expected the values of the enum"},
		"pattern":           {op("path: /a\n        params:\n          b: {pattern: '('}"), ":9: x y: parameter b: pattern: expected a regular expression (RE2)"},
		"format":            {op("path: /a\n        format: xml"), ":8: x y format: expected one of json, csv, any, got \"xml\""},
		"any_of":            {op("path: /a\n        any_of: [b]"), ":6: x y: any_of and exclusive: expected names of parameters, got \"b\""},
		"paging kind":       {op("path: /a\n        paging: {kind: scroll}"), ":8: x y paging kind: expected one of page, offset, next_url"},
		"paging":            {op("path: /a\n        paging: {kind: page}"), ":6: x y: paging: expected param"},
		"rules":             {"providers:\n  fmp:\n    errors: {}\n", ":3: fmp.errors: expected a list, got fields"},
		"rule class":        {"providers:\n  fmp:\n    errors:\n      - {status: 418, class: teapot}\n", ":4: fmp.errors: class \"teapot\": expected one of ok, transient, throttled, unauthorized, permanent"},
		"rule code":         {"providers:\n  fmp:\n    errors:\n      - {status: 418, class: permanent}\n", ":4: fmp.errors: code \"\": expected one of not_found, not_entitled, rejected"},
		"rule status":       {"providers:\n  fmp:\n    errors:\n      - {status: 9xx, class: transient}\n", ":4: fmp.errors: status 9: expected 100 to 599"},
		"rule status text":  {"providers:\n  fmp:\n    errors:\n      - {status: [teapot], class: transient}\n", ":4: fmp.errors.status: expected statuses such as 400 or 2xx, got \"teapot\""},
		"rule pointer":      {"providers:\n  fmp:\n    errors:\n      - {at: error, class: transient}\n", ":4: fmp.errors: at \"error\": expected a JSON pointer"},
		"rule without at":   {"providers:\n  fmp:\n    errors:\n      - {status: 4xx, prefix: no, class: transient}\n", ":4: fmp.errors: equals, prefix and contains: expected with at"},
		"rule of all":       {"providers:\n  fmp:\n    errors:\n      - {class: transient}\n", ":4: fmp.errors: expected at least status or at"},
		"hold of a failure": {"providers:\n  fmp:\n    errors:\n      - {status: 418, class: transient, min_hold: 1h}\n", ":4: fmp.errors: min_hold: expected only with class throttled"},
		"get path":          {"providers:\n  fmp:\n    get_paths: [{prefix: v2}]\n", ":3: fmp.get_paths.prefix: expected a path such as /v2/"},
	} {
		file := write(t, test.yaml)
		_, err := providers.Load(env(map[string]string{"FETCH_CATALOG": file}))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v\nwant %s", name, err, test.want)
			continue
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !strings.HasPrefix(line, file+":") {
				t.Errorf("%s: without a line, or told already: %s", name, line)
			}
		}
	}

	// All mistakes of a file come together.
	_, err := providers.Load(env(map[string]string{"FETCH_CATALOG": write(t, "providers:\n  fmp:\n    timeout: x\n    limits: y\n  fred: 7\n"), "FMP_TIMEOUT_SECONDS": "z"}))
	for _, want := range []string{":3: ", ":4: ", ":5: fred: expected fields", "FMP_TIMEOUT_SECONDS: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	if _, err := providers.Load(env(map[string]string{"FETCH_CATALOG": "/no/such/file"})); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "FETCH_CATALOG") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := providers.Load(env(map[string]string{"FETCH_CATALOG": write(t, "")})); err != nil {
		t.Errorf("an empty catalogue changes nothing: %v", err)
	}
}

func op(fields string) string {
	return "providers:\n  x:\n    base_url: https://x.test\n    auth: none\n    operations:\n      y:\n        " + fields + "\n"
}

func TestLimitsKeepTheirWindows(t *testing.T) {
	for _, test := range []struct{ provider, perMinute, tier, want string }{
		{"fmp", "", "", "120/min"},
		{"polygon", "", "", "100/min"},
		{"fred", "", "", "60/min,2/s"},
		{"newsapi", "", "", "60/min,100/d,50/12h0m0s"},
		{"newsapi", "", "business", "60/min"},
		{"fmp", "750", "", "750/min"},
		{"fred", "30", "", "30/min,2/s"},
		{"fred", "120", "", "120/min,2/s"},
		{"fred", "300", "", "300/min,5/s"},
		{"fred", "0", "", "unlimited"},
		{"newsapi", "10", "", "10/min,100/d,50/12h0m0s"},
		{"newsapi", "0", "developer", "unlimited"},
	} {
		prefix := prefixes[test.provider]
		p, _ := load(t, map[string]string{prefix + "_REQUESTS_PER_MINUTE": test.perMinute, prefix + "_TIER": test.tier}).Provider(test.provider)
		want, err := ledger.ParseLimits(test.want)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(p.Limits, want) {
			t.Errorf("%s at %q a minute, tier %q: %s, want %s", test.provider, test.perMinute, test.tier, p.Limits, test.want)
		}
	}
}
