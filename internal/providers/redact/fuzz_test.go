package redact

import (
	"encoding/json"
	"html"
	"net/url"
	"strings"
	"testing"
	"unicode"
)

// FuzzRedact: a key that stands in a text, in any escaping or two of them over
// each other, is in it no more; what is around it stays.
func FuzzRedact(f *testing.F) {
	f.Add("ab12canaryK3Y456789", "before ", " after", uint8(0), uint8(1))
	f.Add("a/b+c&d=e<f>\"g'h", `{"x":"`, `"}`, uint8(2), uint8(3))
	f.Add("sch\u00fcssel mit blank", "%", "%25", uint8(1), uint8(1))
	f.Add("0123456789abcdef", `\`, `\u00`, uint8(2), uint8(2))
	escapes := []func(string) string{
		func(s string) string { return s },
		url.QueryEscape,
		func(s string) string {
			quoted, _ := json.Marshal(s)
			return string(quoted[1 : len(quoted)-1])
		},
		html.EscapeString,
		url.PathEscape,
	}
	f.Fuzz(func(t *testing.T, key, before, after string, first, second uint8) {
		if len(key) < minKeyInBody || len(key) > 64 || strings.ToValidUTF8(key, "") != key || strings.ContainsAny(key, "\x00\u2028\u2029\ufffd") {
			return
		}
		if strings.ContainsAny(key, "%\\") || strings.ContainsFunc(key, unicode.IsControl) {
			return // its escapes can be read as another key's; and no key is taken with a line break
		}
		// Two over each other, but not those whose marks the other has its own words
		// for: a text escaped for HTML and then for a URL is no echo.
		a, b := escapes[int(first)%len(escapes)], escapes[int(second)%len(escapes)]
		text := a(key)
		if first%5 == 0 || second%5 == first%5 && first%5 != 3 {
			text = b(text)
		}
		r := New(key)
		body := before + text + after
		clean, found := r.Body([]byte(body))
		if strings.Contains(string(clean), text) && !strings.Contains(before+after, text) && !strings.Contains(redacted, text) {
			t.Fatalf("key %q in %q: %q, found %t", key, body, clean, found)
		}
		if shown := r.Text(body); strings.Contains(shown, text) && !strings.Contains(redacted, text) {
			t.Fatalf("key %q in %q: %q", key, body, shown)
		}
		if line := Shorten(body, MaxDetail); len([]rune(line)) > MaxDetail || strings.ContainsAny(line, "\r\n\t\x00") {
			t.Fatalf("%q", line)
		}
		if clean, found := New("nowhere-to-be-found").Body([]byte(before)); found || string(clean) != before {
			t.Fatalf("%q without a key became %q", before, clean)
		}
	})
}
