package providers_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers"
	"fetchworker/internal/providers/call"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

var all = []string{"fmp", "fmp-stable", "polygon", "fred", "newsapi"}

func provider(t *testing.T, generation string) *providers.Provider {
	t.Helper()
	name := strings.TrimSuffix(generation, "-stable")
	p, _ := load(t, map[string]string{prefixes[name] + "_BASE_URL": "http://upstream.test" + basePaths[generation]}).Provider(name)
	return p
}

type outcome struct {
	class wire.Class
	code  fetchworker.Code
}

var (
	ok           = outcome{class: wire.ClassOK}
	transient    = outcome{class: wire.ClassTransient}
	throttled    = outcome{class: wire.ClassThrottled}
	unauthorized = outcome{class: wire.ClassUnauthorized}
	notFound     = outcome{wire.ClassPermanent, fetchworker.CodeNotFound}
	notEntitled  = outcome{wire.ClassPermanent, fetchworker.CodeNotEntitled}
	rejected     = outcome{wire.ClassPermanent, fetchworker.CodeRejected}
	tooLarge     = outcome{wire.ClassPermanent, fetchworker.CodeResponseTooLarge}
)

// The table of every status, for every provider, with bodies that say
// nothing: the exceptions are all that differ between APIs.
func TestEveryStatus(t *testing.T) {
	common := func(status int) outcome {
		switch status {
		case 202, 204, 206, 408, 412, 421, 423, 425:
			return transient
		case 529:
			return throttled
		case 401:
			return unauthorized
		case 402, 403:
			return notEntitled
		case 404:
			return notFound
		case 429:
			return throttled
		}
		switch status / 100 {
		case 2:
			return ok
		case 4:
			return rejected
		}
		return transient
	}
	exceptions := map[string]map[int]outcome{"newsapi": {426: notEntitled}}
	own := map[string]string{
		"fmp": `{"Error Message":"x"}`, "polygon": `{"status":"ERROR","request_id":"x"}`,
		"fred": `{"error_code":1,"error_message":"x"}`, "newsapi": `{"status":"error","code":"x","message":"x"}`,
	}
	const page = "<html><body>Bad Gateway</body></html>"
	for _, generation := range all {
		p := provider(t, generation)
		for status := 100; status <= 599; status++ {
			want := common(status)
			if exception, is := exceptions[p.Name][status]; is {
				want = exception
			}
			if status/100 == 2 {
				for _, body := range []string{`{"x":1}`, `[{"x":1}]`} {
					checkVerdict(t, p, sheet.FormatJSON, status, "application/json", body, nil, want)
				}
				for _, body := range []string{"", page, `{"x":`, "oops"} { // without a readable body there is no success
					checkVerdict(t, p, sheet.FormatJSON, status, "", body, nil, transient)
				}
				checkVerdict(t, p, sheet.FormatJSON, status, "application/json", `{"x":1}`, io.ErrUnexpectedEOF, transient)
				continue
			}
			if status == 407 {
				want = transient // it is between us and a proxy
			}
			// In its own words an error is what its status says, whatever
			// became of the body.
			checkVerdict(t, p, sheet.FormatJSON, status, "application/json", own[p.Name], nil, want)
			checkVerdict(t, p, sheet.FormatJSON, status, "application/json", own[p.Name], io.ErrUnexpectedEOF, want)
			// In other words it is an outage, unless it is one of those that
			// everybody means in the same way.
			if status/100 == 4 && want != throttled && want != unauthorized {
				want = transient
			}
			for _, body := range []string{`{"x":1}`, `[{"x":1}]`, "", `{"x":`, "oops"} {
				checkVerdict(t, p, sheet.FormatJSON, status, "", body, nil, want)
			}
			if want == unauthorized {
				want = transient
			}
			r := checkVerdict(t, p, sheet.FormatJSON, status, "", page, nil, want)
			if isForeign := r.ErrorType == "foreign"; isForeign != (want == transient && status/100 != 3) || isForeign != strings.HasPrefix(r.Detail, "not in the provider's own words") {
				t.Errorf("%v %d with a page: %s, %s", p, status, r.ErrorType, r.Detail)
			}
		}
	}
}

