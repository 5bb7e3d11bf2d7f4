package providers

import (
	"maps"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/budget"
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

func fmp(baseURL string) Spec {
	spec := Spec{
		Name:      "fmp",
		BaseURL:   fmpBase,
		EnvPrefix: "FMP",
		Auth:      Auth{AuthQuery, "apikey"},
		KeyParams: []string{"apikey"},

		// Plans sell 300 to 3000 calls a minute and, over 30 days, 20 to
		// 150 GB; 50 GB is the middle one. (FMP price list.)
		Limits:        budget.Limits{{N: 120, Per: time.Minute}},
		BytesPerMonth: 50 * gb,
		Timeout:       5 * time.Second,
		Fresh:         time.Hour,
		Stale:         7 * day,

		GetPaths: []GetPath{
			{Prefix: "/stable/", FromRoot: true, Auth: Auth{AuthHeader, "apikey"}},
			{Prefix: "/api/v3/", FromRoot: true, Auth: Auth{AuthQuery, "apikey"}},
			{Prefix: "/api/v4/", FromRoot: true, Auth: Auth{AuthQuery, "apikey"}},
		},
		ErrorText:  []string{"/Error Message", "/error", "/message"},
		ErrorRules: fmpRules(),
		Operations: fmpV3(),
	}
	if isStable(baseURL) {
		spec.Auth = Auth{AuthHeader, "apikey"}
		spec.Operations = fmpStable()
	}
	return spec
}

func isStable(baseURL string) bool {
	return strings.HasSuffix(strings.TrimRight(baseURL, "/"), "/stable")
}

// The same texts come with 200, 402, 403 and 429, as JSON and bare, so the
// rules look at the text and at no status.
func fmpRules() []Rule {
	said := []string{"/Error Message", "/error", ""}
	return []Rule{
		// The bandwidth of the last 30 days is used up: seconds will not help.
		{At: said, Prefix: []string{"Bandwidth Limit Reach"}, Class: fetchworker.ClassThrottled, MinHold: time.Hour},
		{At: said, Prefix: []string{"Limit Reach"}, Class: fetchworker.ClassThrottled},
		{At: said, Prefix: []string{"Invalid API KEY"}, Class: fetchworker.ClassUnauthorized},
		{At: said, Prefix: []string{"Legacy Endpoint"}, Class: fetchworker.ClassPermanent, Code: fetchworker.CodeNotEntitled, Hint: fmpLegacy},
		{
			At: said, Prefix: []string{"Exclusive Endpoint", "Special Endpoint", "Special Parameters", "Premium Query Parameter", "Restricted Endpoint"},
			Class: fetchworker.ClassPermanent, Code: fetchworker.CodeNotEntitled,
		},
		{Status: []int{2}, At: []string{"/Error Message", "/error"}, Class: fetchworker.ClassPermanent, Code: fetchworker.CodeRejected},
		// An unknown symbol and rows that are only minutes away look alike.
		{Status: []int{2}, At: []string{""}, Equals: []string{"[]", "[ ]"}, Class: fetchworker.ClassOK, NoCache: true},
	}
}

// fmpV3 are the operations of version 3.
func fmpV3() map[string]*Operation {
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
func fmpStable() map[string]*Operation {
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
		Operation{Name: "treasury_rates", Path: "/treasury-rates", Params: []Param{from, to}, Fresh: 6 * time.Hour, Stale: 30 * day},
		Operation{Name: "shares_float", Path: "/shares-float", Params: []Param{symbol}, Rights: fundamentals, Fresh: 12 * time.Hour, Stale: 30 * day},
		Operation{
			Name: "profile_bulk", Path: "/profile-bulk", Format: FormatCSV, Rights: fundamentals, Fresh: 24 * time.Hour, Stale: 30 * day,
			Params: []Param{{Name: "part", Type: TypeInt, Default: "0", Max: 99}},
		},
	))
	return operations
}

