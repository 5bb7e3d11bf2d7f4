package providers

import (
	"time"

	"fetchworker"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

// FRED, economic data of the Federal Reserve Bank of St. Louis. Its answers
// carry Last-Modified, so a long life in the cache costs a 304 each and no
// bytes.
func fred(string) sheet.Spec {
	return sheet.Spec{
		Name:      "fred",
		BaseURL:   "https://api.stlouisfed.org/fred",
		EnvPrefix: "FRED",
		Auth:      []sheet.Auth{{Kind: sheet.AuthQuery, Name: "api_key"}},
		KeyParams: []string{"api_key"},
		Query:     map[string]string{"file_type": "json"}, // XML is the default

		// 120 a minute was published; since June 2026 two a second are
		// enforced, and minutes full of that have been refused too.
		Limits:  ledger.Limits{{N: 60, Per: time.Minute}, {N: 2, Per: time.Second}},
		Timeout: 10 * time.Second,
		Fresh:   6 * time.Hour,
		Stale:   30 * day,

		GetPaths: []sheet.GetPath{
			{Prefix: "/v2/", Auth: []sheet.Auth{{Kind: sheet.AuthBearer}}},
			{Prefix: "/geofred/", FromRoot: true, Auth: []sheet.Auth{{Kind: sheet.AuthQuery, Name: "api_key"}}}, // maps
		},
		ErrorText: []string{"/error_message", "/message"},
		Own: []sheet.Rule{
			{At: []string{"/error_code"}},
			{At: []string{"/code"}}, // version 2
			{At: []string{""}, Contains: []string{"<error code="}},
		},
		// Everything wrong is a 400, as JSON or XML whatever was asked for
		// and whatever the Content-Type says.
		ErrorRules: []sheet.Rule{
			{Status: []int{400}, At: []string{""}, Contains: []string{"variable api_key"}, Class: wire.ClassUnauthorized},
			{Status: []int{400}, At: []string{""}, Contains: []string{"does not exist"}, Class: wire.ClassPermanent, Code: fetchworker.CodeNotFound},
			{Status: []int{2}, At: []string{"/error_code"}, Equals: []string{"429"}, Class: wire.ClassThrottled},
			{Status: []int{2}, At: []string{"/error_code"}, Class: wire.ClassPermanent, Code: fetchworker.CodeRejected},
		},
		Notice:     "This product uses the FRED® API but is not endorsed or certified by the Federal Reserve Bank of St. Louis.",
		Operations: fredOperations(),
	}
}

func fredOperations() map[string]*sheet.Operation {
	seriesID := sheet.Param{
		Name: "series_id", Type: sheet.TypeString, Required: true, Pattern: `[A-Za-z0-9_.\-]{1,50}`,
		Expected: "the id of a series, such as GDP or DGS10",
	}
	id := func(name string) sheet.Param {
		return sheet.Param{Name: name, Type: sheet.TypeInt, Required: true, Max: 1 << 31}
	}
	date := func(name string) sheet.Param { return sheet.Param{Name: name, Type: sheet.TypeDate} }
	limit := func(most int64) sheet.Param {
		return sheet.Param{Name: "limit", Type: sheet.TypeInt, Min: 1, Max: most}
	}
	enum := func(name string, values ...string) sheet.Param {
		return sheet.Param{Name: name, Type: sheet.TypeEnum, Enum: values}
	}
	word := func(name string) sheet.Param {
		return sheet.Param{Name: name, Type: sheet.TypeString, Pattern: `[a-z_]{1,40}`}
	}
	tags := func(name string) sheet.Param { return sheet.Param{Name: name, Type: sheet.TypeString, Max: 300} }
	since, until := date("realtime_start"), date("realtime_end")
	offset := sheet.Param{Name: "offset", Type: sheet.TypeInt, Max: 100_000_000}
	order := enum("sort_order", "asc", "desc")
	// Without a limit every list gives as many as it can.
	paging := func(each int64) *sheet.Paging {
		return &sheet.Paging{Kind: sheet.PageOffset, Param: "offset", Size: "limit", Each: each, Total: "/count"}
	}

	return named(
		sheet.Operation{
			Name: "series", Path: "/series/observations",
			Params: []sheet.Param{
				seriesID, date("observation_start"), date("observation_end"), since, until,
				limit(100000), offset, order,
				enum("units", "lin", "chg", "ch1", "pch", "pc1", "pca", "cch", "cca", "log"),
				enum("frequency", "d", "w", "bw", "m", "q", "sa", "a", "wef", "weth", "wew", "wetu", "wem", "wesu", "wesa", "bwew", "bwem"),
				enum("aggregation_method", "avg", "sum", "eop"),
				{Name: "output_type", Type: sheet.TypeInt, Min: 1, Max: 4},
				// More than about 2000 in one call are refused.
				{Name: "vintage_dates", Type: sheet.TypeCSV, Pattern: `\d{4}-\d{2}-\d{2}`, Max: 2000},
			},
			Paging: paging(100000),
		},
		sheet.Operation{Name: "series_info", Path: "/series", Params: []sheet.Param{seriesID, since, until}},
		sheet.Operation{
			Name: "search", Path: "/series/search",
			Params: []sheet.Param{
				{Name: "search_text", Type: sheet.TypeString, Required: true, Max: 300},
				enum("search_type", "full_text", "series_id"),
				limit(1000), offset, word("order_by"), order, word("filter_variable"), tags("filter_value"),
				tags("tag_names"), tags("exclude_tag_names"),
			},
			Paging: paging(1000),
		},
		sheet.Operation{
			Name: "updates", Path: "/series/updates", Fresh: 10 * time.Minute,
			Params: []sheet.Param{
				enum("filter_value", "macro", "regional", "all"), limit(1000), offset,
				{Name: "start_time", Type: sheet.TypeString, Pattern: `\d{12}`, Expected: "a time YYYYMMDDhhmm"},
				{Name: "end_time", Type: sheet.TypeString, Pattern: `\d{12}`, Expected: "a time YYYYMMDDhhmm"},
			},
			Paging: paging(1000),
		},
		sheet.Operation{Name: "vintages", Path: "/series/vintagedates", Params: []sheet.Param{seriesID, since, until, limit(10000), offset, order}, Paging: paging(10000)},
		// The tags of group cc are the copyright of a series.
		sheet.Operation{Name: "series_tags", Path: "/series/tags", Params: []sheet.Param{seriesID, since, until, word("order_by"), order}, Fresh: day},
		sheet.Operation{Name: "releases", Path: "/releases", Params: []sheet.Param{since, until, limit(1000), offset, word("order_by"), order}, Paging: paging(1000), Fresh: day},
		sheet.Operation{
			Name: "releases_dates", Path: "/releases/dates",
			Params: []sheet.Param{
				since, until, limit(1000), offset, word("order_by"), order,
				{Name: "include_release_dates_with_no_data", Type: sheet.TypeBool},
			},
			Paging: paging(1000),
		},
		sheet.Operation{
			Name: "release_dates", Path: "/release/dates",
			Params: []sheet.Param{
				id("release_id"), since, until, limit(10000), offset, order,
				{Name: "include_release_dates_with_no_data", Type: sheet.TypeBool},
			},
			Paging: paging(10000),
		},
		sheet.Operation{
			Name: "release_series", Path: "/release/series",
			Params: []sheet.Param{id("release_id"), limit(1000), offset, word("order_by"), order, tags("tag_names")}, Paging: paging(1000), Fresh: day,
		},
		sheet.Operation{Name: "category", Path: "/category", Params: []sheet.Param{id("category_id")}, Fresh: day},
		sheet.Operation{Name: "category_children", Path: "/category/children", Params: []sheet.Param{id("category_id"), since, until}, Fresh: day},
		sheet.Operation{
			Name: "category_series", Path: "/category/series",
			Params: []sheet.Param{id("category_id"), limit(1000), offset, word("order_by"), order, tags("tag_names")}, Paging: paging(1000), Fresh: day,
		},
		// Version 2 has this one product, and takes the key as Bearer only.
		sheet.Operation{Name: "release_observations", Path: "/v2/release/observations", Params: []sheet.Param{id("release_id")}, Auth: []sheet.Auth{{Kind: sheet.AuthBearer}}},
	)
}
