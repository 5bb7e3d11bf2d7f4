package scan

import (
	"encoding/binary"
	"encoding/json"
	"math/bits"
)

// Valid reports whether doc is JSON, as json.Valid does, whose word it is held to
// by a fuzzer. That one steps through a function for each byte: for a body of a
// kilobyte seven microseconds, which were a twentieth of a request; this takes
// one.
func Valid(doc []byte) bool {
	// What is open around a value, the innermost in the lowest bit: 1 is an
	// object, 0 an array. Nearly all documents are less deep than that has room
	// for; the others are left to json.Valid, and so is how deep one may be.
	var open uint64
	depth, i := 0, 0
	for {
		// A value is due.
		if i = blank(doc, i); i == len(doc) {
			return false
		}
		switch c := doc[i]; c {
		case '{', '[':
			if depth == 64 {
				return json.Valid(doc)
			}
			open, depth = open<<1, depth+1
			i = blank(doc, i+1)
			if c == '{' {
				open |= 1
			}
			if i < len(doc) && doc[i] == c+2 { // which ends it, in ASCII
				open, depth = open>>1, depth-1
				i++
				break
			}
			if c == '{' {
				if i = name(doc, i); i < 0 {
					return false
				}
			}
			continue
		case '"':
			i = text(doc, i+1)
		case 't':
			i = word(doc, i, "true")
		case 'f':
			i = word(doc, i, "false")
		case 'n':
			i = word(doc, i, "null")
		default:
			i = numeral(doc, i)
		}
		if i < 0 {
			return false
		}
		// A value is over, and perhaps what it is in.
		for {
			i = blank(doc, i)
			if depth == 0 || i == len(doc) {
				return depth == 0 && i == len(doc)
			}
			in, c := open&1, doc[i]
			i++
			if c == ',' {
				if in == 1 {
					if i = name(doc, blank(doc, i)); i < 0 {
						return false
					}
				}
				break
			}
			if in == 1 && c != '}' || in == 0 && c != ']' {
				return false
			}
			open, depth = open>>1, depth-1
		}
	}
}

// These return where what begins at i is over, and -1 where there is no such
// thing.

// name is the name of a member, with its colon.
func name(doc []byte, i int) int {
	if i >= len(doc) || doc[i] != '"' {
		return -1
	}
	if i = text(doc, i+1); i < 0 {
		return -1
	}
	if i = blank(doc, i); i == len(doc) || doc[i] != ':' {
		return -1
	}
	return i + 1
}

func blank(doc []byte, i int) int {
	for i < len(doc) && (doc[i] == ' ' || doc[i] == '\n' || doc[i] == '\r' || doc[i] == '\t') {
		i++
	}
	return i
}

func word(doc []byte, i int, w string) int {
	if len(doc)-i < len(w) || string(doc[i:i+len(w)]) != w {
		return -1
	}
	return i + len(w)
}

// text is the rest of a string, with its quote.
func text(doc []byte, i int) int {
	for {
		// Eight bytes at a time, and then to the first that is special.
		for i+8 <= len(doc) {
			marks := special(binary.LittleEndian.Uint64(doc[i:]))
			if i += bits.TrailingZeros64(marks) / 8; marks != 0 {
				break
			}
		}
		for i < len(doc) && doc[i] != '"' && doc[i] != '\\' && doc[i] >= ' ' {
			i++
		}
		switch {
		case i >= len(doc) || doc[i] < ' ':
			return -1
		case doc[i] == '"':
			return i + 1
		}
		if i = escape(doc, i+1); i < 0 {
			return -1
		}
	}
}

// special marks those of eight bytes that are a quote, a backslash or a control
// character with their highest bit. The lowest mark is right; beyond it there may
// be some too many.
func special(eight uint64) uint64 {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	quote, back := eight^ones*'"', eight^ones*'\\'
	return ((eight-ones*' ')&^eight | (quote-ones)&^quote | (back-ones)&^back) & tops
}

// escape is what follows a backslash.
func escape(doc []byte, i int) int {
	if i >= len(doc) {
		return -1
	}
	switch doc[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		if len(doc)-i < 5 {
			return -1
		}
		for _, c := range doc[i+1 : i+5] {
			if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
				return -1
			}
		}
		return i + 5
	default:
		return -1
	}
}

func numeral(doc []byte, i int) int {
	if i < len(doc) && doc[i] == '-' {
		i++
	}
	switch {
	case i >= len(doc):
		return -1
	case doc[i] == '0':
		i++
	default:
		if i = digits(doc, i); i < 0 {
			return -1
		}
	}
	if i < len(doc) && doc[i] == '.' {
		if i = digits(doc, i+1); i < 0 {
			return -1
		}
	}
	if i < len(doc) && (doc[i] == 'e' || doc[i] == 'E') {
		if i++; i < len(doc) && (doc[i] == '+' || doc[i] == '-') {
			i++
		}
		return digits(doc, i)
	}
	return i
}

// digits are one or more.
func digits(doc []byte, i int) int {
	from := i
	for i < len(doc) && doc[i] >= '0' && doc[i] <= '9' {
		i++
	}
	if i == from {
		return -1
	}
	return i
}
