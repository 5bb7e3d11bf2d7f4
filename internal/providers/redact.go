package providers

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

const (
	redacted = "REDACTED"

	// Shorter keys are placeholders such as "demo" and stay readable: hiding
	// every "demo" would damage answers and protect nothing.
	minKeyInText = 4
	minKeyInBody = 6
)

// secret is a key that no fmt verb can print: a func prints as an address.
type secret struct{ reveal func() string }

func newSecret(key string) secret { return secret{func() string { return key }} }

func (s secret) isSet() bool { return s.reveal() != "" }

// redactor takes a key out of texts and bodies, raw and in every form in
// which it could be echoed: escaped for a URL or for JSON.
type redactor struct{ forms func() []string }

func newRedactor(key string) *redactor {
	quoted, _ := json.Marshal(key) // a string always marshals
	inJSON := strings.Trim(string(quoted), `"`)
	forms := []string{key, url.QueryEscape(key), url.PathEscape(key), inJSON, strings.ReplaceAll(key, "/", `\/`)}
	forms = append(forms, strings.ToLower(forms[1]), strings.ToLower(forms[2])) // %2b as well as %2B
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })    // the longest first: one may contain another
	forms = slices.Compact(forms)
	return &redactor{func() []string { return forms }}
}

// text redacts an error text or header. It must come before any shortening,
// since half a key is no longer recognised.
func (r *redactor) text(s string) string {
	for _, form := range r.forms() {
		if len(form) >= minKeyInText {
			s = strings.ReplaceAll(s, form, redacted)
		}
	}
	return s
}

// body redacts a body and reports whether it had to.
func (r *redactor) body(b []byte) (clean []byte, found bool) {
	for _, form := range r.forms() {
		if len(form) >= minKeyInBody && bytes.Contains(b, []byte(form)) {
			b, found = bytes.ReplaceAll(b, []byte(form), []byte(redacted)), true
		}
	}
	return b, found
}

// callError is an error without the key. It answers errors.Is for what it
// was made from, but does not unwrap to it: the cause's own text may hold the
// URL and so the key.
type callError struct {
	text string
	is   func(target error) bool
}

func (e *callError) Error() string        { return e.text }
func (e *callError) Is(target error) bool { return e.is(target) }

// error makes an error printable.
func (r *redactor) error(err error) error {
	if err == nil {
		return nil
	}
	return &callError{
		text: shorten(r.text(err.Error()), maxDetail),
		is:   func(target error) bool { return errors.Is(err, target) },
	}
}

// shorten cuts a text to n characters and makes it one printable line.
func shorten(s string, n int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	s = strings.ToValidUTF8(s, "\uFFFD")
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return s
}
