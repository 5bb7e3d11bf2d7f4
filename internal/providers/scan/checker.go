package scan

// Checker tells whether what is written to it, piece by piece, is one JSON
// value, as json.Valid does of a whole: a large body is looked at while it
// comes, and once. The zero value has been given nothing.
type Checker struct {
	at    place
	inKey bool   // the string is a member's name
	hex   int    // digits of an escape that are still to come
	rest  string // of a literal
	open  []bool // what is open around it: an object, not an array
}

// place is what may come next.
type place uint8

const (
	atValue   place = iota // a value
	atFirst                // a value, or the array's end
	atName                 // a member's name
	atNameEnd              // a member's name, or the object's end
	atColon
	afterValue
	inString
	inEscape
	inHex
	inLiteral
	// Of numbers: what is behind a sign, a leading zero, digits, and so on.
	afterMinus
	afterZero
	inDigits
	afterDot
	inFraction
	afterE
	afterESign
	inExponent
	broken
)

// mostDepth is how deep values may be nested, as encoding/json allows.
const mostDepth = 10_000

// Write takes the next piece. It never fails: Valid tells.
func (c *Checker) Write(piece []byte) (int, error) {
	at := c.at
	for i := 0; i < len(piece) && at != broken; i++ {
		// What bodies are made of first: a call for each byte of them would take
		// twice the time.
		switch b := piece[i]; at { //nolint:exhaustive // the others are of next
		case inString:
			for plain[b] {
				if i++; i == len(piece) {
					c.at = at
					return len(piece), nil
				}
				b = piece[i]
			}
			at = c.string(b)
			continue
		case inDigits, inFraction:
			for b >= '0' && b <= '9' {
				if i++; i == len(piece) {
					c.at = at
					return len(piece), nil
				}
				b = piece[i]
			}
		case atColon:
			if b == ':' {
				at = atValue
				continue
			}
		case atName:
			if b == '"' {
				at, c.inKey = inString, true
				continue
			}
		case atValue:
			switch {
			case b == '"':
				at = inString
				continue
			case b >= '1' && b <= '9':
				at = inDigits
				continue
			}
		case afterValue:
			if b == ',' {
				at = c.after(b)
				continue
			}
		}
		c.at = at
		at = c.next(piece[i])
	}
	c.at = at
	return len(piece), nil
}

// Valid reports whether all that came is one value.
func (c *Checker) Valid() bool {
	if len(c.open) > 0 {
		return false
	}
	switch c.at { //nolint:exhaustive // all others are on the way
	case afterValue, afterZero, inDigits, inFraction, inExponent:
		return true
	}
	return false
}

// plain are the bytes of a string that mean themselves.
var plain = func() (is [256]bool) {
	for c := range is {
		is[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return is
}()

// next is the place behind one more byte.
func (c *Checker) next(b byte) place {
	switch c.at { //nolint:exhaustive // between texts, numbers and words: below
	case inString:
		return c.string(b)
	case inEscape:
		switch b {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			return inString
		case 'u':
			c.hex = 4
			return inHex
		}
		return broken
	case inHex:
		if !isHex(b) {
			return broken
		}
		if c.hex--; c.hex > 0 {
			return inHex
		}
		return inString
	case inLiteral:
		if b != c.rest[0] {
			return broken
		}
		if c.rest = c.rest[1:]; c.rest != "" {
			return inLiteral
		}
		return afterValue
	case afterMinus, afterZero, inDigits, afterDot, inFraction, afterE, afterESign, inExponent:
		if in, ends := number(c.at, b); !ends {
			return in
		}
		c.at = afterValue
	default:
	}
	if isSpace(b) {
		return c.at
	}
	switch c.at { //nolint:exhaustive // the others are above
	case atFirst:
		if b == ']' {
			return c.close(false)
		}
		return c.begin(b)
	case atValue:
		return c.begin(b)
	case atName, atNameEnd:
		switch {
		case b == '"':
			c.inKey = true
			return inString
		case b == '}' && c.at == atNameEnd:
			return c.close(true)
		}
		return broken
	case atColon:
		if b == ':' {
			return atValue
		}
		return broken
	}
	return c.after(b)
}

func (c *Checker) string(b byte) place {
	switch {
	case b == '\\':
		return inEscape
	case b != '"':
		return broken // a control character: the others are plain
	case c.inKey:
		c.inKey = false
		return atColon
	}
	return afterValue
}

// begin is the place behind the first byte of a value.
func (c *Checker) begin(b byte) place {
	switch {
	case b == '"':
		return inString
	case b == '{':
		return c.enter(true, atNameEnd)
	case b == '[':
		return c.enter(false, atFirst)
	case b == '-':
		return afterMinus
	case b == '0':
		return afterZero
	case b >= '1' && b <= '9':
		return inDigits
	case b == 't':
		c.rest = "rue"
	case b == 'f':
		c.rest = "false"[1:]
	case b == 'n':
		c.rest = "ull"
	default:
		return broken
	}
	return inLiteral
}

func (c *Checker) enter(object bool, next place) place {
	if len(c.open) == mostDepth {
		return broken
	}
	c.open = append(c.open, object)
	return next
}

func (c *Checker) close(object bool) place {
	last := len(c.open) - 1
	if last < 0 || c.open[last] != object {
		return broken
	}
	c.open = c.open[:last]
	return afterValue
}

// after is the place behind what follows a value.
func (c *Checker) after(b byte) place {
	switch {
	case b == '}':
		return c.close(true)
	case b == ']':
		return c.close(false)
	case b != ',' || len(c.open) == 0:
		return broken
	case c.open[len(c.open)-1]:
		return atName
	}
	return atValue
}

// number is the place behind one more byte of a number; ends: it is over, and
// the byte is what follows.
func number(at place, b byte) (next place, ends bool) {
	digit := b >= '0' && b <= '9'
	isE := b|0x20 == 'e'
	switch at { //nolint:exhaustive // called inside numbers only
	case afterMinus:
		switch {
		case b == '0':
			return afterZero, false
		case digit:
			return inDigits, false
		}
	case afterZero, inDigits:
		switch {
		case digit && at == inDigits:
			return inDigits, false
		case b == '.':
			return afterDot, false
		case isE:
			return afterE, false
		}
		return afterValue, true
	case afterDot, inFraction:
		switch {
		case digit:
			return inFraction, false
		case at == inFraction && isE:
			return afterE, false
		case at == inFraction:
			return afterValue, true
		}
	case afterE:
		if b == '+' || b == '-' {
			return afterESign, false
		}
		fallthrough
	case afterESign, inExponent:
		switch {
		case digit:
			return inExponent, false
		case at == inExponent:
			return afterValue, true
		}
	}
	return broken, false
}
