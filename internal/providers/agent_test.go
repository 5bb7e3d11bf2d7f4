package providers_test

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"fetchworker/internal/providers"
	"fetchworker/internal/providers/sheet"
)

// What agents send, and what is made of it before anything is called.
func TestWhatAgentsSend(t *testing.T) {
	for _, test := range []struct{ generation, operation, params, want string }{
		// null is left out.
		{"fmp", "history", `{"symbol":"AAPL","from":null,"to":null}`, "/api/v3/historical-price-full/AAPL"},
		{"polygon", "previous_close", `{"symbol":"AAPL","adjusted":null}`, "/v2/aggs/ticker/AAPL/prev"},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":"2026-01-02","to":"2026-01-02","multiplier":null}`, "/v2/aggs/ticker/AAPL/range/1/day/2026-01-02/2026-01-02"},
		{"polygon", "get", `{"path":"/v3/x","query":null}`, "/v3/x"},
		{"polygon", "get", `{"path":"/v3/x","query":{"a":null,"b":"c"}}`, "/v3/x?b=c"},
		{"fmp", "quote", `{"symbol":null}`, `"symbol": expected a symbol`},
		// A number is no text.
		{"fmp", "quote", `{"symbol":7}`, `write "7"`},
		{"fmp", "quote", `{"symbol":005930}`, `a JSON object`},
		{"fmp", "quote", `{"symbol":5930}`, `write "5930"`},
		{"fmp", "quote", `{"symbol":true}`, `write "true"`},
		{"fmp", "quote", `{"symbol":"7203"}`, "/api/v3/quote/7203"},
		{"fmp", "batch_quote", `{"symbols":[7203]}`, `"symbols": expected`},
		{"fmp", "batch_quote", `{"symbols":["7203","AAPL"]}`, "/api/v3/quote/7203,AAPL"},
		{"fred", "series", `{"series_id":"GDP","limit":5}`, "/fred/series/observations?file_type=json&limit=5&series_id=GDP"},
		// Symbols as they are.
		{"fmp", "quote", `{"symbol":"M&M.NS"}`, "/api/v3/quote/M&M.NS"},
		{"fmp-stable", "quote", `{"symbol":"M&M.NS"}`, "/stable/quote?symbol=M%26M.NS"},
		{"polygon", "snapshot", `{"symbol":"X:BTCUSD"}`, "the ticker of a stock"},
		{"polygon", "snapshot", `{"symbol":"AAPL"}`, "/v2/snapshot/locale/us/markets/stocks/tickers/AAPL"},
		// Moments and spans.
		{"polygon", "aggregates", `{"symbol":"AAPL","from":1704067200,"to":1706745600}`, `"from": expected a date YYYY-MM-DD or Unix milliseconds`},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":1704067200000,"to":1706745600000}`, "/v2/aggs/ticker/AAPL/range/1/day/1704067200000/1706745600000"},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":"2026-02-01","to":"2026-01-01"}`, `"from": expected nothing after to`},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":"2026-02-01","to":1704067200000}`, `"from": expected nothing after to`},
		{"polygon", "aggregates", `{"symbol":"AAPL","from":1706745600000,"to":"2024-02-01"}`, "/v2/aggs/ticker/AAPL/range/1/day/1706745600000/2024-02-01"},
		{"fmp", "history", `{"symbol":"AAPL","from":"2026-02-02","to":"2026-02-01"}`, `"from": expected nothing after to`},
		{"fmp", "history", `{"symbol":"AAPL","from":"2026-02-01","to":"2026-02-01"}`, "/api/v3/historical-price-full/AAPL?from=2026-02-01&to=2026-02-01"},
		{"fred", "series", `{"series_id":"GDP","observation_start":"2026-02-02","observation_end":"2026-02-01"}`, `"observation_start": expected nothing after observation_end`},
		{"newsapi", "headlines", `{"q":"x","from":"2026-02-02T10:00:00Z","to":"2026-02-02T11:00:00+02:00"}`, `"from": expected nothing after to`},
		{"newsapi", "headlines", `{"q":"x","from":"2026-02-02T10:00:00Z","to":"2026-02-02"}`, "/v2/everything?from="},
		{"polygon", "news", `{"since":"2026-02-02","until":"2026-02-01"}`, `"since": expected nothing after until`},
		{"polygon", "options_chain", `{"symbol":"AAPL","strike_price_gte":10,"strike_price_lte":9.5}`, `"strike_price_gte": expected nothing after strike_price_lte`},
		// What fills a part of the path stays one.
		{"polygon", "aggregates", `{"symbol":"x/../../../snapshot","from":"2026-01-02","to":"2026-01-02"}`, `"symbol": expected`},
		{"polygon", "previous_close", `{"symbol":"BTC/USD"}`, `"symbol": expected`},
		// Doubled names of get keep both.
		{"polygon", "get", `{"path":"/v3/x","query":{"a":["1",2]}}`, "/v3/x?a=1&a=2"},
	} {
		call, err := provider(t, test.generation).Plan(test.operation, []byte(test.params))
		var got string
		if err != nil {
			got = err.Error()
			if wrong := new(sheet.ParamError); !errors.As(err, &wrong) {
				t.Errorf("%s %s: %v is no ParamError", test.operation, test.params, err)
			}
		} else {
			got = call.Target()
		}
		if isError := !strings.HasPrefix(test.want, "/"); isError != (err != nil) || !strings.Contains(got, test.want) {
			t.Errorf("%s %s %s:\n%s, want\n%s", test.generation, test.operation, test.params, got, test.want)
		}
	}
}

