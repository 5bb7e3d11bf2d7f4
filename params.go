package fetchworker

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Params makes the parameters of a request from a value that is a JSON object:
// a map or a struct. What is none is refused by Submit and Fetch.
func Params(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage(err.Error()) // no JSON: refused, with these words
	}
	return raw
}

// ParamsFrom makes the parameters of a request from "name=value" texts, as a
// command line has them. Every value is passed as text, which parameters of
// all types accept, but for one that begins with { or [ and is JSON: it is
// passed as that.
func ParamsFrom(pairs []string) (json.RawMessage, error) {
	params := make(map[string]json.RawMessage, len(pairs))
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, &RequestError{"params", fmt.Sprintf("name=value, not %q", pair)}
		}
		if _, twice := params[name]; twice {
			return nil, &RequestError{"params", fmt.Sprintf("%s only once", name)}
		}
		if (strings.HasPrefix(value, "{") || strings.HasPrefix(value, "[")) && json.Valid([]byte(value)) {
			params[name] = json.RawMessage(value)
			continue
		}
		text, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("params: %s: %w", name, err)
		}
		params[name] = text
	}
	raw, err := json.Marshal(params)
	if err != nil {
		return nil, fmt.Errorf("params: %w", err)
	}
	return raw, nil
}
