package providers

import (
	"time"

	"fetchworker"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

// NewsAPI has three endpoints. Texts belong to their publishers and are cut
// at 200 characters on every plan.
func newsapi(string) sheet.Spec {
	return sheet.Spec{
		Name:      "newsapi",
		BaseURL:   "https://newsapi.org/v2",
		EnvPrefix: "NEWS",
		Auth:      []sheet.Auth{{Kind: sheet.AuthHeader, Name: "X-Api-Key"}},
		KeyParams: []string{"apiKey"},

		Limits: ledger.Limits{{N: 60, Per: time.Minute}},
		Tier:   "developer",
		Tiers: map[string]sheet.Tier{
			// "Developer accounts are limited to 100 requests over a 24 hour
			// period (50 requests available every 12 hours)", for development
			// only. (Text of its 429, and the price list.)
			"developer": {
				Limits:  ledger.Limits{{N: 100, Per: 24 * time.Hour}, {N: 50, Per: 12 * time.Hour}},
				Forbids: []string{"export"},
			},
			"business": {},
		},
		Timeout: 3 * time.Second,
		Fresh:   10 * time.Minute,
		Stale:   2 * day,

		ErrorText: []string{"/message", "/code"},
		Own:       []sheet.Rule{{At: []string{"/status"}, Equals: []string{"error"}}},
		// The codes are an open set: those that are known have a meaning of
		// their own, and any "status":"error" is an error.
		ErrorRules: []sheet.Rule{
			{At: []string{"/code"}, Equals: []string{"apiKeyExhausted"}, Class: wire.ClassThrottled, MinHold: time.Hour},
			{At: []string{"/code"}, Equals: []string{"rateLimited"}, Class: wire.ClassThrottled},
			{At: []string{"/code"}, Equals: []string{"apiKeyInvalid", "apiKeyMissing", "apiKeyDisabled"}, Class: wire.ClassUnauthorized},
			{At: []string{"/code"}, Equals: []string{"maximumResultsReached", "corsNotAllowed"}, Class: wire.ClassPermanent, Code: fetchworker.CodeNotEntitled},
			{At: []string{"/code"}, Equals: []string{"sourceDoesNotExist"}, Class: wire.ClassPermanent, Code: fetchworker.CodeNotFound},
			{At: []string{"/code"}, Equals: []string{"unexpectedError"}, Class: wire.ClassTransient},
			{Status: []int{426}, Class: wire.ClassPermanent, Code: fetchworker.CodeNotEntitled},
			{Status: []int{2}, At: []string{"/status"}, Equals: []string{"error"}, Class: wire.ClassPermanent, Code: fetchworker.CodeRejected},
		},
		Operations: newsapiOperations(),
	}
}

func newsapiOperations() map[string]*sheet.Operation {
	// "" would be refused; the longest query the API takes is 500 characters.
	q := sheet.Param{Name: "q", Type: sheet.TypeString, Max: 500}
	required := q
	required.Required = true
	moment := func(name string) sheet.Param { return sheet.Param{Name: name, Type: sheet.TypeTime} }
	list := func(name, wire string, most int64) sheet.Param {
		return sheet.Param{Name: name, Wire: wire, Type: sheet.TypeCSV, Pattern: `[A-Za-z0-9.\-]{1,80}`, Max: most}
	}
	language := sheet.Param{Name: "language", Type: sheet.TypeEnum, Enum: []string{"ar", "de", "en", "es", "fr", "he", "it", "nl", "no", "pt", "ru", "sv", "ud", "zh"}}
	country := sheet.Param{Name: "country", Type: sheet.TypeString, Pattern: `[a-z]{2}`, Expected: "a country's two letters, such as us"}
	category := sheet.Param{Name: "category", Type: sheet.TypeEnum, Enum: []string{"business", "entertainment", "general", "health", "science", "sports", "technology"}}
	sortBy := sheet.Param{Name: "sort_by", Wire: "sortBy", Type: sheet.TypeEnum, Default: "publishedAt", Enum: []string{"relevancy", "popularity", "publishedAt"}}
	pageSize := sheet.Param{Name: "page_size", Wire: "pageSize", Type: sheet.TypeInt, Min: 1, Max: 100}
	page := sheet.Param{Name: "page", Type: sheet.TypeInt, Min: 1, Max: 10000}
	paging := func(each int64) *sheet.Paging {
		return &sheet.Paging{Kind: sheet.PageNumber, Param: "page", First: 1, Size: "page_size", Each: each, Total: "/totalResults"}
	}

	return named(
		sheet.Operation{
			Name: "headlines", Path: "/everything", Query: map[string]string{"sortBy": "publishedAt"},
			Params: []sheet.Param{required, moment("from"), moment("to"), language, pageSize, page}, Paging: paging(100),
		},
		sheet.Operation{
			Name: "everything", Path: "/everything",
			Params: []sheet.Param{
				q,
				{Name: "q_in_title", Wire: "qInTitle", Type: sheet.TypeString, Max: 500},
				{Name: "search_in", Wire: "searchIn", Type: sheet.TypeCSV, Enum: []string{"title", "description", "content"}},
				list("sources", "", 20), list("domains", "", 0), list("exclude_domains", "excludeDomains", 0),
				moment("from"), moment("to"), language, sortBy, pageSize, page,
			},
			AnyOf: []string{"q", "q_in_title", "sources", "domains"}, Paging: paging(100),
		},
		sheet.Operation{
			Name: "top_headlines", Path: "/top-headlines",
			Params:    []sheet.Param{q, country, category, list("sources", "", 20), pageSize, page},
			AnyOf:     []string{"q", "country", "category", "sources"},
			Exclusive: [][]string{{"sources", "country"}, {"sources", "category"}},
			Paging:    paging(20),
		},
		sheet.Operation{Name: "sources", Path: "/top-headlines/sources", Params: []sheet.Param{category, language, country}, Fresh: day, Stale: 30 * day},
	)
}
