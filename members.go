package fetchworker

import (
	"bytes"
	"encoding/json"
)

// members calls each for every member of a JSON object, in its order, and
// reports whether body is one: valid, and nothing else. Beyond the look
// whether it is valid the object is gone through once, and nothing is copied;
// a json.Decoder costs a request four times the memory and time.
func members(body []byte, each func(name []byte, value json.RawMessage)) bool {
	body = bytes.Trim(body, " \t\r\n")
	if len(body) == 0 || body[0] != '{' || !json.Valid(body) {
		return false
	}
	rest := body[1:]
	for {
		if rest = bytes.TrimLeft(rest, " \t\r\n,"); rest[0] == '}' {
			return true
		}
		name, after := splitJSON(rest)
		after = bytes.TrimLeft(after, " \t\r\n")[1:] // the colon
		value, next := splitJSON(bytes.TrimLeft(after, " \t\r\n"))
		each(memberName(name), value)
		rest = next
	}
}

// splitJSON cuts the first value off what is left of a valid document.
func splitJSON(doc []byte) (value json.RawMessage, rest []byte) {
	depth, quoted := 0, false
	for i := 0; i < len(doc); i++ {
		switch c := doc[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			if quoted = !quoted; !quoted && depth == 0 {
				return doc[:i+1], doc[i+1:]
			}
		case quoted:
		case c == '{' || c == '[':
			depth++
		case depth > 0 && (c == '}' || c == ']'):
			if depth--; depth == 0 {
				return doc[:i+1], doc[i+1:]
			}
		case depth == 0 && (c == ',' || c == '}' || c == ']' || c == ':' || c <= ' '):
			return doc[:i], doc[i:] // the end of a number or a word
		}
	}
	return doc, nil
}

// memberName is the text of a member's name: a part of the document, if that is
// what it means. As strings they were a fiftieth of what a request allocates.
func memberName(quoted []byte) []byte {
	if isLiteral(quoted) {
		return quoted[1 : len(quoted)-1]
	}
	text, _ := jsonText(quoted)
	return []byte(text)
}

// jsonText is the text of a JSON string; not ok if it is something else.
func jsonText(value []byte) (text string, ok bool) {
	switch {
	case len(value) == 0 || value[0] != '"':
		return "", false
	case !isLiteral(value):
		return text, json.Unmarshal(value, &text) == nil
	}
	return string(value[1 : len(value)-1]), true
}

// isLiteral reports whether a JSON string says what it means: nothing in it is
// escaped, or perhaps not UTF-8.
func isLiteral(quoted []byte) bool {
	for _, c := range quoted {
		if c == '\\' || c >= 0x80 {
			return false
		}
	}
	return true
}
