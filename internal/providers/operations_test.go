package providers_test

import (
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"fetchworker/internal/providers"
	"fetchworker/internal/providers/call"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

// asked is every operation of every provider with the parameters its
// recorded exchange was asked with.
var asked = map[string]map[string]string{
	"fmp": fmpAsked, "fmp-stable": with(fmpAsked, map[string]string{
		"treasury_rates": `{"from":"2026-02-12","to":"2026-02-13"}`,
		"shares_float":   `{"symbol":"AAPL"}`,
		"profile_bulk":   `{}`,
		"get":            `{"path":"/quote","query":{"symbol":"AAPL"}}`,
	}),
	"polygon": {
		"aggregates":        `{"symbol":"AAPL","from":"2026-02-09","to":"2026-02-13"}`,
		"options_flow":      `{"symbol":"O:AAPL261218C00250000","from":"2026-02-09","to":"2026-02-13"}`,
		"options_chain":     `{"symbol":"AAPL","contract_type":"call","expiration_date":"2026-12-18","limit":2}`,
		"options_contracts": `{"underlying_ticker":"AAPL","contract_type":"call","expiration_date":"2026-12-18","limit":2}`,
		"previous_close":    `{"symbol":"AAPL"}`,
		"grouped_daily":     `{"date":"2026-02-13"}`,
		"open_close":        `{"symbol":"AAPL","date":"2026-02-13"}`,
		"snapshot":          `{"symbol":"AAPL"}`,
		"snapshots":         `{"symbols":["AAPL","ZZZZ"]}`,
		"tickers":           `{"active":true,"limit":2,"market":"stocks"}`,
		"ticker_details":    `{"symbol":"AAPL"}`,
		"news":              `{"ticker":"AAPL","limit":2}`,
		"financials":        `{"ticker":"AAPL","timeframe":"annual","limit":1}`,
		"dividends":         `{"ticker":"AAPL","limit":2}`,
		"splits":            `{"ticker":"AAPL","limit":1}`,
		"market_status":     ``,
		"get":               `{"path":"/v1/marketstatus/now"}`,
	},
	"fred": {
		"series":               `{"series_id":"GDP"}`,
		"series_info":          `{"series_id":"GDP"}`,
		"search":               `{"search_text":"domestic product","limit":2}`,
		"updates":              `{"filter_value":"macro","limit":"2"}`,
		"vintages":             `{"series_id":"GDP"}`,
		"series_tags":          `{"series_id":"GDP"}`,
		"releases":             `{"limit":2}`,
		"releases_dates":       `{"limit":2}`,
		"release_dates":        `{"release_id":10}`,
		"release_series":       `{"release_id":10,"limit":2}`,
		"category":             `{"category_id":125}`,
		"category_children":    `{"category_id":125}`,
		"category_series":      `{"category_id":125,"limit":2}`,
		"release_observations": `{"release_id":10}`,
		"get":                  `{"path":"/series","query":{"series_id":"GDP"}}`,
	},
	"newsapi": {
		"headlines":     `{"q":"ports"}`,
		"everything":    `{"domains":"example.com","language":"en","sort_by":"popularity"}`,
		"top_headlines": `{"category":"business","country":"us","page_size":2}`,
		"sources":       `{"language":"en"}`,
		"get":           `{"path":"/everything","query":{"q":"chips","sortBy":"publishedAt","pageSize":2,"page":2}}`,
	},
}

var fmpAsked = map[string]string{
	"quote":             `{"symbol":"AAPL"}`,
	"batch_quote":       `{"symbols":"AAPL,MSFT,NVDA"}`,
	"profile":           `{"symbol":"AAPL"}`,
	"income_statement":  `{"symbol":"AAPL","period":"annual","limit":2}`,
	"balance_sheet":     `{"symbol":"AAPL","period":"annual","limit":2}`,
	"cash_flow":         `{"symbol":"AAPL","period":"annual","limit":2}`,
	"key_metrics":       `{"symbol":"AAPL","period":"annual","limit":2}`,
	"ratios":            `{"symbol":"AAPL","period":"annual","limit":2}`,
	"history":           `{"symbol":"AAPL","from":"2026-02-06","to":"2026-02-13"}`,
	"intraday":          `{"symbol":"AAPL","interval":"1hour","from":"2026-02-12","to":"2026-02-13"}`,
	"search":            `{"query":"apple","limit":3}`,
	"screener":          `{"country":"US","is_etf":false,"limit":3,"price_more_than":1.6,"sector":"Technology"}`,
	"news":              `{"symbols":["AAPL","MSFT"],"page":0,"limit":2}`,
	"earnings_calendar": `{"from":"2026-02-16","to":"2026-02-20"}`,
	"get":               `{"path":"/quote/AAPL"}`,
}

func with(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// Every operation is asked for once and answers with its recorded exchange,
// byte for byte.
func TestEveryOperation(t *testing.T) {
	for generation, operations := range asked {
		p, server := play(t, generation, nil)
		if have, want := slices.Sorted(maps.Keys(p.Operations)), slices.Sorted(maps.Keys(operations)); !slices.Equal(have, want) {
			t.Errorf("%s has %v, asked are %v", generation, have, want)
		}
		for operation, params := range operations {
			t.Run(generation+"/"+operation, func(t *testing.T) {
				server.Forget()
				r := p.Do(t.Context(), plan(t, p, operation, params), providers.Options{})
				if r.Class != wire.ClassOK || r.Err != nil || !r.Sent {
					t.Fatalf("%s: %s, sent %v, error %v", r.Class, r.Detail, r.Sent, r.Err)
				}
				call := server.Calls()[0]
				want := recording(t, p.Name, call.Target)
				if string(r.Body) != string(want.Body) {
					t.Errorf("body differs from the recording of %s", call.Target)
				}
				if r.ContentType != want.Header.Get("Content-Type") || r.ETag != want.Header.Get("Etag") || r.LastModified != want.Header.Get("Last-Modified") {
					t.Errorf("type %q, etag %q, last modified %q; want the recording's %v", r.ContentType, r.ETag, r.LastModified, want.Header)
				}
				if r.WireBytes == 0 || want.Header.Get("Content-Encoding") == "" && r.WireBytes != int64(len(want.Body)) {
					t.Errorf("%d bytes on the wire for a body of %d", r.WireBytes, len(want.Body))
				}
				checkAuth(t, generation, operation, call)
			})
		}
	}
}

func recording(t *testing.T, provider, target string) *call.Exchange {
	t.Helper()
	exchanges, err := providertest.Exchanges(provider)
	if err != nil {
		t.Fatal(err)
	}
	same := func(a string) string { u, _ := url.Parse(a); u.RawQuery = u.Query().Encode(); return u.String() }
	for _, e := range exchanges {
		if e.Status == 200 && !strings.HasPrefix(e.Name, "error_") && same(e.Target) == same(target) {
			return e
		}
	}
	t.Fatalf("%s: no recording of %s", provider, target)
	return nil
}

// checkAuth wants the key in the one place where the API takes it.
func checkAuth(t *testing.T, generation, operation string, call providertest.Call) {
	t.Helper()
	places := map[string]string{}
	if u, err := url.Parse(call.RawTarget); err == nil {
		for name := range u.Query() {
			if u.Query().Get(name) == key {
				places["query"] = name
			}
		}
	}
	for name := range call.Header {
		if strings.Contains(call.Header.Get(name), key) {
			places["header"] = name + ": " + strings.ReplaceAll(call.Header.Get(name), key, "KEY")
		}
	}
	want := map[string]map[string]string{
		"fmp":        {"query": "apikey"},
		"fmp-stable": {"header": "Apikey: KEY"},
		"polygon":    {"header": "Authorization: Bearer KEY"},
		"fred":       {"query": "api_key"},
		"newsapi":    {"header": "X-Api-Key: KEY"},
	}[generation]
	if operation == "release_observations" {
		want = map[string]string{"header": "Authorization: Bearer KEY"}
	}
	if !maps.Equal(places, want) {
		t.Errorf("the key was in %v, want %v", places, want)
	}
}

// The paths that agents' documentation promises.
func TestPaths(t *testing.T) {
	for _, test := range []struct{ generation, operation, params, want string }{
		{"fmp", "quote", `{"symbol":"AAPL"}`, "/api/v3/quote/AAPL"},
		{"fmp", "quote", `{"symbol":"^GSPC"}`, "/api/v3/quote/%5EGSPC"},
		{"fmp", "profile", `{"symbol":"BRK-B"}`, "/api/v3/profile/BRK-B"},
		{"fmp-stable", "quote", `{"symbol":"AAPL"}`, "/stable/quote?symbol=AAPL"},
		{"fmp-stable", "profile", `{"symbol":"AAPL"}`, "/stable/profile?symbol=AAPL"},
		{"fmp", "get", `{"path":"/stable/quote","query":{"symbol":"AAPL"}}`, "/stable/quote?symbol=AAPL"},
		{"fmp-stable", "get", `{"path":"/api/v3/quote/AAPL"}`, "/api/v3/quote/AAPL"},
		{"fmp-stable", "get", `{"path":"/api/v4/treasury"}`, "/api/v4/treasury"},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":"2026-01-02","to":"2026-01-05"}`, "/v2/aggs/ticker/AAPL/range/1/day/2026-01-02/2026-01-05"},
		{"polygon", "aggregates", `{"symbol":"X:BTCUSD","from":1767312000000,"to":"2026-01-05","multiplier":5,"timespan":"minute"}`, "/v2/aggs/ticker/X:BTCUSD/range/5/minute/1767312000000/2026-01-05"},
		{"polygon", "options_flow", `{"symbol":"O:AAPL261218C00250000","from":"2026-01-02","to":"2026-01-05"}`, "/v2/aggs/ticker/O:AAPL261218C00250000/range/1/day/2026-01-02/2026-01-05"},
		{"polygon", "options_chain", `{"symbol":"AAPL","strike_price_gte":250.5}`, "/v3/snapshot/options/AAPL?strike_price.gte=250.5"},
		{"fred", "series", `{"series_id":"GDP"}`, "/fred/series/observations?file_type=json&series_id=GDP"},
		{"fred", "get", `{"path":"/geofred/shapes/file","query":{"shape":"bea"}}`, "/geofred/shapes/file?file_type=json&shape=bea"},
		{"fred", "get", `{"path":"/series","query":{"series_id":"GDP","file_type":"xml"}}`, "/fred/series?file_type=xml&series_id=GDP"},
		{"fred", "get", `{"path":"/fred/series","query":{"series_id":"GDP"}}`, "/fred/series?file_type=json&series_id=GDP"},
		{"fred", "get", `{"path":"/v2/release/observations","query":{"release_id":10}}`, "/fred/v2/release/observations?file_type=json&release_id=10"},
		{"newsapi", "get", `{"path":"/v2/everything","query":{"q":"x"}}`, "/v2/everything?q=x"},
		{"polygon", "get", `{"path":"/v1/open-close//2026-02-13"}`, "/v1/open-close//2026-02-13"},
		{"polygon", "get", `{"path":"/v3/x y/é"}`, "/v3/x%20y/%C3%A9"},
		{"newsapi", "headlines", `{"q":"a & b"}`, "/v2/everything?q=a+%26+b&sortBy=publishedAt"},
	} {
		base := "http://upstream.test" + basePaths[test.generation]
		name := strings.TrimSuffix(test.generation, "-stable")
		p, _ := load(t, map[string]string{prefixes[name] + "_BASE_URL": base}).Provider(name)
		if got := plan(t, p, test.operation, test.params).Target(); got != test.want {
			t.Errorf("%s %s %s: %s, want %s", test.generation, test.operation, test.params, got, test.want)
		}
	}
}

// Every parameter refuses a value that cannot be right, and the error names
// the parameter and what was expected.
func TestEveryParameterRefuses(t *testing.T) {
	for generation, operations := range asked {
		name := strings.TrimSuffix(generation, "-stable")
		p, _ := load(t, map[string]string{prefixes[name] + "_BASE_URL": "http://upstream.test" + basePaths[generation]}).Provider(name)
		for _, op := range p.Operations {
			for _, param := range op.Params {
				var params map[string]any
				if err := json.Unmarshal([]byte(operations[op.Name] + "{}")[:max(2, len(operations[op.Name]))], &params); err != nil {
					t.Fatal(err)
				}
				for _, bad := range badValues(param) {
					params[param.Name] = bad
					raw, err := json.Marshal(params)
					if err != nil {
						t.Fatal(err)
					}
					_, err = p.Plan(op.Name, raw)
					var wrong *sheet.ParamError
					if !errors.As(err, &wrong) || wrong.Param != param.Name || wrong.Expected == "" || !strings.Contains(err.Error(), param.Name) {
						t.Errorf("%s %s %s=%v: %v", generation, op.Name, param.Name, bad, err)
					}
				}
				if param.Required {
					delete(params, param.Name)
					raw, err := json.Marshal(params)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := p.Plan(op.Name, raw); err == nil || !strings.Contains(err.Error(), "required") {
						t.Errorf("%s %s without %s: %v", generation, op.Name, param.Name, err)
					}
				}
			}
		}
	}
}

func badValues(param sheet.Param) []any {
	always := []any{"", map[string]any{}, "a\nb"}
	switch param.Type {
	case sheet.TypeInt:
		return append(always, -1, "many", 1.5, int64(1)<<40)
	case sheet.TypeNumber:
		return append(always, "1e9", "cheap")
	case sheet.TypeBool:
		return append(always, "yes", 1)
	case sheet.TypeEnum:
		return append(always, "no-such-value")
	case sheet.TypeDate, sheet.TypeTime, sheet.TypeDateOrMS:
		return append(always, "2026-13-01", "yesterday", 12)
	case sheet.TypeCSV:
		return append(always, "a,,b", []any{[]any{}}, "a b/c?", strings.Repeat("A,", 3000)+"A")
	case sheet.TypeString:
	}
	return append(always, strings.Repeat("x", 5000), []any{"a"})
}

func TestPlanRefuses(t *testing.T) {
	set := load(t, nil)
	for _, test := range []struct{ provider, operation, params, want string }{
		{"fmp", "quote", `[]`, "JSON object"},
		{"fmp", "quote", `{"symbol":"AAPL","apikey":"x"}`, "only parameters that quote has"},
		{"fmp", "quote", `{"symbol":".."}`, "symbol"},
		{"fmp", "quote", `{"symbol":"AAPL/../x"}`, "symbol"},
		{"polygon", "options_flow", `{"symbol":"AAPL","from":"2026-01-02","to":"2026-01-05"}`, "O:AAPL"},
		{"polygon", "aggregates", `{"symbol":"O:AAPL261218C00250000","from":"2026-01-02","to":"2026-01-05"}`, "options_flow"},
		{"newsapi", "everything", `{}`, "at least one of q"},
		{"newsapi", "top_headlines", `{"sources":"a","country":"us"}`, "nothing when sources is given"},
	} {
		p, _ := set.Provider(test.provider)
		_, err := p.Plan(test.operation, []byte(test.params))
		var wrong *sheet.ParamError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %s %s: %v, want %q", test.provider, test.operation, test.params, err, test.want)
		}
	}
	p, _ := set.Provider("fmp")
	if _, err := p.Plan("dance", nil); !errors.Is(err, providers.ErrUnknownOperation) || !strings.Contains(err.Error(), "quote") {
		t.Errorf("unknown operation: %v", err)
	}
	if _, err := p.Plan("treasury_rates", nil); !errors.Is(err, providers.ErrUnknownOperation) {
		t.Errorf("an operation of the other generation: %v", err)
	}
}

func TestGetRefuses(t *testing.T) {
	set := load(t, nil)
	for _, params := range []string{
		``, `{}`, `{"path":7}`, `{"path":""}`, `{"path":"quote"}`, `{"path":"//evil.test/x"}`, `{"path":"https://evil.test/x"}`,
		`{"path":"/x?apikey=1"}`, `{"path":"/x#y"}`, `{"path":"/user@evil.test"}`, `{"path":"/a/../b"}`, `{"path":"/.."}`, `{"path":"/./x"}`,
		`{"path":"/%2e%2e/x"}`, `{"path":"/%2E/x"}`, `{"path":"/a%2fb"}`, `{"path":"/a%2Fb"}`, `{"path":"/a%5cb"}`, `{"path":"/%252e"}`,
		`{"path":"/a\nb"}`, `{"path":"/a\u0000"}`, `{"path":"/%00"}`, `{"path":"/%0d%0aX:1"}`, `{"path":"/a%"}`, `{"path":"/a%zz"}`, `{"path":"/a\\b"}`,
		`{"path":"/\u0085"}`, `{"path":"/x/http://evil.test"}`,
		`{"path":"/x","query":"a=b"}`, `{"path":"/x","query":{"a":{}}}`, `{"path":"/x","query":{"a":[["b"]]}}`, `{"path":"/x","query":{"a":"b\r\n"}}`, `{"path":"/x","query":{"":"b"}}`,
		`{"path":"/x","host":"evil.test"}`,
	} {
		p, _ := set.Provider("fmp")
		_, err := p.Plan("get", []byte(params))
		var wrong *sheet.ParamError
		if !errors.As(err, &wrong) {
			t.Errorf("%s: %v", params, err)
		}
	}
	for name, param := range map[string]string{"fmp": "ApiKey", "polygon": "apikey", "fred": "API_KEY", "newsapi": "apiKey"} {
		p, _ := set.Provider(name)
		_, err := p.Plan("get", []byte(`{"path":"/x","query":{"`+param+`":"mine"}}`))
		if err == nil || !strings.Contains(err.Error(), param) || strings.Contains(err.Error(), "mine") {
			t.Errorf("%s: own key parameter: %v", name, err)
		}
	}
}

// Equal requests have equal keys, different ones different keys, and a key is
// valid in a NATS bucket.
func TestKey(t *testing.T) {
	set := load(t, map[string]string{"FMP_API_KEY": key})
	polygon, _ := set.Provider("polygon")
	fmp, _ := set.Provider("fmp")
	stable, _ := load(t, map[string]string{"FMP_BASE_URL": "https://upstream.test/stable"}).Provider("fmp")

	same := []string{
		`{"symbol":"AAPL","from":"2026-01-02","to":"2026-01-05","limit":50}`,
		`{"to":"2026-01-05","limit":"050","from":"2026-01-02","symbol":"AAPL","multiplier":1,"timespan":"day"}`,
	}
	first := plan(t, polygon, "aggregates", same[0]).Key
	if second := plan(t, polygon, "aggregates", same[1]).Key; first != second {
		t.Errorf("%s and %s differ", first, second)
	}
	keys := map[string]bool{first: true}
	for _, call := range []*providers.Call{
		plan(t, polygon, "aggregates", `{"symbol":"AAPL","from":"2026-01-02","to":"2026-01-06"}`),
		plan(t, polygon, "get", `{"path":"/v2/aggs/ticker/AAPL/range/1/day/2026-01-02/2026-01-05","query":{"limit":50}}`),
		plan(t, fmp, "quote", `{"symbol":"AAPL"}`), plan(t, stable, "quote", `{"symbol":"AAPL"}`), plan(t, fmp, "quote", `{"symbol":"MSFT"}`),
	} {
		if keys[call.Key] {
			t.Errorf("%s is not the only %s", call.Target(), call.Key)
		}
		keys[call.Key] = true
	}
	for k := range keys {
		if strings.Trim(k, "abcdefghijklmnopqrstuvwxyz0123456789_-.") != "" || strings.HasPrefix(k, ".") {
			t.Errorf("%q is no bucket key", k)
		}
	}
}

// Pages lead to the next by parameters alone, to our own host only.
func TestPages(t *testing.T) {
	for _, test := range []struct {
		generation, operation, params string
		pages                         []string // names of the exchanges in order
	}{
		{"fmp", "news", `{"symbols":"AAPL,MSFT","limit":2,"page":0}`, []string{"v3_news", "v3_news_last_page"}},
		{"fmp-stable", "news", `{"symbols":"AAPL,MSFT","limit":2,"page":0}`, []string{"stable_news", "stable_news_last_page"}},
		{"polygon", "tickers", `{"active":true,"limit":2,"market":"stocks"}`, []string{"tickers_page1", "tickers_page2"}},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":"2026-02-13","to":"2026-02-13","timespan":"minute","limit":3}`, []string{"aggregates_minute_page1", "aggregates_minute_page2"}},
		{"polygon", "options_chain", `{"symbol":"AAPL","contract_type":"call","expiration_date":"2026-12-18","limit":2}`, []string{"options_chain", "options_chain_last"}},
		{"polygon", "get", `{"path":"/v3/reference/tickers","query":{"active":true,"limit":2,"market":"stocks"}}`, []string{"tickers_page1", "tickers_page2"}},
		{"fred", "series", `{"series_id":"UNRATE","limit":2}`, []string{"series_page1", "series_page2"}},
		{"newsapi", "headlines", `{"q":"chips","page_size":2}`, []string{"headlines_page1", "headlines_page2"}},
	} {
		t.Run(test.generation+"/"+test.operation, func(t *testing.T) {
			p, server := play(t, test.generation, nil)
			params := json.RawMessage(test.params)
			for _, page := range test.pages {
				if params == nil {
					t.Fatalf("no page before %s", page)
				}
				r := p.Do(t.Context(), plan(t, p, test.operation, string(params)), providers.Options{})
				if r.Class != wire.ClassOK || string(r.Body) != string(server.Named(page).Body) {
					t.Fatalf("with %s: %s %s, not %s", params, r.Class, r.Detail, page)
				}
				params = r.Next
			}
			if params != nil {
				t.Errorf("after the last page: %s", params)
			}
		})
	}
}
