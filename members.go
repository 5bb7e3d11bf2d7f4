package fetchworker

import (
	"bytes"
	"encoding/json"
)

// members calls each for every member of a JSON object, in its order, and
// reports whether body is one: valid, and nothing else. Beyond the look
// whether it is valid the object is gone through once, and nothing is copied;
// a json.Decoder costs a request four times the memory and time.
func members(body []byte, each func(name string, value json.RawMessage)) bool {
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
		text, _ := jsonText(name)
		each(text, value)
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

// jsonText is the text of a JSON string; not ok if it is something else.
func jsonText(value []byte) (text string, ok bool) {
	if len(value) == 0 || value[0] != '"' {
		return "", false
	}
	for _, c := range value {
		if c == '\\' || c >= 0x80 { // escaped, or perhaps not UTF-8
			return text, json.Unmarshal(value, &text) == nil
		}
	}
	return string(value[1 : len(value)-1]), true
}
