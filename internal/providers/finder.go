package providers

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// finder finds a key in bytes, however its characters are escaped. It takes
// the time of one pass whatever the bytes are: they are decoded as they pass,
// and compared with the decoded key as Knuth, Morris and Pratt do.
type finder struct {
	key      []byte   // decoded, since it may itself have what looks like an escape
	fallback []int    // by how much has matched: how much still has if the next byte does not
	literal  [][]byte // what is looked for as it stands: the key, and it in base64
	notable  [256]bool
}

func newFinder(key string) *finder {
	f := &finder{literal: [][]byte{[]byte(key)}}
	for b := []byte(key); len(b) > 0; {
		decoded, size := plain(b)
		f.key = append(f.key, decoded.bytes()...)
		b = b[size:]
	}
	f.fallback = make([]int, len(f.key)+1)
	for i, k := 1, 0; i < len(f.key); i++ {
		k = f.step(k, f.key[i])
		f.fallback[i+1] = k
	}
	for _, c := range "\\%&+ " {
		f.notable[c] = true
	}
	if len(f.key) > 0 {
		f.notable[f.key[0]] = true
	}
	if len(key) >= minKeyInBody {
		f.literal = append(f.literal, inBase64(key)...)
	}
	return f
}

// inBase64 is what a key looks like in base64 wherever in a text it stands:
// the digits that are made of it alone, for each of the three alignments.
func inBase64(key string) (forms [][]byte) {
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			digits := encoding.EncodeToString(append(make([]byte, before), key...))
			first, end := (before*8+5)/6, (before+len(key))*8/6
			if form := []byte(digits[first:end]); !slices.ContainsFunc(forms, func(f []byte) bool { return bytes.Equal(f, form) }) {
				forms = append(forms, form)
			}
		}
	}
	return forms
}

// step is how much of the key has matched after one more byte.
func (f *finder) step(matched int, c byte) int {
	for matched > 0 && (matched == len(f.key) || f.key[matched] != c) {
		matched = f.fallback[matched]
	}
	if f.key[matched] == c {
		matched++
	}
	return matched
}

// replace returns b itself if the key is not in it.
func (f *finder) replace(b []byte) (clean []byte, found bool) {
	if len(f.key) > 0 {
		b, found = f.replaceEscaped(b)
	}
	for _, literal := range f.literal {
		if len(literal) > 0 && bytes.Contains(b, literal) {
			b, found = bytes.ReplaceAll(b, literal, []byte(redacted)), true
		}
	}
	return b, found
}

func (f *finder) replaceEscaped(b []byte) (clean []byte, found bool) {
	starts := make([]int, len(f.key)) // of the last decoded bytes in b, in a ring
	matched, n, copied := 0, 0, 0
	for i := 0; i < len(b); {
		if matched == 0 && !f.notable[b[i]] {
			i++
			continue
		}
		decoded, size := plain(b[i:])
		for _, c := range decoded.bytes() {
			starts[n%len(starts)] = i
			n++
			if matched = f.step(matched, c); matched == len(f.key) {
				clean = append(append(clean, b[copied:starts[n%len(starts)]]...), redacted...)
				copied, matched = i+size, 0
			}
		}
		i += size
	}
	if copied == 0 {
		return b, false
	}
	return append(clean, b[copied:]...), true
}

// char is a decoded character in UTF-8, or a single byte.
type char struct {
	b [utf8.UTFMax]byte
	n int
}

func (c *char) bytes() []byte { return c.b[:c.n] }

func oneByte(b byte) char { return char{b: [utf8.UTFMax]byte{b}, n: 1} }

func oneRune(r rune) (c char) {
	c.n = utf8.EncodeRune(c.b[:], r)
	return c
}

// plain is unescape without what escaping blurs: a space may be a +, and a
// backslash of the text looks like one of an escape, so none counts.
func plain(b []byte) (c char, size int) {
	c, size = unescape(b)
	switch {
	case c.n == 1 && c.b[0] == ' ':
		c.b[0] = '+'
	case c.n == 1 && c.b[0] == '\\':
		c.n = 0
	}
	return c, size
}

// unescape decodes the first character of b, which is not empty: behind any
// number of backslashes, as \uXXXX, as %XX, also when its % was escaped again,
// or as an HTML entity. size is how much of b it
// takes, with its backslashes: none may be left behind before a replacement.
func unescape(b []byte) (c char, size int) {
	for size < len(b) && b[size] == '\\' {
		size++
	}
	rest, slashes := b[size:], size
	switch {
	case len(rest) == 0:
		return char{}, size
	case rest[0] == 'u' && slashes > 0:
		if r, used := utf16At(rest[1:]); used > 0 {
			return oneRune(r), size + 1 + used
		}
	case rest[0] == '%':
		at := 1
		for len(rest) >= at+4 && rest[at] == '2' && rest[at+1] == '5' && isHex(rest[at+2]) && isHex(rest[at+3]) {
			at += 2
		}
		if v, ok := hexAt(rest[at:], 2); ok {
			return oneByte(byte(v)), size + at + 2 // #nosec G115 -- two digits
		}
	case rest[0] == '&':
		if r, used := entityAt(rest); used > 0 {
			return oneRune(r), size + used
		}
	}
	return oneByte(rest[0]), size + 1
}

// utf16At decodes the XXXX of \uXXXX, and of a second one that belongs to it.
func utf16At(b []byte) (r rune, used int) {
	unit, ok := hexAt(b, 4)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(unit) {
		return unit, 4
	}
	second := 4
	for second < len(b) && b[second] == '\\' {
		second++
	}
	if second > 4 && second < len(b) && b[second] == 'u' {
		if low, ok := hexAt(b[second+1:], 4); ok {
			if r := utf16.DecodeRune(unit, low); r != utf8.RuneError {
				return r, second + 5
			}
		}
	}
	return utf8.RuneError, 4
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// hexAt reads that many hexadecimal digits.
func hexAt(b []byte, digits int) (v rune, ok bool) {
	if len(b) < digits {
		return 0, false
	}
	for _, c := range b[:digits] {
		switch {
		case !isHex(c):
			return 0, false
		case c <= '9':
			v = v<<4 | rune(c-'0')
		default:
			v = v<<4 | rune(c|0x20-'a'+10)
		}
	}
	return v, true
}

// maxEntity is the longest entity that is decoded: &#1114111;.
const maxEntity = 10

// entityAt decodes an HTML entity: those that escaping makes, and any number.
func entityAt(b []byte) (r rune, used int) {
	end := bytes.IndexByte(b[:min(len(b), maxEntity)], ';')
	if end < 3 {
		return 0, 0
	}
	switch name := string(b[1:end]); name {
	case "amp":
		return '&', end + 1
	case "lt":
		return '<', end + 1
	case "gt":
		return '>', end + 1
	case "quot":
		return '"', end + 1
	case "apos":
		return '\'', end + 1
	default:
		base, digits := 10, name[1:]
		if name[0] == '#' && (digits[0] == 'x' || digits[0] == 'X') {
			base, digits = 16, digits[1:]
		}
		if v, err := strconv.ParseUint(digits, base, 21); name[0] == '#' && err == nil {
			return rune(v), end + 1 // #nosec G115 -- 21 bits
		}
		return 0, 0
	}
}