// Whatever a next_url holds, what Fetch-Next would tell can be asked as it is.
func TestEveryNextCanBeAsked(t *testing.T) {
	p := provider(t, "polygon")
	calls := []*providers.Call{
		plan(t, p, "tickers", `{"market":"stocks","limit":2}`),
		plan(t, p, "aggregates", `{"symbol":"AAPL","from":"2026-01-02","to":"2026-01-05"}`),
		plan(t, p, "options_chain", `{"symbol":"AAPL"}`),
		plan(t, p, "get", `{"path":"/v3/reference/tickers","query":{"a":["1","2"]}}`),
	}
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"YXA9MQ", "a&b", "a%b", "a b", ".", "~", "..", "a/b", "é", "x\ny", "1", "0", "true"}))
	name := rapid.SampledFrom([]string{"cursor", "limit", "apiKey", "market", "other", "adjusted", "sort"})
	path := rapid.SampledFrom([]string{"/v3/reference/tickers", "/v2/aggs/ticker/AAPL/range/1/day/1767312000000/2026-01-05", "/v2/aggs/ticker/A%2FB/range/1/day/2026-01-09/2026-01-05", "/v3/snapshot/options/AAPL", "", "/../x", "/%2e%2e"})
	asked, both := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		call := rapid.SampledFrom(calls).Draw(t, "call")
		query := url.Values{}
		for range rapid.IntRange(0, 4).Draw(t, "n") {
			query.Add(name.Draw(t, "name"), text.Draw(t, "value"))
		}
		link := rapid.SampledFrom([]string{"", "https://api.polygon.io:443:443", "//x", "HTTP://y"}).Draw(t, "host") + path.Draw(t, "path") + "?" + query.Encode()
		body, err := json.Marshal(map[string]string{"next_url": link})
		if err != nil {
			t.Fatal(err)
		}
		next, loop := p.Next(call, nil, body)
		if next == nil {
			return
		}
		asked++
		planned, err := p.Plan(call.Operation.Name, next)
		if err != nil || loop || planned.Key == call.Key {
			t.Fatalf("%s gives %s: %v", link, next, err)
		}
		if planned.Query.Has("apiKey") {
			t.Fatalf("%s gives a key: %s", link, next)
		}
		if values := query["other"]; len(values) > 1 && call.Operation.Name == "get" {
			both++
			if strings.Join(planned.Query["other"], "|") != strings.Join(values, "|") {
				t.Fatalf("%s asks for %q of %q", link, planned.Query["other"], values)
			}
		}
	})
	if asked == 0 {
		t.Error("nothing was ever asked")
	}
	_ = both
}

// A page that names itself as the next one ends the chain, and says so.
func TestACursorThatRepeatsItself(t *testing.T) {
	p := provider(t, "polygon")
	for _, params := range []string{`{"cursor":"abc","limit":5}`, `{"limit":"5","cursor":"abc"}`} {
		next, loop := p.Next(plan(t, p, "tickers", params), nil, []byte(`{"next_url":"https://api.polygon.io/v3/reference/tickers?cursor=abc&limit=5"}`))
		if next != nil || !loop {
			t.Errorf("%s: next %s, loop %v", params, next, loop)
		}
	}
	if next, loop := p.Next(plan(t, p, "tickers", `{"cursor":"abc"}`), nil, []byte(`{"next_url":"/v3/reference/tickers?cursor=abd"}`)); loop || string(next) != `{"cursor":"abd"}` {
		t.Errorf("next %s, loop %v", next, loop)
	}
}
