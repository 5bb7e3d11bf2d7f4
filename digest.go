package fetchworker

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// RequestDigest is what an answer tells of the request it answers, the
// Fetch-Request-Digest header: the first 16 hex digits of the SHA-256 of the
// operation, a newline, and the parameters in canonical form. That form is a
// JSON object with its names sorted, no white space and no null, in which
// numbers and booleans are texts as they were written: what a parameter
// accepts either way asks for the same thing.
func RequestDigest(operation string, params json.RawMessage) string {
	text := make([]byte, 0, 256) // room for nearly all, on the stack
	sum := sha256.Sum256(appendCanonical(append(append(text, operation...), '\n'), params))
	return hexText(sum[:8])
}

// hexText is hex.EncodeToString with an allocation less, for a hash at most.
func hexText(b []byte) string {
	var digits [2 * sha256.Size]byte
	return string(hex.AppendEncode(digits[:0], b))
}

// appendCanonical adds the canonical form of parameters. What is no JSON object
// is its own.
func appendCanonical(to []byte, params json.RawMessage) []byte {
	if form, ok := canonicalFlat(to, params); ok {
		return form
	}
	return append(to, canonicalAny(params)...)
}

func canonicalAny(params json.RawMessage) []byte {
	dec := json.NewDecoder(bytes.NewReader(params))
	dec.UseNumber()
	var object map[string]any
	if len(params) == 0 {
		return []byte("{}")
	}
	if dec.Decode(&object) != nil {
		return params
	}
	if object == nil { // null
		return []byte("{}")
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(plain(object)) != nil {
		return params
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// plain takes nulls out of objects and makes texts of numbers and booleans.
func plain(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for name, field := range v {
			if field == nil {
				delete(v, name)
				continue
			}
			v[name] = plain(field)
		}
		return v
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
		return v
	case json.Number:
		return v.String()
	case bool:
		if v {
			return "true"
		}
		return "false"
	default:
		return v
	}
}

// canonicalFlat is canonical for the parameters that nearly all requests have:
// a few plain words and numbers, once each. Through a decoder and an encoder
// they were a seventh of what a request allocates.
func canonicalFlat(to []byte, params json.RawMessage) (form []byte, ok bool) {
	var names [16][]byte
	var values [16][]byte // without quotes
	n, flat := 0, true
	isObject := members(params, func(name []byte, value json.RawMessage) {
		quoted := value[0] == '"'
		switch {
		case !flat:
			return
		case string(value) == "null":
			flat = !slices.ContainsFunc(names[:n], func(other []byte) bool { return bytes.Equal(other, name) }) // the last of a name counts
			return
		case quoted:
			value = value[1 : len(value)-1]
		}
		flat = (quoted || value[0] != '{' && value[0] != '[') && isPlain(value) && isPlain(name) && n < len(names)
		if !flat {
			return
		}
		i := n
		for ; i > 0 && bytes.Compare(names[i-1], name) >= 0; i-- {
			flat = flat && !bytes.Equal(names[i-1], name)
			names[i], values[i] = names[i-1], values[i-1]
		}
		names[i], values[i] = name, value
		n++
	})
	if !isObject || !flat {
		return nil, false
	}
	form = append(to, '{') //nolint:gocritic // it is the caller's, and grows
	for i := range n {
		if i > 0 {
			form = append(form, ',')
		}
		form = append(append(append(form, '"'), names[i]...), `":"`...)
		form = append(append(form, values[i]...), '"')
	}
	return append(form, '}'), true
}

// isPlain reports whether a text is the same inside of JSON's quotes.
func isPlain(text []byte) bool {
	for _, c := range text {
		if c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
