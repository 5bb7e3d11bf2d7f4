package redact

import (
	"bytes"
	"errors"
	"fmt"
	"html"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
)

// MaxDetail is how long an error's text may be, in characters.
const MaxDetail = 400

const (
	redacted = "REDACTED"

	// Shorter keys are placeholders such as "demo" and stay readable: hiding
	// every "demo" would damage answers and protect nothing.
	minKeyInText = 4
	minKeyInBody = 6
)

// Secret is a key that no fmt verb can print: a func prints as an address.
type Secret struct{ Reveal func() string }

func NewSecret(key string) Secret { return Secret{func() string { return key }} }

func (s Secret) IsSet() bool { return s.Reveal() != "" }

// Redactor takes a key out of texts and bodies, in every form in which it
// could be echoed: raw, escaped for a URL, a JSON string or HTML, or several
// of these over each other.
type Redactor struct {
	length  int
	hint    func() []byte // the longest part of the key that no escaping changes
	pattern func() *regexp.Regexp
}

func New(key string) *Redactor {
	var pattern strings.Builder
	var hint, run []byte
	for _, c := range key {
		if isUnreserved(c) {
			// No escaping has a reason to change it, but one may all the same.
			pattern.WriteString(escapes(c))
			if run = append(run, byte(c)); len(run) > len(hint) { // #nosec G115 -- it is ASCII
				hint = slices.Clone(run)
			}
			continue
		}
		run = nil
		pattern.WriteString(escapes(c))
	}
	compiled := regexp.MustCompile(pattern.String())
	return &Redactor{
		length:  len(key),
		hint:    func() []byte { return hint },
		pattern: func() *regexp.Regexp { return compiled },
	}
}

// isUnreserved reports whether no escaping has a reason to change a character.
func isUnreserved(c rune) bool {
	return c < unicode.MaxASCII && (unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("-_.~", c))
}

// escapes matches a character in every form: behind backslashes, as \uXXXX, as
// %XX, also when its % was escaped again, as + for a space, or as an HTML entity.
func escapes(c rune) string {
	var percent, unicodes strings.Builder
	for _, b := range []byte(string(c)) {
		fmt.Fprintf(&percent, `(?i:%%(?:25)*%02x)`, b)
	}
	for _, unit := range utf16.Encode([]rune{c}) {
		fmt.Fprintf(&unicodes, `(?i:\\+u%04x)`, unit)
	}
	forms := []string{`\\*` + regexp.QuoteMeta(string(c)), percent.String(), unicodes.String(), regexp.QuoteMeta(html.EscapeString(string(c)))}
	if c == ' ' {
		forms = append(forms, `\+`)
	}
	return "(?:" + strings.Join(forms, "|") + ")"
}

// Text redacts an error text or header. It must come before any shortening,
// since half a key is no longer recognised.
func (r *Redactor) Text(s string) string {
	// The pattern is slow, and most texts can have neither the key nor any of
	// its forms in them.
	if r.length < minKeyInText || !strings.ContainsAny(s, `\%&`) && !strings.Contains(s, string(r.hint())) {
		return s
	}
	return r.pattern().ReplaceAllLiteralString(s, redacted)
}

// Body redacts a body and reports whether it had to. Bodies are large and
// keys are hardly ever in them, so the pattern is tried only where a part of
// the key is found.
func (r *Redactor) Body(b []byte) (clean []byte, found bool) {
	if r.length < minKeyInBody || !bytes.Contains(b, r.hint()) && !escaped(b) || !r.pattern().Match(b) {
		return b, false
	}
	return r.pattern().ReplaceAllLiteral(b, []byte(redacted)), true
}

// escaped reports whether even plain characters could stand in a body as
// \u0063 or %63.
func escaped(b []byte) bool {
	return bytes.Contains(b, []byte(`\u00`)) || bytes.IndexByte(b, '%') >= 0
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

// Error makes an error printable.
func (r *Redactor) Error(err error) error {
	if err == nil {
		return nil
	}
	return &callError{
		text: Shorten(r.Text(err.Error()), MaxDetail),
		is:   func(target error) bool { return errors.Is(err, target) },
	}
}

// Shorten cuts a text to n characters and makes it one printable line.
func Shorten(s string, n int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	s = strings.ToValidUTF8(s, "\uFFFD")
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return s
}
