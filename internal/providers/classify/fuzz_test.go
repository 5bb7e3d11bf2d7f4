package classify_test

import (
	"encoding/json"
	"net/http"
	"reflect"
	"testing"
	"time"

	"fetchworker/internal/providers/classify"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

// FuzzAnswer: whatever a provider sends, it is of a class that a call can have,
// says why, and is an answer only if its body is what was asked for; what is
// permanent has a code, and the same bytes mean the same each time.
func FuzzAnswer(f *testing.F) {
	formats := []sheet.Format{sheet.FormatJSON, sheet.FormatValue, sheet.FormatNDJSON, sheet.FormatCSV, sheet.FormatText, sheet.FormatImage, sheet.FormatBinary, sheet.FormatAny}
	for i, seed := range []struct {
		status     int
		kind, body string
	}{
		{200, "application/json", `[{"symbol":"AAPL"}]`},
		{200, "application/json", `{"Error Message":"Limit Reach"}`},
		{200, "text/html", "<html><body>Attention</body></html>"},
		{204, "", ""},
		{202, "application/json", `{"state":"running"}`},
		{429, "text/plain", "slow down"},
		{403, "text/html", "\ufeff<?xml version=\"1.0\"?><!-- x --><!DOCTYPE html>"},
		{404, "application/json", `{"error":{"message":"none"}}`},
		{503, "application/xml", `<error message="down"/>`},
		{200, "text/csv", "a,b\n1,2\n"},
		{200, "application/x-ndjson", "{}\n{}\n"},
		{200, "image/png", "\x89PNG\r\n\x1a\n"},
		{407, "", "proxy"},
		{302, "", ""},
		{529, "", ""},
		{200, "application/json", `{"a":1}{"b":2}`},
		{200, "", "\"\\ud800\""},
	} {
		f.Add(seed.status, seed.kind, "3", []byte(seed.body), uint8(i))
	}
	spec := &sheet.Spec{
		Name: "shop", ErrorText: []string{"/Error Message", "/error/message"},
		ErrorRules: []sheet.Rule{
			{Status: []int{2}, At: []string{"/Error Message"}, Contains: []string{"limit"}, Class: wire.ClassThrottled, MinHold: time.Minute},
			{Status: []int{202}, Class: wire.ClassPending},
			{Status: []int{204}, Class: wire.ClassOK},
			{Status: []int{4}, At: []string{""}, Prefix: []string{"no key"}, Class: wire.ClassUnauthorized},
		},
		Own: []sheet.Rule{{At: []string{"/error", "/Error Message"}}},
	}
	f.Fuzz(func(t *testing.T, status int, kind, after string, body []byte, n uint8) {
		if status < 200 || status > 599 {
			return
		}
		in := classify.Input{Format: formats[int(n)%len(formats)], Columns: []string{"a"}, Status: status, Header: http.Header{"Content-Type": {kind}, "Retry-After": {after}}, Body: body}
		v := classify.Answer(spec, in)
		if again := classify.Answer(spec, in); !reflect.DeepEqual(v, again) {
			t.Fatalf("%+v, then %+v", v, again)
		}
		switch v.Class { //nolint:exhaustive // those of a call
		case wire.ClassOK, wire.ClassTransient, wire.ClassThrottled, wire.ClassUnauthorized, wire.ClassPending, wire.ClassPermanent:
		default:
			t.Fatalf("no call has the class %q", v.Class)
		}
		if (v.Class == wire.ClassPermanent) != (v.Code != "") || (v.Class == wire.ClassOK) != (v.ErrorType == "") || v.Why == "" || v.MinHold < 0 {
			t.Fatalf("%d %q: %+v", status, body, v)
		}
		if v.Class != wire.ClassOK {
			if v.Detail == "" {
				t.Fatalf("%d %q fails and says nothing: %+v", status, body, v)
			}
			return
		}
		if status/100 != 2 {
			t.Fatalf("%d %q is an answer", status, body)
		}
		if isJSON := json.Valid(body); (in.Format == sheet.FormatJSON || in.Format == sheet.FormatValue) && status != 204 && !isJSON {
			t.Fatalf("%q is an answer as %s", body, in.Format)
		}
		if len(body) == 0 && status != 204 {
			t.Fatalf("%d and nothing is an answer", status)
		}
		if v.MinHold > 0 {
			t.Fatalf("%q holds the provider, and is an answer", body)
		}
	})
}
