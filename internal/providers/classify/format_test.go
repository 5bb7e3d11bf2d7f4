package classify

import (
	"net/http"
	"strings"
	"testing"

	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

// What an operation's format lets through, and what is odd.
func TestFormats(t *testing.T) {
	const png = "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
	for _, test := range []struct {
		format            sheet.Format
		contentType, body string
		ok                bool
	}{
		{sheet.FormatJSON, "", `{"a":1}`, true},
		{sheet.FormatJSON, "", `7`, false},
		{sheet.FormatJSON, "", `"text"`, false},
		{sheet.FormatValue, "", `7`, true},
		{sheet.FormatValue, "", ` "text" `, true},
		{sheet.FormatValue, "", `null`, true},
		{sheet.FormatValue, "", `NaN`, false},
		{sheet.FormatText, "text/plain", "it rains", true},
		{sheet.FormatText, "text/plain", "it \xff rains", false},
		{sheet.FormatText, "text/plain", "PK\x03\x04 \x00\x00", false},
		{sheet.FormatNDJSON, "", "{\"a\":1}\n[2]\n\n3\n", true},
		{sheet.FormatNDJSON, "", "{\"a\":1}\n{\"a\":", false},
		{sheet.FormatNDJSON, "", "one moment, please", false},
		{sheet.FormatImage, "image/png", png, true},
		{sheet.FormatImage, "", png, true},
		{sheet.FormatImage, "image/png", "sorry", false},
		{sheet.FormatImage, "image/svg+xml", "<?xml version=\"1.0\"?><svg/>", true},
		{sheet.FormatBinary, "application/pdf", "%PDF-1.7 \x00", true},
		{sheet.FormatBinary, "", "  ", false},
		{sheet.FormatCSV, "text/csv", "day,rate\n2026-02-13,1.08\n", true},
		{sheet.FormatCSV, "text/plain", "day;rate\n2026-02-13;1,08\n", true},
		{sheet.FormatCSV, "text/plain", "one moment, please\nwe are busy, too\n", false},
		{sheet.FormatCSV, "text/csv", `{"message":"busy"}`, false},
		{sheet.FormatAny, "text/plain", "one moment, please\nwe are busy, too\n", false},
		{sheet.FormatAny, "text/plain", "day,rate\n2026-02-13,1.08\n", true},
		{sheet.FormatAny, "image/png", png, true},
		{sheet.FormatAny, "application/xml", "<rates/>", true},
		{sheet.FormatAny, "application/json", `{"a":`, false},
	} {
		v := Answer(&sheet.Spec{}, Input{Format: test.format, Status: 200, Header: http.Header{"Content-Type": {test.contentType}}, Body: []byte(test.body)})
		if got := v.Class == wire.ClassOK; got != test.ok || !got && v.ErrorType != Odd {
			t.Errorf("%s %s %.40q: %s %s %s", test.format, test.contentType, test.body, v.Class, v.ErrorType, v.Detail)
		}
	}
	// A page is a page, whatever the format and the type.
	for _, format := range sheet.Formats {
		for _, contentType := range []string{"", "text/html", "text/xml", "application/xhtml+xml", "text/csv", "application/octet-stream"} {
			for _, body := range []string{
				"<!DOCTYPE html>\n<html>,\n", "\ufeff <!-- a --><html lang=\"en\">", "<HTML><BODY>x", "<?xml version=\"1.0\"?>\n<!DOCTYPE html PUBLIC \"x\">\n<html/>",
				"<head><title>x</title></head>", "<h1>503 Service Unavailable</h1>\nNo server, sorry\n",
			} {
				v := Answer(&sheet.Spec{}, Input{Format: format, Status: 200, Header: http.Header{"Content-Type": {contentType}}, Body: []byte(body)})
				if v.ErrorType != Foreign || !strings.HasPrefix(v.Detail, foreignDetail) {
					t.Errorf("%s %s %.40q: %s %s", format, contentType, body, v.ErrorType, v.Detail)
				}
			}
		}
	}
}

// A table without the header row that the sheet names is not the one that was
// asked for.
func TestColumns(t *testing.T) {
	for body, ok := range map[string]bool{
		"symbol,price\nAAPL,1\n": true, "\ufeffsymbol;price\nAAPL;1\n": true, "\"symbol\",\"price\",\"more\"\n\"AAPL\",1,2\n": true, "price,symbol\n": true,
		"symbol,volume\nAAPL,1\n": false, "symbol,unit_price\nAAPL,1\n": false, "symbols,price\nAAPL,1\n": false, "symbol price\nAAPL 1\n": false, "AAPL,1\nMSFT,2\n": false, "Sorry,busy\nplease,wait\n": false,
	} {
		v := Answer(&sheet.Spec{}, Input{Format: sheet.FormatCSV, Columns: []string{"symbol", "price"}, Status: 200, Header: http.Header{}, Body: []byte(body)})
		if got := v.Class == wire.ClassOK; got != ok || !got && v.ErrorType != Odd {
			t.Errorf("%q: %s %s", body, v.Class, v.Detail)
		}
	}
}

// Rules look at headers too, by whole words.
func TestRulesOnHeaders(t *testing.T) {
	s := &sheet.Spec{ErrorRules: []sheet.Rule{
		{Header: map[string]string{"X-Left": "0"}, Class: wire.ClassThrottled},
		{Header: map[string]string{"X-Job": ""}, Class: wire.ClassPending},
	}}
	for value, want := range map[string]wire.Class{"0": "throttled", "10": "ok", "5, 0": "throttled", "": "ok"} {
		if v := Answer(s, Input{Format: sheet.FormatJSON, Status: 200, Header: http.Header{"X-Left": {value}}, Body: []byte(`{}`)}); v.Class != want {
			t.Errorf("%q: %s, want %s", value, v.Class, want)
		}
	}
	if v := Answer(s, Input{Format: sheet.FormatJSON, Status: 200, Header: http.Header{"X-Job": {"7"}}, Body: []byte(`{}`)}); v.Class != wire.ClassPending {
		t.Errorf("a header that is there: %s", v.Class)
	}
}
