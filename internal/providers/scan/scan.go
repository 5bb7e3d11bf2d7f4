package scan

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Lookup finds the value a JSON pointer (RFC 6901) leads to, as a part of doc. Bodies can be large, so nothing is copied and
// nothing decoded but the keys on the way. In what is no valid JSON it finds
// something or nothing.
func Lookup(doc []byte, pointer string) (value []byte, ok bool) {
	value = TrimSpace(doc)
	if pointer == "" {
		return value, len(value) > 0
	}
	for _, token := range strings.Split(pointer, "/")[1:] {
		token = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
		if len(value) > 0 && value[0] == '[' {
			value, ok = element(value, token)
		} else {
			value, ok = member(value, token)
		}
		if !ok {
			return nil, false
		}
	}
	return value, true
}

// Finder is lookup in a certain document.
type Finder func(pointer string) (value []byte, ok bool)

// Finds goes through a large document once for each pointer, however often
// it is asked. In what is not JSON it finds nothing.
func Finds(doc []byte, isJSON bool) Finder {
	var found map[string][]byte // made when it is needed
	return func(pointer string) ([]byte, bool) {
		value, known := found[pointer]
		if !known && isJSON {
			value, _ = Lookup(doc, pointer)
			if found == nil {
				found = map[string][]byte{}
			}
			found[pointer] = value
		}
		return value, value != nil
	}
}

// member finds a member of the object at the start of doc.
func member(doc []byte, name string) ([]byte, bool) {
	if len(doc) == 0 || doc[0] != '{' {
		return nil, false
	}
	rest := TrimSpace(doc[1:])
	for len(rest) > 0 && rest[0] == '"' {
		quoted, value, next, ok := splitMember(rest)
		if !ok {
			return nil, false
		}
		if isName(quoted, name) {
			return value, true
		}
		rest = TrimSpace(next)
		if len(rest) > 0 && rest[0] == ',' {
			rest = TrimSpace(rest[1:])
		}
	}
	return nil, false
}

// Members tells every member of the object doc, in their order, names decoded.
// What is no object has none; what breaks off has those before that.
func Members(doc []byte, each func(name string, value []byte)) {
	if doc = TrimSpace(doc); len(doc) == 0 || doc[0] != '{' {
		return
	}
	rest := TrimSpace(doc[1:])
	for len(rest) > 0 && rest[0] == '"' {
		name, value, next, ok := splitMember(rest)
		if !ok {
			return
		}
		each(Text(name), value)
		rest = TrimSpace(next)
		if len(rest) > 0 && rest[0] == ',' {
			rest = TrimSpace(rest[1:])
		}
	}
}

// splitMember takes the first member off what stands in an object. It is false
// where the text breaks off in its name: it was no JSON.
func splitMember(doc []byte) (name, value, rest []byte, ok bool) {
	name, after := splitValue(doc)
	after = TrimSpace(after)
	if len(after) == 0 || after[0] != ':' {
		return nil, nil, nil, false
	}
	value, rest = splitValue(TrimSpace(after[1:]))
	return name, value, rest, true
}

// element finds an element of the array at the start of doc by its index.
func element(doc []byte, token string) ([]byte, bool) {
	index, err := strconv.ParseUint(token, 10, 31)
	if err != nil || len(token) > 1 && token[0] == '0' {
		return nil, false
	}
	rest := TrimSpace(doc[1:])
	for len(rest) > 0 && rest[0] != ']' {
		value, next, ok := splitElement(rest)
		if !ok {
			return nil, false
		}
		if index == 0 {
			return value, true
		}
		index, rest = index-1, next
	}
	return nil, false
}