func fmpOperations(paths map[string]string, newsSymbols string) map[string]*Operation {
	period := Param{Name: "period", Type: TypeEnum, Enum: []string{"annual", "quarter", "FY", "Q1", "Q2", "Q3", "Q4"}}
	limit := Param{Name: "limit", Type: TypeInt, Min: 1, Max: 1000}
	symbols := Param{Name: "symbols", Type: TypeCSV, Required: true, Pattern: symbol.Pattern, Max: 1000}
	statement := []Param{symbol, period, limit}

	operations := named(
		Operation{Name: "quote", Params: []Param{symbol}, Fresh: 15 * time.Second, Stale: day},
		// 1000 symbols work in one call; 1500 are refused.
		Operation{Name: "batch_quote", Params: []Param{symbols}, Fresh: 15 * time.Second, Stale: day},
		Operation{Name: "profile", Params: []Param{symbol}, Rights: fundamentals, Fresh: 12 * time.Hour, Stale: 30 * day},
		Operation{Name: "income_statement", Params: statement, Rights: fundamentals, Fresh: 6 * time.Hour, Stale: 30 * day},
		Operation{Name: "balance_sheet", Params: statement, Rights: fundamentals, Fresh: 6 * time.Hour, Stale: 30 * day},
		Operation{Name: "cash_flow", Params: statement, Rights: fundamentals, Fresh: 6 * time.Hour, Stale: 30 * day},
		Operation{Name: "key_metrics", Params: statement, Rights: fundamentals, Fresh: 6 * time.Hour, Stale: 30 * day},
		Operation{Name: "ratios", Params: statement, Rights: fundamentals, Fresh: 6 * time.Hour, Stale: 30 * day},
		Operation{Name: "history", Params: []Param{symbol, from, to}, Fresh: time.Hour, Stale: 7 * day},
		// One answer is cut at 1000 to 2000 rows without a word: ask for few days.
		Operation{
			Name: "intraday", Fresh: time.Minute, Stale: day,
			Params: []Param{symbol, {
				Name: "interval", Type: TypeEnum, Default: "5min",
				Enum: []string{"1min", "5min", "15min", "30min", "1hour", "4hour"},
			}, from, to},
		},
		Operation{
			Name: "search", Fresh: 24 * time.Hour, Stale: 30 * day,
			Params: []Param{
				{Name: "query", Type: TypeString, Required: true, Max: 100},
				limit,
				{Name: "exchange", Type: TypeString, Pattern: `[A-Za-z]{2,12}`},
			},
		},
		Operation{
			Name: "screener", Rights: fundamentals, Fresh: time.Hour, Stale: 7 * day,
			Params: []Param{
				{Name: "market_cap_more_than", Wire: "marketCapMoreThan", Type: TypeNumber},
				{Name: "market_cap_lower_than", Wire: "marketCapLowerThan", Type: TypeNumber},
				{Name: "price_more_than", Wire: "priceMoreThan", Type: TypeNumber},
				{Name: "price_lower_than", Wire: "priceLowerThan", Type: TypeNumber},
				{Name: "volume_more_than", Wire: "volumeMoreThan", Type: TypeNumber},
				{Name: "sector", Type: TypeString, Max: 60},
				{Name: "industry", Type: TypeString, Max: 100},
				{Name: "country", Type: TypeString, Pattern: `[A-Z]{2}`},
				{Name: "exchange", Type: TypeString, Pattern: `[A-Za-z]{2,12}`},
				{Name: "is_etf", Wire: "isEtf", Type: TypeBool},
				{Name: "is_actively_trading", Wire: "isActivelyTrading", Type: TypeBool},
				{Name: "limit", Type: TypeInt, Min: 1, Max: 10000},
			},
		},
		Operation{
			Name: "news", Fresh: 2 * time.Minute, Stale: day,
			Params: []Param{
				{Name: "symbols", Wire: newsSymbols, Type: TypeCSV, Required: true, Pattern: symbol.Pattern},
				from, to,
				{Name: "page", Type: TypeInt, Max: 100},
				limit,
			},
			// No total and no cursor: a short page is the last.
			Paging: &Paging{Kind: PageNumber, Param: "page", First: 0, Size: "limit", Each: 20},
		},
		Operation{Name: "earnings_calendar", Params: []Param{from, to}, Fresh: time.Hour, Stale: 7 * day},
	)
	for name, op := range operations {
		op.Path = paths[name]
	}
	return operations
}