func checkVerdict(t *testing.T, p *providers.Provider, format sheet.Format, status int, contentType, body string, readErr error, want outcome) *providers.Result {
	t.Helper()
	r := verdict(p, format, status, contentType, []byte(body), readErr)
	if got := (outcome{r.Class, r.Code}); got != want {
		t.Errorf("%v %d %q %.80q: %v, want %v (%s)", p, status, contentType, body, got, want, r.Detail)
	}
	if (r.Class == wire.ClassOK) != (r.Detail == "") {
		t.Errorf("%s %d %.80q: class %s with detail %q", p, status, body, r.Class, r.Detail)
	}
	return r
}

// Every recorded error is what its name says, with the words of the API.
func TestRecordedErrors(t *testing.T) {
	wants := map[string]struct {
		outcome
		detail string
		hold   time.Duration
	}{
		"fmp/error_bad_key":                {outcome: unauthorized, detail: "Invalid API KEY"},
		"fmp/error_bad_key_200":            {outcome: unauthorized, detail: "Invalid API KEY"},
		"fmp/error_restricted_endpoint":    {outcome: notEntitled, detail: "Restricted Endpoint"},
		"fmp/error_special_symbol":         {outcome: notEntitled, detail: "'symbol' is not available"},
		"fmp/error_special_parameters":     {outcome: notEntitled, detail: "must be between 0 and 5"},
		"fmp/error_premium_200":            {outcome: notEntitled, detail: "Premium Query Parameter"},
		"fmp/error_legacy_endpoint":        {outcome: notEntitled, detail: "accounts opened after 2025-08-31 need the current API: set FMP_BASE_URL=https://financialmodelingprep.com/stable"},
		"fmp/error_exclusive_endpoint":     {outcome: notEntitled, detail: "Exclusive Endpoint"},
		"fmp/error_rate_limited":           {outcome: throttled, detail: "Limit Reach ."},
		"fmp/error_rate_limited_200":       {outcome: throttled, detail: "Limit Reach ."},
		"fmp/error_bandwidth":              {outcome: throttled, detail: "Bandwidth Limit Reach ", hold: time.Hour},
		"fmp/error_unknown_path":           {outcome: transient, detail: "not in the provider's own words: status 404"},
		"fmp/error_truncated":              {outcome: transient, detail: "not a JSON object or array"},
		"polygon/error_bad_key":            {outcome: unauthorized, detail: "Unknown API Key"},
		"polygon/error_no_key":             {outcome: unauthorized, detail: "API Key was not provided"},
		"polygon/error_not_entitled":       {outcome: notEntitled, detail: "not entitled to this data"},
		"polygon/error_timeframe":          {outcome: notEntitled, detail: "data timeframe"},
		"polygon/error_before_end_of_day":  {outcome: notEntitled, detail: "before end of day"},
		"polygon/error_unknown_ticker":     {outcome: notFound, detail: "Data not found."},
		"polygon/error_bad_ticker":         {outcome: rejected, detail: "Ticker was incorrectly formatted"},
		"polygon/error_bad_cursor":         {outcome: rejected, detail: "Failed to parse query"},
		"polygon/error_rate_limited":       {outcome: throttled, detail: "exceeded the maximum requests"},
		"polygon/error_gateway":            {outcome: transient, detail: "not in the provider's own words: status 504: an HTML page"},
		"polygon/error_nan":                {outcome: transient, detail: "not a JSON object or array"},
		"fred/error_bad_key":               {outcome: unauthorized, detail: "api_key is not registered"},
		"fred/error_no_key":                {outcome: unauthorized, detail: "api_key is not set"},
		"fred/error_no_key_xml":            {outcome: unauthorized, detail: "Bad Request.  Variable api_key has not been set."},
		"fred/error_malformed_key":         {outcome: unauthorized, detail: "32 character"},
		"fred/error_unknown_series":        {outcome: notFound, detail: "The series does not exist."},
		"fred/error_unknown_series_xml":    {outcome: notFound, detail: "The series does not exist."},
		"fred/error_too_many_vintages":     {outcome: rejected, detail: "vintage dates"},
		"fred/error_v2":                    {outcome: rejected, detail: "not a positive integer"},
		"fred/error_rate_limited":          {outcome: throttled, detail: "Exceeded Rate Limit"},
		"fred/error_internal":              {outcome: transient, detail: "Internal Server Error"},
		"newsapi/error_bad_key":            {outcome: unauthorized, detail: "invalid or incorrect"},
		"newsapi/error_no_key":             {outcome: unauthorized, detail: "API key is missing"},
		"newsapi/error_disabled_key":       {outcome: unauthorized, detail: "disabled"},
		"newsapi/error_exhausted_key":      {outcome: throttled, detail: "no more requests", hold: time.Hour},
		"newsapi/error_rate_limited":       {outcome: throttled, detail: "too many requests"},
		"newsapi/error_maximum_results":    {outcome: notEntitled, detail: "max of 100 results"},
		"newsapi/error_too_old":            {outcome: notEntitled, detail: "2026-01-13"},
		"newsapi/error_parameters_missing": {outcome: rejected, detail: "Required parameters are missing"},
		"newsapi/error_unknown_source":     {outcome: notFound, detail: "does not exist"},
		"newsapi/error_status_200":         {outcome: rejected, detail: "nobody has documented"},
		"newsapi/error_unexpected":         {outcome: transient, detail: "our fault"},
	}
	for _, name := range []string{"fmp", "polygon", "fred", "newsapi"} {
		p := provider(t, name)
		exchanges, err := providertest.Exchanges(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range exchanges {
			if !strings.HasPrefix(e.Name, "error_") {
				checkVerdict(t, p, sheet.FormatAny, e.Status, e.Header.Get("Content-Type"), string(e.Body), nil, ok)
				continue
			}
			want, known := wants[name+"/"+e.Name]
			if !known {
				t.Errorf("%s/%s is not in the table", name, e.Name)
				continue
			}
			r := checkVerdict(t, p, sheet.FormatJSON, e.Status, e.Header.Get("Content-Type"), string(e.Body), nil, want.outcome)
			if !strings.Contains(r.Detail, want.detail) || r.MinHold != want.hold {
				t.Errorf("%s/%s: detail %q with a hold of %v, want %q with %v", name, e.Name, r.Detail, r.MinHold, want.detail, want.hold)
			}
			delete(wants, name+"/"+e.Name)
		}
	}
	for name := range wants {
		t.Errorf("%s was not recorded", name)
	}
}

// Answers that are not what their status says.
func TestExceptions(t *testing.T) {
	for _, test := range []struct {
		provider string
		status   int
		body     string
		want     outcome
	}{
		{"fmp", 503, `{"Error Message":"Limit Reach . Please upgrade"}`, throttled},
		{"fmp", 429, `{"error":"bandwidth limit reach . Please upgrade"}`, throttled},
		{"fmp", 200, `"Limit Reach . Please upgrade"`, throttled},
		{"fmp", 200, `{"Error Message":"something new"}`, rejected},
		{"fmp", 200, `{"error":"something new"}`, rejected},
		{"fmp", 200, `{"symbol":"AAPL","historical":[]}`, ok},
		{"fmp", 403, `Exclusive Endpoint: not available`, notEntitled},
		{"polygon", 200, `{"status":"DELAYED","results":[{"c":1}]}`, ok},
		{"polygon", 200, `{"results":[{"ticker":"X","error":"NOT_FOUND","message":"Ticker not found."}]}`, ok},
		{"polygon", 200, `{"status":"ERROR","error":"Unknown API Key"}`, unauthorized},
		{"polygon", 200, `{"status":"ERROR","error":"You've exceeded the maximum requests per minute"}`, throttled},
		{"polygon", 200, `{"status":"NOT_AUTHORIZED","message":"no"}`, notEntitled},
		{"polygon", 200, `{"status":"NOT_FOUND","message":"no"}`, notFound},
		{"polygon", 200, `{"status":"ERROR","error":"no"}`, rejected},
		{"polygon", 200, `{"a":[1,{"status":"ERROR"}],"b":"\"status\":\"ERROR\"","status":"OK"}`, ok},
		{"fred", 404, `{"error_code":404,"error_message":"Not Found.  The series does not exist."}`, notFound},
		{"fred", 423, `{"error_code":423,"error_message":"Locked"}`, transient},
		{"fred", 200, `{"error_code":429,"error_message":"Too Many Requests."}`, throttled},
		{"fred", 200, `{"seriess":[{"notes":"variable api_key does not exist"}]}`, ok},
		{"newsapi", 422, `{"status":"error","code":"parametersIncompatible","message":"no"}`, rejected},
		{"newsapi", 200, `{"status":"error","code":"rateLimited","message":"no"}`, throttled},
		{"newsapi", 200, `{"status":"error","code":"apiKeyInvalid","message":"no"}`, unauthorized},
		{"newsapi", 200, `{"status":"error"}`, rejected},
		{"newsapi", 400, `{"status":"error","code":"apiKeyExhausted","message":"no"}`, throttled},
		{"newsapi", 200, `{"status":"ok","articles":[]}`, ok},
	} {
		checkVerdict(t, provider(t, test.provider), sheet.FormatJSON, test.status, "", test.body, nil, test.want)
	}
}

// What may be kept in a cache.
func TestCacheable(t *testing.T) {
	for _, test := range []struct {
		provider, body string
		want           bool
	}{
		{"fmp", `[]`, false},
		{"fmp", " [ ]\n", false},
		{"fmp", `[{"a":1}]`, true},
		{"polygon", `{"status":"OK","results":null}`, false},
		{"polygon", `{"status":"OK","results":[]}`, false},
		{"polygon", `{"status":"OK","resultsCount":0}`, false},
		{"polygon", `{"status":"OK","results":[1],"resultsCount":1}`, true},
		{"fred", `{"categories":[]}`, true},
		{"newsapi", `{"status":"ok","articles":[]}`, true},
	} {
		if r := checkVerdict(t, provider(t, test.provider), sheet.FormatJSON, http.StatusOK, "", test.body, nil, ok); r.Cacheable != test.want {
			t.Errorf("%s %s: cacheable %v", test.provider, test.body, r.Cacheable)
		}
	}
}

// What counts as a body, by what the operation expects and what the answer
// says it is.
func TestReadable(t *testing.T) {
	const table = "a,b\n1,2\n"
	p := provider(t, "polygon")
	for _, test := range []struct {
		format      sheet.Format
		contentType string
		body        string
		want        outcome
	}{
		{sheet.FormatJSON, "text/xml;charset=utf-8", ` {"a":1}`, ok}, // the body is believed, not its label
		{sheet.FormatJSON, "text/html", `{"a":1}`, ok},
		{sheet.FormatJSON, "application/json", `{"a":NaN}`, transient},
		{sheet.FormatJSON, "application/json", `{"a":1}{"b":2}`, transient},
		{sheet.FormatJSON, "application/json", `"text"`, transient},
		{sheet.FormatJSON, "application/json", `null`, transient},
		{sheet.FormatJSON, "text/csv", table, transient},
		{sheet.FormatJSON, "", " \n\t", transient},
		{sheet.FormatCSV, "text/csv", table, ok},
		{sheet.FormatCSV, "", table, ok},
		{sheet.FormatCSV, "text/csv", `"a","b"`, ok},
		{sheet.FormatCSV, "text/csv", "Service is down", transient},
		{sheet.FormatCSV, "text/csv", `{"a":1}`, transient},
		{sheet.FormatCSV, "text/csv", "<!DOCTYPE html><p>", transient},
		{sheet.FormatAny, "application/json", `[1]`, ok},
		{sheet.FormatAny, "", `[1]`, ok},
		{sheet.FormatAny, "", `[1`, transient},
		{sheet.FormatAny, "text/csv", table, ok},
		{sheet.FormatAny, "text/plain; charset=utf-8", table, ok},
		{sheet.FormatAny, "text/plain", "Service is down", transient},
		{sheet.FormatAny, "application/json", table, transient},
		{sheet.FormatAny, "text/csv", `{"a":`, transient},
		{sheet.FormatAny, "application/xml", "<series/>", ok},
		{sheet.FormatAny, "text/xml", "<HTML><body>", transient},
		{sheet.FormatAny, "text/html", "<p>hello", transient},
	} {
		checkVerdict(t, p, test.format, http.StatusOK, test.contentType, test.body, nil, test.want)
	}
	checkVerdict(t, p, sheet.FormatJSON, http.StatusOK, "", "", call.ErrTooLarge, tooLarge)
	checkVerdict(t, p, sheet.FormatJSON, http.StatusInternalServerError, "", "", call.ErrTooLarge, transient)
}