// isName compares a key with a name up to the first difference, decoding only
// what is escaped: a body can have millions of keys.
func isName(quoted []byte, name string) bool {
	raw := quoted[1 : len(quoted)-1]
	for len(raw) > 0 {
		if raw[0] != '\\' {
			run := bytes.IndexByte(raw[:min(len(raw), len(name)+1)], '\\')
			if run < 0 {
				return string(raw) == name
			}
			if !strings.HasPrefix(name, string(raw[:run])) {
				return false
			}
			raw, name = raw[run:], name[run:]
			continue
		}
		c, size := jsonEscape(raw)
		rest, ok := strings.CutPrefix(name, string(c.bytes()))
		if !ok {
			return false
		}
		raw, name = raw[size:], rest
	}
	return name == ""
}

// jsonEscape decodes the escape at the start of a valid string's inside.
func jsonEscape(raw []byte) (c char, size int) {
	switch raw[1] {
	case 'u':
		r, used := utf16At(raw[2:])
		return oneRune(r), 2 + used
	case 'b':
		return oneByte('\b'), 2
	case 'f':
		return oneByte('\f'), 2
	case 'n':
		return oneByte('\n'), 2
	case 'r':
		return oneByte('\r'), 2
	case 't':
		return oneByte('\t'), 2
	}
	return oneByte(raw[1]), 2
}

// Items counts the elements of the array at the start of doc; -1 if it is
// not an array.
func Items(doc []byte) int64 {
	if len(doc) == 0 || doc[0] != '[' {
		return -1
	}
	var n int64
	rest := TrimSpace(doc[1:])
	for len(rest) > 0 && rest[0] != ']' {
		_, next, ok := splitElement(rest)
		if !ok {
			return n
		}
		rest, n = next, n+1
	}
	return n
}

// splitElement takes the first element off what stands in an array. It is
// false where there is none: it was no JSON.
func splitElement(doc []byte) (value, rest []byte, ok bool) {
	value, rest = splitValue(doc)
	rest = TrimSpace(rest)
	if len(rest) > 0 && rest[0] == ',' {
		return value, TrimSpace(rest[1:]), true
	}
	return value, rest, len(value) > 0
}

// splitValue cuts the first JSON value off doc.
func splitValue(doc []byte) (value, rest []byte) {
	depth, inString := 0, false
	for i := 0; i < len(doc); i++ {
		switch c := doc[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
			if !inString && depth == 0 {
				return doc[:i+1], doc[i+1:]
			}
		case inString:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth == 0 { // the end of what holds a number or a literal
				return doc[:i], doc[i:]
			}
			if depth--; depth == 0 {
				return doc[:i+1], doc[i+1:]
			}
		case depth == 0 && (c == ',' || isSpace(c)):
			return doc[:i], doc[i:]
		}
	}
	return doc, nil
}

// Text is a JSON value as text: a string without its quotes, anything else
// as it is written.
func Text(value []byte) string {
	if len(value) > 1 && value[0] == '"' {
		if inside := value[1 : len(value)-1]; IsPlain(inside) {
			return string(inside)
		}
		var s string
		if json.Unmarshal(value, &s) == nil {
			return s
		}
	}
	return string(value)
}

// IsPlain reports whether a string's inside means what is written there:
// nothing is escaped, and all of it is ASCII. A decoder for each such text was
// a twentieth of what a request allocates.
func IsPlain(inside []byte) bool {
	for _, c := range inside {
		if c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// TrimSpace cuts JSON's white space off the front.
func TrimSpace(doc []byte) []byte {
	for len(doc) > 0 && isSpace(doc[0]) {
		doc = doc[1:]
	}
	return doc
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

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

// utf16At decodes the XXXX of \uXXXX, and of a second one that belongs to it.
func utf16At(b []byte) (r rune, used int) {
	unit, ok := hexAt(b, 4)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(unit) {
		return unit, 4
	}
	if second, ok := bytes.CutPrefix(b[4:], []byte(`\u`)); ok {
		if low, ok := hexAt(second, 4); ok {
			if r := utf16.DecodeRune(unit, low); r != utf8.RuneError {
				return r, 10
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
