package redact

import (
	"bytes"
	"fmt"
	"html"
	"unicode/utf16"
)

const (
	// maxSlashes and maxNested bound how often an escape may have been escaped
	// again: what is deeper is no echo, and the search stays linear.
	maxSlashes = 32
	maxNested  = 8
	// maxTries bounds the work at one place of a body.
	maxTries = 1 << 10
)

// key is one secret, taken apart so that it is found in every form in which it
// could be echoed: raw, escaped for a URL, a JSON string or HTML, or several of
// these over each other.
type key struct {
	chars  []char
	starts [256]bool // bytes that any form of it begins with
	hint   []byte    // the longest part of it that no escaping has a reason to change
	length int
}

// char is one character of a secret and its escapes, in lower case.
type char struct {
	literal []byte
	percent []string // hex digits of each byte
	units   []string // of UTF-16, four hex digits each
	entity  []byte   // "" if HTML has none
	space   bool     // + stands for it, too
}

// plus is what a blank is in a query, to be escaped again.
var plus = char{percent: []string{"2b"}}

func newKey(value string) *key {
	k := &key{length: len(value)}
	var run []byte
	for _, r := range value {
		c := char{literal: []byte(string(r)), space: r == ' '}
		for _, b := range c.literal {
			c.percent = append(c.percent, fmt.Sprintf("%02x", b))
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			c.units = append(c.units, fmt.Sprintf("%04x", unit))
		}
		if entity := html.EscapeString(string(r)); entity != string(r) {
			c.entity = []byte(entity)
		}
		k.chars = append(k.chars, c)
		if !isUnreserved(r) {
			run = nil
		} else if run = append(run, byte(r)); len(run) > len(k.hint) { // #nosec G115 -- it is ASCII
			k.hint = bytes.Clone(run)
		}
	}
	if len(k.chars) > 0 {
		first := &k.chars[0]
		k.starts[first.literal[0]], k.starts['\\'], k.starts['%'] = true, true, true
		k.starts['&'], k.starts['+'] = len(first.entity) > 0, first.space
		k.starts[first.literal[0]] = true
	}
	return k
}

// at is the length of the key at the start of b, 0 if it is not there.
func (k *key) at(b []byte) int {
	tries := maxTries
	n, ok := match(b, k.chars, &tries)
	if !ok {
		return 0
	}
	return n
}

// match tries every form of the first character, and the others after each.
// What b begins with says which forms there can be.
func match(b []byte, chars []char, tries *int) (int, bool) {
	if len(chars) == 0 {
		return 0, true
	}
	if *tries--; *tries < 0 || len(b) == 0 {
		return 0, false
	}
	c := &chars[0]
	if b[0] == c.literal[0] && bytes.HasPrefix(b, c.literal) {
		if n, ok := after(b, len(c.literal), chars, tries); ok {
			return n, true
		}
	}
	switch b[0] {
	case '%':
		n := percent(b, c)
		if n == 0 && c.space {
			n = percent(b, &plus)
		}
		return after(b, n, chars, tries)
	case '&':
		return after(b, entity(b, c), chars, tries)
	case '+':
		if c.space {
			return after(b, 1, chars, tries)
		}
	case '\\':
		n := slashes(b)
		if bytes.HasPrefix(b[n:], c.literal) {
			return after(b, n+len(c.literal), chars, tries)
		}
		return after(b, unicodes(b, n, c), chars, tries)
	}
	return 0, false
}

// after goes on behind the n bytes that a character took; 0 are none.
func after(b []byte, n int, chars []char, tries *int) (int, bool) {
	if n == 0 {
		return 0, false
	}
	rest, ok := match(b[n:], chars[1:], tries)
	return n + rest, ok
}

func slashes(b []byte) int {
	n := 0
	for n < len(b) && n < maxSlashes && b[n] == '\\' {
		n++
	}
	return n
}

// percent is the character as %XX, also when its % was escaped again.
func percent(b []byte, c *char) int {
	n := 0
	for _, digits := range c.percent {
		if n >= len(b) || b[n] != '%' {
			return 0
		}
		n++
		for range maxNested {
			if has(b[n:], digits) || !has(b[n:], "25") {
				break
			}
			n += 2
		}
		if !has(b[n:], digits) {
			return 0
		}
		n += 2
	}
	return n
}

// unicodes is the character as \uXXXX behind s backslashes.
func unicodes(b []byte, s int, c *char) int {
	n := 0
	for i, unit := range c.units {
		if i > 0 {
			s = slashes(b[n:])
		}
		if s == 0 || n+s >= len(b) || b[n+s]|0x20 != 'u' || !has(b[n+s+1:], unit) {
			return 0
		}
		n += s + 5
	}
	return n
}

// entity is the character as HTML writes it.
func entity(b []byte, c *char) int {
	if len(c.entity) > 0 && bytes.HasPrefix(b, c.entity) {
		return len(c.entity)
	}
	return 0
}

// has reports whether b begins with hex digits, in any case.
func has(b []byte, digits string) bool {
	if len(b) < len(digits) {
		return false
	}
	for i := range len(digits) {
		c := b[i]
		if c >= 'A' && c <= 'F' {
			c |= 0x20
		}
		if c != digits[i] {
			return false
		}
	}
	return true
}
