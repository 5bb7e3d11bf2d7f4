package providers

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Each character of a key may be escaped in a way of its own.
func TestAKeyIsFoundHoweverItsCharactersAreEscaped(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chars := rapid.SliceOfN(rapid.SampledFrom([]rune(`abcu019-_./+&é<"' `)), minKeyInBody, 20).Draw(t, "key")
		echo := ""
		for _, c := range chars {
			percent := ""
			for _, b := range []byte(string(c)) {
				percent += fmt.Sprintf("%%%02x", b)
			}
			echo += rapid.SampledFrom([]string{
				string(c), `\` + string(c), percent, strings.ToUpper(percent), strings.ReplaceAll(percent, "%", "%25"), strings.ReplaceAll(percent, "%", "%2525"),
				fmt.Sprintf(`\u%04x`, c), fmt.Sprintf(`\\u%04X`, c), fmt.Sprintf("&#%d;", c), fmt.Sprintf("&#x%x;", c),
			}).Draw(t, "escaped")
		}
		before := rapid.SampledFrom([]string{"", "x ", `\n`, "a", "%20", "=", `\\`, "&amp;"}).Draw(t, "before")
		after := rapid.SampledFrom([]string{"", " x", `\"`, "%22", "&lt;", "%", "\\"}).Draw(t, "after")
		r := newRedactor(string(chars))
		got, found := r.body([]byte(before + echo + after))
		if !found || !bytes.Contains(got, []byte(redacted)) || !bytes.HasSuffix(got, []byte(after)) {
			t.Fatalf("%q in %q: %q", string(chars), before+echo+after, got)
		}
		if text := r.text(before + echo + after); text != string(got) {
			t.Fatalf("as a text %q, as a body %q", text, got)
		}
	})
}

func TestAPairOfSurrogatesIsOneCharacter(t *testing.T) {
	if got, found := newRedactor("key-😀-key").body([]byte(`["key-\ud83d\ude00-key"]`)); !found || string(got) != `["REDACTED"]` {
		t.Errorf("%s", got)
	}
}

func TestAKeyIsFoundInBase64(t *testing.T) {
	const key = "canary>K3Y?0123456789"
	for _, before := range []string{"", "u", "u:", "user:", "someone:"} {
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
			body := `{"authorization":"Basic ` + encoding.EncodeToString([]byte(before+key+"@host")) + `"}`
			if got, found := newRedactor(key).body([]byte(body)); !found || !bytes.Contains(got, []byte(redacted)) {
				t.Errorf("after %q: %s", before, got)
			}
		}
	}
}

// What looks like an escape and is none, and what is almost the key, stays.
func TestABodyWithoutTheKeyIsNotTouched(t *testing.T) {
	r := newRedactor("canaryK3Y0123456789abcdef")
	for _, body := range []string{
		"", `\`, `\u`, `\u00`, `\uzzzz`, `\ud83d`, `\ud83d\u0041`, "%", "%2", "%25", "%2525", "%zz", "&", "&;", "&#;", "&#x;", "&#xzz;", "&#99999999;", "&amp",
		strings.Repeat("canaryK3Y0123456789abcde", 3), `%63anaryK3Y0123456789abcde\u0067`, "[\"canary K3Y0123456789abcdef\"]",
	} {
		if got, found := r.body([]byte(body)); found || string(got) != body {
			t.Errorf("%q: %q", body, got)
		}
	}
}

// A replacement leaves no half of an escape, so JSON stays JSON.
func TestARedactedBodyIsStillJSON(t *testing.T) {
	r := newRedactor("/canary/K3Y")
	for body, want := range map[string]string{
		`["\/canary\/K3Y"]`:              `["REDACTED"]`,
		`["\"\u002fcanary\/K3\u0059\""]`: `["\"REDACTED\""]`,
		`["a\n\/canary/K3Y\\"]`:          `["a\nREDACTED\\"]`,
		`["/canary/K3Y/canary/K3Y"]`:     `["REDACTEDREDACTED"]`,
		`["/canary/K3/canary/K3Y"]`:      `["/canary/K3REDACTED"]`,
	} {
		if got, found := r.body([]byte(body)); !found || string(got) != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
}

// The bodies that cost the most: none may hold up a worker.
func BenchmarkRedact(b *testing.B) {
	r := newRedactor("canaryK3Y0123456789abcdef")
	for _, part := range []string{`{"symbol":"AAPL","price":1.25},`, "%", "%25", `\`, `\u0063`, "&", "canaryK3Y0123456789abcde", "canaryK3Y0123456789abcdef"} {
		body := bytes.Repeat([]byte(part), MaxBody/len(part))
		b.Run(part, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				r.body(body)
			}
		})
	}
}
