package providers

import (
	"maps"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

// Financial Modeling Prep speaks two generations of one API. A base URL that
// ends in /stable is the current one: symbols in the query, the key in a
// header. Anything else is the version 3 it replaces: symbols in the path,
// the key in the query. Accounts opened after 2025-08-31 get the current one
// only. Operations keep their names and parameters in both.
const (
	fmpBase   = "https://financialmodelingprep.com/api/v3"
	fmpLegacy = "accounts opened after 2025-08-31 need the current API: set FMP_BASE_URL=https://financialmodelingprep.com/stable"
)

func fmp(baseURL string) sheet.Spec {
	spec := sheet.Spec{
		Name:      "fmp",
		BaseURL:   fmpBase,
		EnvPrefix: "FMP",
		Auth:      []sheet.Auth{{Kind: sheet.AuthQuery, Name: "apikey"}},
		KeyParams: []string{"apikey"},

		// Plans sell 300 to 3000 calls a minute and, over 30 days, 20 to
		// 150 GB; 50 GB is the middle one. (FMP price list.)
		Limits:        ledger.Limits{{N: 120, Per: time.Minute}},
		BytesPerMonth: 50 * gb,
		Timeout:       5 * time.Second,
		Fresh:         time.Hour,
		Stale:         7 * day,

		GetPaths: []sheet.GetPath{
			{Prefix: "/stable/", FromRoot: true, Auth: []sheet.Auth{{Kind: sheet.AuthHeader, Name: "apikey"}}},
			{Prefix: "/api/v3/", FromRoot: true, Auth: []sheet.Auth{{Kind: sheet.AuthQuery, Name: "apikey"}}},
			{Prefix: "/api/v4/", FromRoot: true, Auth: []sheet.Auth{{Kind: sheet.AuthQuery, Name: "apikey"}}},
		},
		ErrorText: []string{"/Error Message", "/error", "/message"},
		// A refusal is JSON with one of these members, or a bare text that
		// begins like this. A path that does not exist gets a page.
		Own: []sheet.Rule{
			{At: []string{"/Error Message", "/error"}},
			{At: []string{""}, Prefix: []string{
				"Restricted Endpoint", "Premium Query Parameter", "Exclusive Endpoint", "Special Endpoint", "Special Parameters",
				"Legacy Endpoint", "Invalid API KEY", "Limit Reach", "Bandwidth Limit Reach",
			}},
		},
		ErrorRules: fmpRules(),
		Operations: fmpV3(),
	}
	if isStable(baseURL) {
		spec.Auth = []sheet.Auth{{Kind: sheet.AuthHeader, Name: "apikey"}}
		spec.Operations = fmpStable()
	}
	return spec
}

func isStable(baseURL string) bool {
	return strings.HasSuffix(strings.TrimRight(baseURL, "/"), "/stable")
}

// The same texts come with 200, 402, 403 and 429, as JSON and bare, so the
// rules look at the text and at no status.
func fmpRules() []sheet.Rule {
	said := []string{"/Error Message", "/error", ""}
	return []sheet.Rule{
		// The bandwidth of the last 30 days is used up: seconds will not help.
		{At: said, Prefix: []string{"Bandwidth Limit Reach"}, Class: wire.ClassThrottled, MinHold: time.Hour},
		{At: said, Prefix: []string{"Limit Reach"}, Class: wire.ClassThrottled},
		{At: said, Prefix: []string{"Invalid API KEY"}, Class: wire.ClassUnauthorized},
		{At: said, Prefix: []string{"Legacy Endpoint"}, Class: wire.ClassPermanent, Code: fetchworker.CodeNotEntitled, Hint: fmpLegacy},
		{
			At: said, Prefix: []string{"Exclusive Endpoint", "Special Endpoint", "Special Parameters", "Premium Query Parameter", "Restricted Endpoint"},
			Class: wire.ClassPermanent, Code: fetchworker.CodeNotEntitled,
		},
		{Status: []int{2}, At: []string{"/Error Message", "/error"}, Class: wire.ClassPermanent, Code: fetchworker.CodeRejected},
		// An unknown symbol and rows that are only minutes away look alike.
		{Status: []int{2}, At: []string{""}, Equals: []string{"[]", "[ ]"}, Class: wire.ClassOK, NoCache: true},
	}
}

// fmpV3 are the operations of version 3.
func fmpV3() map[string]*sheet.Operation {
	return fmpOperations(map[string]string{
		"quote":             "/quote/{symbol}",
		"batch_quote":       "/quote/{symbols}",
		"profile":           "/profile/{symbol}",
		"income_statement":  "/income-statement/{symbol}",
		"balance_sheet":     "/balance-sheet-statement/{symbol}",
		"cash_flow":         "/cash-flow-statement/{symbol}",
		"key_metrics":       "/key-metrics/{symbol}",
		"ratios":            "/ratios/{symbol}",
		"history":           "/historical-price-full/{symbol}",
		"intraday":          "/historical-chart/{interval}/{symbol}",
		"search":            "/search",
		"screener":          "/stock-screener",
		"news":              "/stock_news",
		"earnings_calendar": "/earning_calendar",
	}, "tickers")
}

// fmpStable are the operations of the current API, which has some more.
func fmpStable() map[string]*sheet.Operation {
	operations := fmpOperations(map[string]string{
		"quote":             "/quote",
		"batch_quote":       "/batch-quote",
		"profile":           "/profile",
		"income_statement":  "/income-statement",
		"balance_sheet":     "/balance-sheet-statement",
		"cash_flow":         "/cash-flow-statement",
		"key_metrics":       "/key-metrics",
		"ratios":            "/ratios",
		"history":           "/historical-price-eod/full",
		"intraday":          "/historical-chart/{interval}",
		"search":            "/search-symbol",
		"screener":          "/company-screener",
		"news":              "/news/stock",
		"earnings_calendar": "/earnings-calendar",
	}, "symbols")
	maps.Copy(operations, named(
		sheet.Operation{Name: "treasury_rates", Path: "/treasury-rates", Params: []sheet.Param{from, to}, Fresh: 6 * time.Hour, Stale: 30 * day},
		sheet.Operation{Name: "shares_float", Path: "/shares-float", Params: []sheet.Param{symbol}, Rights: fundamentals, Fresh: 12 * time.Hour, Stale: 30 * day},
		sheet.Operation{
			Name: "profile_bulk", Path: "/profile-bulk", Format: sheet.FormatCSV, Rights: fundamentals, Fresh: 24 * time.Hour, Stale: 30 * day,
			Params: []sheet.Param{{Name: "part", Type: sheet.TypeInt, Default: "0", Max: 99}},
		},
	))
	return operations
}

func fmpOperations(paths map[string]string, newsSymbols string) map[string]*sheet.Operation {
	period := sheet.Param{Name: "period", Type: sheet.TypeEnum, Enum: []string{"annual", "quarter", "FY", "Q1", "Q2", "Q3", "Q4"}}
	limit := sheet.Param{Name: "limit", Type: sheet.TypeInt, Min: 1, Max: 1000}
	symbols := sheet.Param{Name: "symbols", Type: sheet.TypeCSV, Required: true, Pattern: symbol.Pattern, Max: 1000}
	statement := []sheet.Param{symbol, period, limit}

	operations := named(
		sheet.Operation{Name: "quote", Params: []sheet.Param{symbol}, Fresh: 15 * time.Second, Stale: day},
		// 1000 symbols work in one call; 1500 are refused.
		sheet.Operation{Name: "batch_quote", Params: []sheet.Param{symbols}, Fresh: 15 * time.Second, Stale: day},
		sheet.Operation{Name: "profile", Params: []sheet.Param{symbol}, Rights: fundamentals, Fresh: 12 * time.Hour, Stale: 30 * day},
		sheet.Operation{Name: "income_statement", Params: statement, Rights: fundamentals, Fresh: 6 * time.Hour, Stale: 30 * day},
		sheet.Operation{Name: "balance_sheet", Params: statement, Rights: fundamentals, Fresh: 6 * time.Hour, Stale: 30 * day},
		sheet.Operation{Name: "cash_flow", Params: statement, Rights: fundamentals, Fresh: 6 * time.Hour, Stale: 30 * day},
		sheet.Operation{Name: "key_metrics", Params: statement, Rights: fundamentals, Fresh: 6 * time.Hour, Stale: 30 * day},
		sheet.Operation{Name: "ratios", Params: statement, Rights: fundamentals, Fresh: 6 * time.Hour, Stale: 30 * day},
		sheet.Operation{Name: "history", Params: []sheet.Param{symbol, from, to}, Fresh: time.Hour, Stale: 7 * day},
		// One answer is cut at 1000 to 2000 rows without a word: ask for few days.
		sheet.Operation{
			Name: "intraday", Fresh: time.Minute, Stale: day,
			Params: []sheet.Param{symbol, {
				Name: "interval", Type: sheet.TypeEnum, Default: "5min",
				Enum: []string{"1min", "5min", "15min", "30min", "1hour", "4hour"},
			}, from, to},
		},
		sheet.Operation{
			Name: "search", Fresh: 24 * time.Hour, Stale: 30 * day,
			Params: []sheet.Param{
				{Name: "query", Type: sheet.TypeString, Required: true, Max: 100},
				limit,
				{Name: "exchange", Type: sheet.TypeString, Pattern: `[A-Za-z]{2,12}`},
			},
		},
		sheet.Operation{
			Name: "screener", Rights: fundamentals, Fresh: time.Hour, Stale: 7 * day,
			Params: []sheet.Param{
				{Name: "market_cap_more_than", Wire: "marketCapMoreThan", Type: sheet.TypeNumber},
				{Name: "market_cap_lower_than", Wire: "marketCapLowerThan", Type: sheet.TypeNumber},
				{Name: "price_more_than", Wire: "priceMoreThan", Type: sheet.TypeNumber},
				{Name: "price_lower_than", Wire: "priceLowerThan", Type: sheet.TypeNumber},
				{Name: "volume_more_than", Wire: "volumeMoreThan", Type: sheet.TypeNumber},
				{Name: "sector", Type: sheet.TypeString, Max: 60},
				{Name: "industry", Type: sheet.TypeString, Max: 100},
				{Name: "country", Type: sheet.TypeString, Pattern: `[A-Z]{2}`},
				{Name: "exchange", Type: sheet.TypeString, Pattern: `[A-Za-z]{2,12}`},
				{Name: "is_etf", Wire: "isEtf", Type: sheet.TypeBool},
				{Name: "is_actively_trading", Wire: "isActivelyTrading", Type: sheet.TypeBool},
				{Name: "limit", Type: sheet.TypeInt, Min: 1, Max: 10000},
			},
		},
		sheet.Operation{
			Name: "news", Fresh: 2 * time.Minute, Stale: day,
			Params: []sheet.Param{
				{Name: "symbols", Wire: newsSymbols, Type: sheet.TypeCSV, Required: true, Pattern: symbol.Pattern},
				from, to,
				{Name: "page", Type: sheet.TypeInt, Max: 100},
				limit,
			},
			// No total and no cursor: a short page is the last.
			Paging: &sheet.Paging{Kind: sheet.PageNumber, Param: "page", First: 0, Size: "limit", Each: 20},
		},
		sheet.Operation{Name: "earnings_calendar", Params: []sheet.Param{from, to}, Fresh: time.Hour, Stale: 7 * day},
	)
	for name, op := range operations {
		op.Path = paths[name]
	}
	return operations
}
