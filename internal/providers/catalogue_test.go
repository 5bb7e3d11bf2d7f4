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
	"fetchworker/internal/wire"
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
		{Class: wire.ClassThrottled, MinHold: 30 * time.Minute, Detail: "status 403: enough for today"},
		{Class: wire.ClassPermanent, Code: fetchworker.CodeRejected, Detail: "status 200 OK"},
		{Class: wire.ClassOK},
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
	if r := p.Do(t.Context(), call, providers.Options{}); r.Class != wire.ClassOK || string(r.Body) != string(table.Body) {
		t.Errorf("table: %s %s", r.Class, r.Detail)
	}
	if r := p.Do(t.Context(), call, providers.Options{}); r.Class != wire.ClassTransient {
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
		"unknown top":       {"provider:\n", ":1: catalogue: unknown field \"provider\" (did you mean providers?), expected one of providers"},
		"unknown field":     {"providers:\n  fmp:\n    colour: red\n", ":3: fmp: unknown field \"colour\", expected one of auth, base_url"},
		"two documents":     {"providers: {}\n---\nproviders:\n  fmp:\n    limits: 1/min\n", ":3: catalogue: expected one document, and nothing behind ---"},
		"a text behind":     {"providers: {}\n---\n\nlimits\n", ":4: catalogue: expected one document"},
		"a third document":  {"providers: {}\n---\n---\n[]\n", ":4: catalogue: expected one document"},
		"no YAML behind":    {"providers: {}\n---\nproviders: [\n", "catalog.yaml: yaml: line 4"},
		"twice":             {"providers:\n  fmp:\n    timeout: 1s\n    timeout: 2s\n", ":4: fmp: \"timeout\" is here twice"},
		"duration":          {"providers:\n  fmp:\n    timeout: soon\n", ":3: fmp.timeout: expected a duration such as 30s, 1h30m or 7d, got \"soon\""},
		"no duration":       {"providers:\n  fmp:\n    timeout: 0s\n", ":3: fmp.timeout: expected a duration"},
		"limits":            {"providers:\n  fmp:\n    limits: fast\n", ":3: fmp.limits: expected windows of calls such as 60/min,2/s, or unlimited, got \"fast\""},
		"bytes":             {"providers:\n  fmp:\n    bytes_per_month: 5 apples\n", ":3: fmp.bytes_per_month: expected a size"},
		"name":              {"providers:\n  FMP:\n    base_url: https://x.test\n", ":2: FMP: provider \"FMP\": expected a name of 1 to 32 characters a-"},
		"no base":           {"providers:\n  x:\n    auth: none\n", ":2: x.base_url: expected http://host/path or https://hos"},
		"key in base":       {"providers:\n  x:\n    auth: none\n    base_url: https://x.test/?key=1\n", ":4: x.base_url: expected a URL without user, query and f"},
		"no auth":           {"providers:\n  x:\n    base_url: https://x.test\n", ":2: x.auth: expected none, bearer, {query: NAME}, "},
		"auth":              {"providers:\n  x:\n    base_url: https://x.test\n    auth: cookie\n", ":4: x.auth: expected one of none, bearer, got \"cookie\""},
		"two kinds of auth": {"providers:\n  x:\n    base_url: https://x.test\n    auth: {query: a, header: b}\n", ":4: x.auth: expected one of query, header, bearer, basic and oauth2, got query and header"},
		"meant field":       {"providers:\n  x:\n    base_ur: https://x.test\n", ":3: x: unknown field \"base_ur\" (did you mean base_url?), expected one of auth, base_url"},
		"auth kind":         {"providers:\n  x:\n    base_url: https://x.test\n    auth: {cookie: a}\n", ":4: x.auth: unknown field \"cookie\", expected one of basic, bearer, env, header"},
		"variables":         {"providers:\n  news:\n    base_url: https://x.test\n    auth: bearer\n", ":2: news: its variables would be those of newsapi"},
		"tier":              {"providers:\n  newsapi:\n    tier: gold\n", ":3: newsapi.tier: \"gold\": expected one of tiers: business, develop"},
		"path":              {op("path: quote"), ":7: x.operations.y.path: \"quote\": expected a path such as /quote/{symbol},"},
		"slot":              {op("path: /a/{b}"), ":7: x.operations.y.path: {b} expected a parameter of that name that i"},
		"optional slot":     {op("path: /a/{b}\n        params: {b: {type: int}}"), ":7: x.operations.y.path: {b} expected a parameter of that name that i"},
		"op name":           {"providers:\n  fmp:\n    operations:\n      Get It: {path: /x}\n", ":4: fmp.operations.Get It: name \"Get It\": expected a name of 1 to 32 characters a-"},
		"get":               {"providers:\n  fmp:\n    operations:\n      get: {path: /x}\n", ":4: fmp.operations.get: name \"get\": expected a name of 1 to 32 characters a-"},
		"op field":          {op("path: /a\n        verb: POST"), ":8: x.operations.y: unknown field \"verb\", expected one of any_of, auth, body, columns,"},
		"param type":        {op("path: /a\n        params:\n          b: {type: integer}"), ":9: x.operations.y.params.b.type: expected one of string, int, number, boo"},
		"param field":       {op("path: /a\n        params:\n          b: {typ: int}"), ":9: x.operations.y.params.b: unknown field \"typ\" (did you mean type?), expected one of at, default, enum, expected,"},
		"bound":             {op("path: /a\n        params:\n          b: {type: int, min: x}"), ":9: x.operations.y.params.b.min: expected a whole number, got \"x\""},
		"bounds":            {op("path: /a\n        params:\n          b: {type: int, min: 5, max: 2}"), ":9: x.operations.y.params.b: expected max not below min"},
		"default":           {op("path: /a\n        params:\n          b: {type: int, max: 9, default: 10}"), ":9: x.operations.y.params.b.default: \"10\": expected a whole number from 0 to 9"},
		"enum":              {op("path: /a\n        params:\n          b: {type: enum}"), ":9: x.operations.y.params.b.enum: expected the values of the enum"},
		"pattern":           {op("path: /a\n        params:\n          b: {pattern: '('}"), ":9: x.operations.y.params.b.pattern: expected a regular expression (RE2): err"},
		"format":            {op("path: /a\n        format: xml"), ":8: x.operations.y.format: expected one of json, csv, any, value, text, ndjson, image, binary, got \"xml"},
		"any_of":            {op("path: /a\n        any_of: [b]"), ":8: x.operations.y.any_of: expected names of parameters, got \"b\""},
		"paging kind":       {op("path: /a\n        paging: {kind: scroll}"), ":8: x.operations.y.paging.kind: expected one of page, offset, next_url, "},
		"paging":            {op("path: /a\n        paging: {kind: page}"), ":8: x.operations.y.paging.param: expected the parameter that asks for a p"},
		"rules":             {"providers:\n  fmp:\n    errors: {}\n", ":3: fmp.errors: expected a list, got fields"},
		"rule class":        {"providers:\n  fmp:\n    errors:\n      - {status: 418, class: teapot}\n", ":4: fmp.errors.0.class: \"teapot\": expected one of ok, transient, throttled"},
		"rule code":         {"providers:\n  fmp:\n    errors:\n      - {status: 418, class: permanent}\n", ":4: fmp.errors.0.code: \"\": expected one of not_found, not_entitled,"},
		"rule status":       {"providers:\n  fmp:\n    errors:\n      - {status: 9xx, class: transient}\n", ":4: fmp.errors.0.status: 9: expected 100 to 599, or a class such as "},
		"rule status text":  {"providers:\n  fmp:\n    errors:\n      - {status: [teapot], class: transient}\n", ":4: fmp.errors.0.status: expected statuses such as 400 or 2xx, go"},
		"rule pointer":      {"providers:\n  fmp:\n    errors:\n      - {at: error, class: transient}\n", ":4: fmp.errors.0.at: \"error\": expected a JSON pointer such as /error, "},
		"rule without at":   {"providers:\n  fmp:\n    errors:\n      - {status: 4xx, prefix: no, class: transient}\n", ":4: fmp.errors.0: equals, prefix and contains: expected with at, which says where to lo"},
		"rule of all":       {"providers:\n  fmp:\n    errors:\n      - {class: transient}\n", ":4: fmp.errors.0: expected at least status, at or header"},
		"hold of a failure": {"providers:\n  fmp:\n    errors:\n      - {status: 418, class: transient, min_hold: 1h}\n", ":4: fmp.errors.0.min_hold: expected only with class throttled"},
		"get path":          {"providers:\n  fmp:\n    get_paths: [{prefix: v2}]\n", ":3: fmp.get_paths.0.prefix: expected a path such as /v2/, got \"v2\""},
		// Faults that hid on a level nobody looked at.
		"header name":         {more("headers: {'X Y': a}"), ":5: x.headers.X Y: expected the name of a header"},
		"header of ours":      {more("headers: {Accept-Encoding: br}"), ":5: x.headers.Accept-Encoding: Accept-Encoding is set by every call itself"},
		"header of the key":   {"providers:\n  x:\n    base_url: https://x.test\n    auth: bearer\n    headers:\n      authorization: a\n", ":6: x.headers.authorization: Authorization carries the key"},
		"header value":        {more(`headers: {X-A: "a\nb"}`), ":5: x.headers.X-A: expected a value without line breaks"},
		"auth header":         {"providers:\n  x:\n    base_url: https://x.test\n    auth: {header: 'X Y'}\n", ":4: x.auth: header \"X Y\": expected the name of a header"},
		"ignored min":         {op("path: /a\n        params:\n          b: {type: string, min: 5}"), ":9: x.operations.y.params.b.min: expected only with type int or number"},
		"ignored max":         {op("path: /a\n        params:\n          b: {type: date, max: 5}"), ":9: x.operations.y.params.b.max: expected only with type int or number or string or csv"},
		"ignored enum":        {op("path: /a\n        params:\n          b: {type: int, enum: [1, 2]}"), ":9: x.operations.y.params.b.enum: expected only with type enum or string or csv"},
		"ignored pattern":     {op("path: /a\n        params:\n          b: {type: enum, enum: [a], pattern: a}"), ":9: x.operations.y.params.b.pattern: expected only with type string or csv"},
		"ignored default":     {op("path: /a\n        params:\n          b: {required: true, default: a}"), ":9: x.operations.y.params.b.default: expected only with a parameter that is not required"},
		"nothing in an enum":  {op("path: /a\n        params:\n          b: {type: enum, enum: [a, ~]}"), ":9: x.operations.y.params.b.enum.1: expected a text, got nothing"},
		"nothing":             {more("limits:"), ":5: x.limits: expected windows of calls"},
		"two under a name":    {op("path: /a\n        params:\n          b: {}\n          c: {wire: b}"), ":10: x.operations.y.params.c: another parameter has its name"},
		"key as a parameter":  {"providers:\n  x:\n    base_url: https://x.test\n    auth: {query: key}\n    operations:\n      y:\n        path: /a\n        params: {Key: {}}\n", ":8: x.operations.y.params.Key: it is sent as Key, which carries the key"},
		"paging of get":       {more("get_paging: {kind: page, param: page}"), ":5: x.get_paging: expected size (a parameter) or each"},
		"ignored in paging":   {op("path: /a\n        params: {p: {type: int}}\n        paging: {kind: page, param: p, each: 5, next: /next}"), ":9: x.operations.y.paging.next: expected only with kind next_url"},
		"auth of a get path":  {more("get_paths:\n      - {prefix: /v2/, auth: {header: ''}}"), ":6: x.get_paths.0.auth: expected none, bearer"},
		"right of a tier":     {more("tier: a\n    tiers:\n      a: {forbids: [Export]}"), ":7: x.tiers.a.forbids.0: \"Export\": expected a name"},
		"error text":          {more("error_text: message"), ":5: x.error_text.0: \"message\": expected a JSON pointer"},
		"own with a class":    {more("own:\n      - {at: /e, class: transient}"), ":6: x.own.0: expected status, at, equals, prefix and contains only"},
		"path that climbs":    {op("path: /a/../b"), ":7: x.operations.y.path: \"/a/../b\": expected no . or .. in it"},
		"prefix of variables": {more("env_prefix: a b"), ":5: x.env_prefix: \"a b\": expected the start of a variable's name"},
		"no POST for writes":  {op("path: /a\n        method: POST\n        body: json"), ":8: x.operations.y.method: POST: expected reads_only: true beside it"},
		"POST without a body": {op("path: /a\n        method: POST\n        reads_only: true"), ":6: x.operations.y.body: \"\": expected json or form"},
		"body of a GET":       {op("path: /a\n        body: json"), ":8: x.operations.y.body: expected only with method POST"},
		"place of a GET":      {op("path: /a\n        params: {b: {at: /b}}"), ":8: x.operations.y.params.b.at: expected only with an operation of method POST"},
		"place in a text":     {op("path: /a\n        method: POST\n        reads_only: true\n        body: json\n        template: {a: text}\n        params: {b: {at: /a/b}}"), ":11: x.operations.y.template: expected a place for b in the template"},
		"secret unknown":      {more("headers: {X-A: 'a ${b}'}"), ":5: x.headers.X-A: ${b}: expected one of secrets: "},
		"secret's variable":   {more("secrets: {b: 'my secret'}"), ":5: x.secrets.b: \"my secret\": expected a variable's name"},
		"oauth2":              {"providers:\n  x:\n    base_url: https://x.test\n    auth: {oauth2: {token_url: x, client_id_env: A, client_secret_env: B}}\n", ":4: x.auth.token_url: expected https://host/path"},
		"basic":               {"providers:\n  x:\n    base_url: https://x.test\n    auth: {basic: {user_env: A}}\n", ":4: x.auth.password_env: \"\": expected a variable's name"},
		"none beside":         {"providers:\n  x:\n    base_url: https://x.test\n    auth: [none, bearer]\n", ":4: x.auth.0: none: expected alone"},
		"two in one place":    {"providers:\n  x:\n    base_url: https://x.test\n    auth: [bearer, {basic: {user_env: A, password_env: B}}]\n", ":4: x.auth.1: another key is sent in the same place"},
		"rate window":         {more("limits: 60/min\n    rate_headers: {window: 1h}"), ":6: x.rate_headers.window: 1h0m0s: expected the length of one of limits"},
		"cost of nothing":     {op("path: /a\n        cost: 0"), ":8: x.operations.y.cost: expected a whole number of calls from 1, got \"0\""},
		"too dear":            {op("path: /a\n        limits: 4/min\n        cost: 5"), ":9: x.operations.y.cost: 5: expected no more than the 4/min of its limits"},
		"dearer than all":     {"providers:\n  fred:\n    limits: 3/s\n    operations:\n      series:\n        cost: 4\n", ":6: fred.operations.series.cost: 4: expected no more than the 3/s"},
		"limits of operation": {op("path: /a\n        limits: fast"), ":8: x.operations.y.limits: expected windows of calls"},
		"no calls at once":    {more("concurrency: 0"), ":5: x.concurrency: expected a whole number of calls at once, from 1, got \"0\""},
		"too many at once":    {more("concurrency: 10001"), ":5: x.concurrency: 10001: expected 1 to 10,000 calls"},
		"a list at once":      {more("concurrency: [5]"), ":5: x.concurrency: expected a whole number of calls at once, from 1, got a list"},
		"quota of nothing":    {more("quota: q"), ":5: x.quota: expected only with limits or concurrency"},
		"quota's name":        {more("limits: 5/s\n    quota: All of it"), ":6: x.quota: \"All of it\": expected a name"},
		"quota without name":  {more("limits: 5/s\n    quota:"), ":6: x.quota: expected a text, got nothing"},
		"unlike limits":       {more("limits: 5/s,60/min\n    quota: q\n  y: {base_url: 'https://y.test', auth: none, quota: q, limits: '60/min,6/s'}"), ":7: y.limits: 6/s,60/min: expected 5/s,60/min as x has in line 5, which shares the quota q"},
		"no limits beside":    {more("limits: 5/s\n    concurrency: 2\n    quota: q\n  y: {base_url: 'https://y.test', auth: none, quota: q, concurrency: 2}"), ":8: y.limits: unlimited: expected 5/s as x has in line 5"},
		"unlike at once":      {more("limits: 5/s\n    quota: q\n  y: {base_url: 'https://y.test', auth: none, quota: q, limits: 5/s, concurrency: 2}"), ":7: y.concurrency: 2: expected 0 as x has in line 2, which shares the quota q"},
		"a tier of a quota":   {more("limits: 5/s\n    quota: q\n    tiers: {a: {limits: 1/min}}\n    tier: a\n  y: {base_url: 'https://y.test', auth: none, quota: q, limits: 5/s}"), ":9: y.limits: 5/s: expected 5/s,1/min as x has in line 5"},
		"no such group":       {op("path: /a\n        group: deep"), ":8: x.operations.y.group: \"deep\": expected one of groups: "},
		"group of nobody":     {more("groups: {deep: 5/min}"), ":5: x.groups.deep: expected an operation with group: deep"},
		"group of all":        {more("groups: {deep: unlimited}\n    operations: {a: {path: /a, group: deep}}"), ":5: x.groups.deep: expected windows of calls"},
		"group and limits":    {more("groups: {deep: 5/min}\n    operations: {a: {path: /a, group: deep}, b: {path: /b, group: deep, limits: 1/s}}"), ":6: x.operations.b.limits: expected only with an operation without group"},
		"one name for two":    {more("groups: {b: 5/min}\n    operations: {a: {path: /a, group: b}, b: {path: /b, limits: 1/s}}"), ":5: x.groups.b: an operation of that name has limits"},
		"rate headers":        {more("rate_headers: on"), ":5: x.rate_headers: expected one of off, got \"on\""},
		"columns of JSON":     {op("path: /a\n        columns: [a]"), ":8: x.operations.y.columns: expected only with format csv"},
		"separator of a text": {op("path: /a\n        params: {b: {separator: ';'}}"), ":8: x.operations.y.params.b.separator: expected only with type csv"},
		"number's bound":      {op("path: /a\n        params: {b: {type: number, min: low}}"), ":8: x.operations.y.params.b.min: \"low\": expected a decimal number"},
		"token paging":        {op("path: /a\n        params: {p: {}}\n        paging: {kind: token, param: p}"), ":9: x.operations.y.paging.next: \"\": expected a JSON pointer"},
		"rule's header":       {more("errors: [{header: {'a b': ''}, class: transient}]"), ":5: x.errors.0.header.a b: expected the name of a header"},
		"long timeout":        {more("timeout: 2h"), ":5: x.timeout: expected more than nothing and at most 1h"},
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

// more is a provider with more fields, from line 5.
func more(fields string) string {
	return "providers:\n  x:\n    base_url: https://x.test\n    auth: none\n    " + fields + "\n"
}

func op(fields string) string {
	return "providers:\n  x:\n    base_url: https://x.test\n    auth: none\n    operations:\n      y:\n        " + fields + "\n"
}

// get is no way around the limits of an operation, or around what it costs.
func TestWhatACallCountsAs(t *testing.T) {
	set := load(t, map[string]string{"FETCH_CATALOG": write(t, `
providers:
  x:
    base_url: https://x.test/v1
    auth: none
    groups: {deep: 5/min}
    operations:
      quote: {path: /quote}
      history: {path: '/of/{symbol}/history', params: {symbol: {required: true}}, limits: 10/min, cost: 2}
      tree: {path: '/tree/{a}', params: {a: {required: true}}, group: deep}
      dear: {path: '/tree/all', cost: 5}
      export: {path: /export, cost: 7}
      of-a: {path: '/both/{a}', params: {a: {required: true}}, cost: 2}
      of-b: {path: '/{b}/all', params: {b: {required: true}}, cost: 9}
      of-c: {path: '/both/al{c}', params: {c: {required: true}}, cost: 3}
`)})
	p, _ := set.Provider("x")
	for _, c := range []struct {
		operation, params, group string
		cost                     int
	}{
		{"quote", "{}", "", 1},
		{"history", `{"symbol":"A"}`, "history", 2},
		{"tree", `{"a":"b"}`, "deep", 1},
		{"dear", "{}", "", 5},
		{"get", `{"path":"/quote"}`, "", 1},
		{"get", `{"path":"/of/A/history"}`, "history", 2},
		{"get", `{"path":"/of/A/history/","query":{"x":1}}`, "history", 2},
		{"get", `{"path":"/v1/of/A/histor%79"}`, "history", 2},
		{"get", `{"path":"/OF/a//History"}`, "history", 2},
		{"get", `{"path":"/of/A/B/history"}`, "", 1},
		{"get", `{"path":"/tree/all"}`, "deep", 1},
		{"get", `{"path":"/export"}`, "", 7},
		{"get", `{"path":"/both/one"}`, "", 2},
		{"get", `{"path":"/both/all"}`, "", 9}, // of all that it may be the dearest
	} {
		call := plan(t, p, c.operation, c.params)
		if call.Group != c.group || call.Cost != c.cost {
			t.Errorf("%s %s: group %q, counts as %d; want %q, %d", c.operation, c.params, call.Group, call.Cost, c.group, c.cost)
		}
	}
}

// Providers of a quota have the same limits in force, whatever order they are
// written in, and also when the environment has changed some.
func TestAQuotaInForce(t *testing.T) {
	file := write(t, `
providers:
  x: {base_url: 'https://x.test', auth: none, quota: q, limits: '60/min,5/s', concurrency: 3}
  y: {base_url: 'https://y.test', auth: none, quota: q, limits: '5/s,60/min', concurrency: 3}
  z: {base_url: 'https://z.test', auth: none, quota: alone, limits: 5/s}
`)
	vars := map[string]string{"FETCH_CATALOG": file, "X_REQUESTS_PER_MINUTE": "30", "Y_REQUESTS_PER_MINUTE": "30"}
	set := load(t, vars)
	if x, _ := set.Provider("x"); x.Quota != "q" || x.AtOnce != 3 {
		t.Errorf("%q, %d at once", x.Quota, x.AtOnce)
	}
	if w := strings.Join(set.Warnings, "\n"); !strings.Contains(w, "z: no other provider here has the quota alone") || strings.Contains(w, "quota q") {
		t.Errorf("warned of %s", w)
	}
	delete(vars, "Y_REQUESTS_PER_MINUTE")
	_, err := providers.Load(func(name string) string { return vars[name] })
	if err == nil || !strings.Contains(err.Error(), "x and y share the quota q") || !strings.Contains(err.Error(), "Y_REQUESTS_PER_MINUTE") {
		t.Errorf("the environment changes one: %v", err)
	}
}

func TestLimitsKeepTheirWindows(t *testing.T) {
	for _, test := range []struct{ provider, perMinute, tier, want string }{
		{"fmp", "", "", "120/min"},
		{"polygon", "", "", "100/min"},
		{"fred", "", "", "60/min,2/s"},
		{"newsapi", "", "", "60/min,100/d,50/12h"},
		{"newsapi", "", "business", "60/min"},
		{"fmp", "750", "", "750/min"},
		{"fred", "30", "", "30/min,2/s"},
		{"fred", "120", "", "120/min,2/s"},
		{"fred", "300", "", "300/min,5/s"},
		{"fred", "0", "", "unlimited"},
		{"newsapi", "10", "", "10/min,100/d,50/12h"},
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

// What a catalogue says holds wherever in the file it stands, and however YAML
// lets it be written.
func TestCatalogueReadsWhatIsWritten(t *testing.T) {
	server := providertest.Pipe("x.test")
	defer server.Close()
	set := load(t, map[string]string{"X_API_KEY": "k1", "FETCH_CATALOG": write(t, `
providers:
  x:
    base_url: &base http://x.test
    get_paths:
      - {prefix: /v2/, from_root: true}
    get_paging: {kind: page, param: page, first: 1, each: 2, items: /data/0/rows}
    operations:
      country:
        path: /länder/{code}
        params:
          code: {type: enum, required: true, enum: [ON, NO, NA, yes, 007, 1e3]}
    auth: {header: X-Key}
  fmp:
    base_url: &stable http://x.test/stable
  fred:
    base_url: *base
`)}, providers.WithDial(server.DialContext))
	p, _ := set.Provider("x")

	// get_paths before auth sends the key all the same, and get can be paged.
	server.Script(providertest.JSON(200, `{"data":[{"rows":[1,2]}]}`), providertest.JSON(200, `{"data":[{"rows":[3]}]}`))
	r := p.Do(t.Context(), plan(t, p, "get", `{"path":"/v2/list","query":{"q":"a"}}`), providers.Options{})
	if got := server.Calls()[0].Header.Get("X-Key"); got != "k1" {
		t.Errorf("the key sent is %q", got)
	}
	if string(r.Next) != `{"path":"/v2/list","query":{"page":"2","q":"a"}}` {
		t.Errorf("next page: %s", r.Next)
	}
	if r = p.Do(t.Context(), plan(t, p, "get", string(r.Next)), providers.Options{}); r.Next != nil {
		t.Errorf("after a page that is not full: %s", r.Next)
	}

	// YAML's words for yes and no stay what they are, and so do numbers.
	for _, code := range []string{"ON", "NO", "NA", "yes", "007", "1e3"} {
		if got, want := plan(t, p, "country", `{"code":"`+code+`"}`).Target(), "/l%C3%A4nder/"+code; got != want {
			t.Errorf("%s is asked as %s, want %s", code, got, want)
		}
	}
	// An alias is what it stands for.
	fred, _ := set.Provider("fred")
	if fred.BaseURL != "http://x.test" {
		t.Errorf("base URL of an alias: %s", fred.BaseURL)
	}
}

// The generation of FMP follows a base URL that is an alias.
func TestAliasSelectsGeneration(t *testing.T) {
	set := load(t, map[string]string{"FETCH_CATALOG": write(t, `
providers:
  x: {base_url: &stable http://x.test/stable, auth: none}
  fmp: {base_url: *stable}
`)})
	p, _ := set.Provider("fmp")
	if got := plan(t, p, "quote", `{"symbol":"AAPL"}`).Target(); got != "/stable/quote?symbol=AAPL" {
		t.Error(got)
	}
}

// A value stays one segment of the path, whatever its pattern allows and
// whatever the path has beside it.
func TestAPathParameterStaysInItsSegment(t *testing.T) {
	set := load(t, map[string]string{"FETCH_CATALOG": write(t, "providers:\n  x:\n    base_url: http://x.test\n    auth: none\n    operations:\n      y: {path: '/é/{a}', params: {a: {required: true}}}\n")})
	p, _ := set.Provider("x")
	for _, bad := range []string{"x/../../y", `x\\y`, "a%2Fb", "a?b", "a#b", ".", "..", "..."} {
		if call, err := p.Plan("y", []byte(`{"a":"`+bad+`"}`)); err == nil {
			t.Errorf("%s is asked as %s", bad, call.Target())
		}
	}
	if got := plan(t, p, "y", `{"a":"ä b;c&d=e+f"}`).Target(); got != "/%C3%A9/%C3%A4%20b%3Bc&d=e+f" {
		t.Error(got)
	}
}
