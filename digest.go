package fetchworker

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// RequestDigest is what an answer tells of the request it answers, the
// Fetch-Request-Digest header: the first 16 hex digits of the SHA-256 of the
// operation, a newline, and the parameters in canonical form. That form is a
// JSON object with its names sorted, no white space and no null, in which
// numbers and booleans are texts as they were written: what a parameter
// accepts either way asks for the same thing.
func RequestDigest(operation string, params json.RawMessage) string {
	sum := sha256.Sum256(append([]byte(operation+"\n"), canonical(params)...))
	return hex.EncodeToString(sum[:8])
}

// canonical is the canonical form of parameters. What is no JSON object is
// its own.
func canonical(params json.RawMessage) []byte {
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
