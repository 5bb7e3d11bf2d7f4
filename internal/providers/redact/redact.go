package redact

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// MaxDetail is how long an error's text may be, in characters.
const MaxDetail = 400

const (
	redacted = "REDACTED"

	// Shorter keys are placeholders such as "demo" and stay readable: hiding
	// every "demo" would damage answers and protect nothing.
	minKeyInText = 4
	minKeyInBody = 6

	// maxKeys are how many secrets are remembered: those that were exchanged
	// can still come back in an answer.
	maxKeys = 32
)

// Redactor takes secrets out of texts and bodies, in every form in which they
// could be echoed. It is safe for concurrent use. No fmt verb prints a secret.
type Redactor struct {
	mu   sync.RWMutex
	keys func() []*key // a func prints as an address
	has  func(value string) bool
}

// New is a redactor of secrets; more can be added.
func New(values ...string) *Redactor {
	r := &Redactor{keys: func() []*key { return nil }, has: func(string) bool { return false }}
	for _, value := range values {
		r.Add(value)
	}
	return r
}

// Add makes one more secret known.
func (r *Redactor) Add(value string) {
	r.mu.RLock()
	known := len(value) < minKeyInText || r.has(value)
	r.mu.RUnlock()
	if known {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.has(value) {
		return
	}
	keys, has := append(slices.Clone(r.keys()), newKey(value)), r.has
	if len(keys) > maxKeys {
		keys = keys[len(keys)-maxKeys:]
		has = func(string) bool { return false } // then some are perhaps made again
	}
	// The longest first: one may be a part of another.
	slices.SortStableFunc(keys, func(a, b *key) int { return b.length - a.length })
	r.keys = func() []*key { return keys }
	r.has = func(other string) bool { return other == value || has(other) }
}

func (r *Redactor) known(least int) []*key {
	r.mu.RLock()
	defer r.mu.RUnlock()
	keys := r.keys()
	for i, k := range keys {
		if k.length < least {
			return keys[:i]
		}
	}
	return keys
}

// isUnreserved reports whether no escaping has a reason to change a character.
func isUnreserved(c rune) bool {
	return c < unicode.MaxASCII && (unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("-_.~", c))
}

// Text redacts an error text or header. It must come before any shortening,
// since half a key is no longer recognised.
func (r *Redactor) Text(s string) string {
	keys := r.known(minKeyInText)
	// Headers are short and many, and hardly ever hold anything of a key or an
	// escape: such a text is not copied.
	if !strings.ContainsAny(s, `\%&+`) && !slices.ContainsFunc(keys, func(k *key) bool { return strings.Contains(s, string(k.hint)) }) {
		return s
	}
	clean, _ := replace([]byte(s), keys) // a copy of its own
	return string(clean)
}

// Body redacts a body and reports whether it had to. Bodies are large and
// secrets are hardly ever in them, so each place is looked at only where a
// part of one, or an escape, is found at all. Where one is found the body is
// written over: a large one is not there twice.
func (r *Redactor) Body(b []byte) (clean []byte, found bool) {
	keys := r.known(minKeyInBody)
	if !escaped(b) {
		hinted := func(k *key) bool { return contains(b, k.hint) }
		if !slices.ContainsFunc(keys, hinted) {
			return b, false // nearly always, and without a list of its own
		}
		keys = slices.DeleteFunc(slices.Clone(keys), func(k *key) bool { return !hinted(k) })
	}
	return replace(b, keys)
}

// replace takes keys out of b and writes over it; where there is none b itself
// comes back.
func replace(b []byte, keys []*key) (clean []byte, found bool) {
	if len(keys) == 0 {
		return b, false
	}
	var starts [256]bool
	for _, k := range keys {
		for c, is := range k.starts {
			starts[c] = starts[c] || is
		}
	}
	over, from := true, 0
	clean = b[:0]
	for i := 0; i < len(b); {
		n := 0
		if starts[b[i]] {
			n = longest(b[i:], keys)
		}
		if n == 0 {
			i++
			continue
		}
		if over && len(clean)+i-from+len(redacted) > i+n {
			// A key shorter than what takes its place, before any that was longer:
			// what is not yet read must not be written over.
			over, clean = false, append(make([]byte, 0, len(b)+len(b)/8+len(redacted)), clean...)
		}
		clean = append(append(clean, b[from:i]...), redacted...)
		i += n
		from, found = i, true
	}
	if !found {
		return b, false
	}
	return append(clean, b[from:]...), true
}

func longest(b []byte, keys []*key) int {
	for _, k := range keys {
		if k.starts[b[0]] {
			if n := k.at(b); n > 0 {
				return n
			}
		}
	}
	return 0
}

// escaped reports whether even plain characters could stand in a body as
// \u0063 or %63.
func escaped(b []byte) bool {
	return contains(b, []byte(`\u00`)) || contains(b, []byte("%"))
}

// contains is bytes.Contains, which in a large body goes on for milliseconds
// in which nothing breaks it off: a collection waits for it, and everybody for
// that.
func contains(b, part []byte) bool {
	const piece = 256 << 10
	for len(b) > piece+len(part) {
		if bytes.Contains(b[:piece+len(part)], part) {
			return true
		}
		b = b[piece:]
	}
	return bytes.Contains(b, part)
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
