package providers

import (
	"errors"
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

// redactor takes a key out of texts and bodies, in every form in which it
// could be echoed: each character raw or escaped for a URL, a JSON string or
// HTML, or several of these over each other; or the whole of it in base64.
type redactor struct {
	length int
	find   func() *finder // a func prints as an address
}

func newRedactor(key string) *redactor {
	f := newFinder(key)
	return &redactor{length: len(key), find: func() *finder { return f }}
}

// text redacts an error text or header. It must come before any shortening,
// since half a key is no longer recognised.
func (r *redactor) text(s string) string {
	if r.length < minKeyInText {
		return s
	}
	if clean, found := r.find().replace([]byte(s)); found {
		return string(clean)
	}
	return s
}

// body redacts a body and reports whether it had to.
func (r *redactor) body(b []byte) (clean []byte, found bool) {
	if r.length < minKeyInBody {
		return b, false
	}
	return r.find().replace(b)
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
