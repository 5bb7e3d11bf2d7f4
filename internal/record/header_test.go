package record_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"fetchworker/internal/record"

	"pgregory.net/rapid"
)

// TestAHeaderValueIsPrintableASCII: whatever comes in, and JSON stays what it is.
func TestAHeaderValueIsPrintableASCII(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"plain":                   "plain",
		"the provider’s limit – ": "the provider's limit - ",
		"a\r\nb\tc\x00d\x7fe":     "a  b c d e",
		"Société “X”…":            `Soci?t? "X"...`,
		"\xff\xfe":                "??",
		`{"error":"don’t 𝕏"}`:     `{"error":"don\u2019t \ud835\udd4f"}`,
		"{\"a\":\n\"é\"}":         `{"a": "\u00e9"}`,
		`{ and é`:                 "{ and ?",
		`"é`:                      `"?`,
	} {
		if got := record.HeaderValue(text); got != want {
			t.Errorf("%q became %q, not %q", text, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) })).Draw(t, "text")
		value := record.HeaderValue(text)
		for _, b := range []byte(value) {
			if b < ' ' || b > '~' {
				t.Fatalf("%q became %q", text, value)
			}
		}
		if again := record.HeaderValue(value); again != value {
			t.Fatalf("%q became %q, then %q", text, value, again)
		}
		encoded, err := json.Marshal(map[string]any{text: []string{text}})
		if err != nil {
			t.Fatal(err)
		}
		var before, after any
		if err := json.Unmarshal(encoded, &before); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(record.HeaderValue(string(encoded))), &after); err != nil || !reflect.DeepEqual(before, after) {
			t.Fatalf("%s became %s: %v", encoded, record.HeaderValue(string(encoded)), err)
		}
	})
}
