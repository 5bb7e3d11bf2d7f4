package providers

import (
	"time"

	"fetchworker"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

// Polygon.io, since 2025-10-30 called Massive (https://api.massive.com; the
// old host answers still, and keys are the same).
func polygon(string) sheet.Spec {
	return sheet.Spec{
		Name:      "polygon",
		BaseURL:   "https://api.polygon.io",
		EnvPrefix: "POLYGON",
		Auth:      []sheet.Auth{{Kind: sheet.AuthBearer}},
		KeyParams: []string{"apiKey"},

		// Free plans allow 5 calls a minute, paid ones ask to stay below 100
		// a second; 100 a minute is gentle for the one and needs
		// POLYGON_REQUESTS_PER_MINUTE=5 for the other.
		Limits:  ledger.Limits{{N: 100, Per: time.Minute}},
		Timeout: 5 * time.Second,
		Fresh:   time.Minute,
		Stale:   7 * day,

		GetPaging: polygonPaging,
		ErrorText: []string{"/error", "/message"}, // ERROR says it in the first, NOT_FOUND and NOT_AUTHORIZED in the second
		Own: []sheet.Rule{
			{At: []string{"/request_id"}},
			{At: []string{"/status"}, Equals: []string{"ERROR", "NOT_FOUND", "NOT_AUTHORIZED"}},
		},
		ErrorRules: []sheet.Rule{
			{At: []string{"/error", "/message"}, Contains: []string{"exceeded the maximum requests"}, Class: wire.ClassThrottled},
			{At: []string{"/error", "/message"}, Prefix: []string{"Unknown API Key", "API Key was not provided"}, Class: wire.ClassUnauthorized},
			{Status: []int{2}, At: []string{"/status"}, Equals: []string{"NOT_AUTHORIZED"}, Class: wire.ClassPermanent, Code: fetchworker.CodeNotEntitled},
			{Status: []int{2}, At: []string{"/status"}, Equals: []string{"NOT_FOUND"}, Class: wire.ClassPermanent, Code: fetchworker.CodeNotFound},
			{Status: []int{2}, At: []string{"/status"}, Equals: []string{"ERROR"}, Class: wire.ClassPermanent, Code: fetchworker.CodeRejected},
			// A holiday, an unknown ticker and a passing fault look alike:
			// an answer, but none to keep. DELAYED and errors of single
			// items inside results are answers like any other.
			{Status: []int{2}, At: []string{"/results"}, Equals: []string{"null", "[]"}, Class: wire.ClassOK, NoCache: true},
			{Status: []int{2}, At: []string{"/resultsCount"}, Equals: []string{"0"}, Class: wire.ClassOK, NoCache: true},
		},
		Operations: polygonOperations(),
	}
}

var polygonPaging = &sheet.Paging{Kind: sheet.PageNext, Param: "cursor", Next: "/next_url"}

func polygonOperations() map[string]*sheet.Operation {
	optionsData := []string{"options_data"}
	// Option tickers (O:…) need a right of their own and so have their own
	// operations; no other takes them.
	ticker := sheet.Param{
		Name: "symbol", Type: sheet.TypeString, Required: true, Pattern: `([A-NP-Z]:)?[A-Za-z0-9][A-Za-z0-9.\-]{0,29}`,
		Expected: "a ticker such as AAPL, X:BTCUSD or I:SPX (option tickers, O:…, go to options_flow)",
	}
	stock := ticker
	stock.Pattern, stock.Expected = `[A-Za-z0-9][A-Za-z0-9.\-]{0,29}`, "the ticker of a stock, such as AAPL (X:, C: and I: tickers go to snapshots)"
	option := sheet.Param{
		Name: "symbol", Type: sheet.TypeString, Required: true, Pattern: `O:[A-Z0-9]{1,8}\d{6}[CP]\d{8}`,
		Expected: "an option ticker such as O:AAPL261218C00250000",
	}
	inTicker := sheet.Param{Name: "ticker", Type: sheet.TypeString, Pattern: ticker.Pattern, Expected: ticker.Expected}
	date := func(name, wire string) sheet.Param { return sheet.Param{Name: name, Wire: wire, Type: sheet.TypeDate} }
	number := func(name, wire string) sheet.Param {
		return sheet.Param{Name: name, Wire: wire, Type: sheet.TypeNumber}
	}
	moment := func(name string) sheet.Param {
		return sheet.Param{Name: name, Type: sheet.TypeDateOrMS, Required: true}
	}
	limit := func(most int64) sheet.Param {
		return sheet.Param{Name: "limit", Type: sheet.TypeInt, Min: 1, Max: most}
	}
	adjusted := sheet.Param{Name: "adjusted", Type: sheet.TypeBool}
	order := sheet.Param{Name: "order", Type: sheet.TypeEnum, Enum: []string{"asc", "desc"}}
	sort := sheet.Param{Name: "sort", Type: sheet.TypeEnum, Enum: []string{"asc", "desc"}}
	sortBy := sheet.Param{Name: "sort", Type: sheet.TypeString, Pattern: `[a-z_.]{1,40}`}
	cursor := sheet.Param{Name: "cursor", Type: sheet.TypeString, Max: 4096} // whatever Polygon makes them of

	return named(
		sheet.Operation{
			Name: "aggregates", Path: "/v2/aggs/ticker/{symbol}/range/{multiplier}/{timespan}/{from}/{to}",
			Params: []sheet.Param{
				ticker, moment("from"), moment("to"),
				{Name: "multiplier", Type: sheet.TypeInt, Min: 1, Max: 10000, Default: "1"},
				{Name: "timespan", Type: sheet.TypeEnum, Default: "day", Enum: []string{"second", "minute", "hour", "day", "week", "month", "quarter", "year"}},
				adjusted, sort, limit(50000), cursor,
			},
			Paging: polygonPaging,
		},
		sheet.Operation{
			Name: "options_flow", Path: "/v2/aggs/ticker/{symbol}/range/1/day/{from}/{to}",
			Params: []sheet.Param{option, moment("from"), moment("to"), adjusted, sort, limit(50000), cursor},
			Rights: optionsData, Paging: polygonPaging,
		},
		sheet.Operation{
			Name: "options_chain", Path: "/v3/snapshot/options/{symbol}",
			Params: []sheet.Param{
				{Name: "symbol", Type: sheet.TypeString, Required: true, Pattern: ticker.Pattern, Expected: "the ticker of the underlying, such as AAPL"},
				number("strike_price", ""), number("strike_price_gte", "strike_price.gte"), number("strike_price_lte", "strike_price.lte"),
				date("expiration_date", ""), date("expiration_date_gte", "expiration_date.gte"), date("expiration_date_lte", "expiration_date.lte"),
				{Name: "contract_type", Type: sheet.TypeEnum, Enum: []string{"call", "put"}},
				order, sortBy, limit(250), cursor,
			},
			Rights: optionsData, Fresh: 30 * time.Second, Stale: day, Paging: polygonPaging,
		},
		sheet.Operation{
			Name: "options_contracts", Path: "/v3/reference/options/contracts",
			Params: []sheet.Param{
				{Name: "underlying_ticker", Type: sheet.TypeString, Pattern: ticker.Pattern},
				{Name: "contract_type", Type: sheet.TypeEnum, Enum: []string{"call", "put"}},
				date("expiration_date", ""), date("as_of", ""),
				{Name: "expired", Type: sheet.TypeBool},
				order, sortBy, limit(1000), cursor,
			},
			Rights: optionsData, Fresh: 6 * time.Hour, Paging: polygonPaging,
		},
		sheet.Operation{Name: "previous_close", Path: "/v2/aggs/ticker/{symbol}/prev", Params: []sheet.Param{ticker, adjusted}, Fresh: 10 * time.Minute},
		sheet.Operation{
			Name: "grouped_daily", Path: "/v2/aggs/grouped/locale/us/market/stocks/{date}",
			Params: []sheet.Param{{Name: "date", Type: sheet.TypeDate, Required: true}, adjusted, {Name: "include_otc", Type: sheet.TypeBool}},
			Fresh:  time.Hour, Stale: 30 * day,
		},
		sheet.Operation{
			Name: "open_close", Path: "/v1/open-close/{symbol}/{date}",
			Params: []sheet.Param{ticker, {Name: "date", Type: sheet.TypeDate, Required: true}, adjusted}, Fresh: time.Hour, Stale: 30 * day,
		},
		sheet.Operation{
			Name: "snapshot", Path: "/v2/snapshot/locale/us/markets/stocks/tickers/{symbol}",
			Params: []sheet.Param{stock}, Fresh: 15 * time.Second, Stale: day,
		},
		sheet.Operation{
			Name: "snapshots", Path: "/v3/snapshot",
			Params: []sheet.Param{{Name: "symbols", Wire: "ticker.any_of", Type: sheet.TypeCSV, Required: true, Pattern: ticker.Pattern, Max: 250}, order, sortBy, limit(250), cursor},
			Fresh:  15 * time.Second, Stale: day, Paging: polygonPaging,
		},
		sheet.Operation{
			Name: "tickers", Path: "/v3/reference/tickers",
			Params: []sheet.Param{
				inTicker,
				{Name: "search", Type: sheet.TypeString, Max: 100},
				{Name: "market", Type: sheet.TypeEnum, Enum: []string{"stocks", "crypto", "fx", "otc", "indices"}},
				{Name: "type", Type: sheet.TypeString, Pattern: `[A-Z]{1,10}`},
				{Name: "exchange", Type: sheet.TypeString, Pattern: `[A-Z]{4}`},
				date("date", ""),
				{Name: "active", Type: sheet.TypeBool},
				order, sortBy, limit(1000), cursor,
			},
			Fresh: 12 * time.Hour, Stale: 30 * day, Paging: polygonPaging,
		},
		sheet.Operation{
			Name: "ticker_details", Path: "/v3/reference/tickers/{symbol}", Params: []sheet.Param{ticker, date("date", "")},
			Rights: fundamentals, Fresh: 12 * time.Hour, Stale: 30 * day,
		},
		sheet.Operation{
			Name: "news", Path: "/v2/reference/news",
			Params: []sheet.Param{
				inTicker,
				{Name: "since", Wire: "published_utc.gte", Type: sheet.TypeTime},
				{Name: "until", Wire: "published_utc.lte", Type: sheet.TypeTime},
				order, sortBy, limit(1000), cursor,
			},
			Fresh: 2 * time.Minute, Stale: day, Paging: polygonPaging,
		},
		sheet.Operation{
			Name: "financials", Path: "/vX/reference/financials",
			Params: []sheet.Param{
				inTicker,
				{Name: "timeframe", Type: sheet.TypeEnum, Enum: []string{"annual", "quarterly", "ttm"}},
				date("filed_since", "filing_date.gte"), order, sortBy, limit(100), cursor,
			},
			Rights: fundamentals, Fresh: 6 * time.Hour, Stale: 30 * day, Paging: polygonPaging,
		},
		sheet.Operation{
			Name: "dividends", Path: "/v3/reference/dividends", Params: []sheet.Param{inTicker, date("ex_dividend_date", ""), order, sortBy, limit(1000), cursor},
			Rights: fundamentals, Fresh: 6 * time.Hour, Stale: 30 * day, Paging: polygonPaging,
		},
		sheet.Operation{
			Name: "splits", Path: "/v3/reference/splits", Params: []sheet.Param{inTicker, date("execution_date", ""), order, sortBy, limit(1000), cursor},
			Rights: fundamentals, Fresh: 6 * time.Hour, Stale: 30 * day, Paging: polygonPaging,
		},
		sheet.Operation{Name: "market_status", Path: "/v1/marketstatus/now", Fresh: 30 * time.Second, Stale: time.Hour},
	)
}
