package sheet

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"fetchworker/internal/providers/redact"
)

// opGet is the operation every provider has: any path of its API.
const opGet = "get"

// Call is one request that has been checked: it can be made, and made again.
// It holds no key.
type Call struct {
	Operation *Operation

	// Key is the canonical cache key of provider, operation and parameters:
	// <provider>.<operation>.<hash>, valid as a NATS KV key. Calls that ask
	// for the same thing have the same key, however their parameters were
	// written or ordered; the two generations of an API have different ones.
	Key string

	Path  string     // escaped, below the host
	Query url.Values // without the key
	Auth  Auth       // how the key is to be sent

	values map[string]string // parameters by name, defaults included; nil for get
}

// Target is the path and query the call asks for, without the key.
func (c *Call) Target() string {
	if len(c.Query) == 0 {
		return c.Path
	}
	return c.Path + "?" + c.Query.Encode()
}

// Plan checks an operation and its parameters and returns the call to make.
// The error is a *ParamError, or wraps ErrUnknownOperation. Nothing is spent.
func (p *API) Plan(operation string, params json.RawMessage) (*Call, error) {
	op, ok := p.Operations[operation]
	if !ok {
		return nil, fmt.Errorf("%w: %s has no %q, it has %s", ErrUnknownOperation,
			p.Name, redact.Shorten(operation, 40), strings.Join(slices.Sorted(maps.Keys(p.Operations)), ", "))
	}
	given := map[string]json.RawMessage{}
	if params = bytes.TrimSpace(params); len(params) > 0 && string(params) != "null" {
		if err := json.Unmarshal(params, &given); err != nil {
			return nil, &ParamError{Expected: "a JSON object", Got: string(params)}
		}
	}
	if operation == opGet {
		return p.planGet(op, given)
	}

	values, err := p.values(op, given)
	if err != nil {
		return nil, err
	}
	call := &Call{Operation: op, Auth: p.Auth, values: values, Query: url.Values{}}
	if op.Auth != nil {
		call.Auth = *op.Auth
	}
	path := op.Path
	for _, param := range op.Params {
		value, ok := values[param.Name]
		if !ok {
			continue
		}
		if slot := "{" + param.Name + "}"; strings.Contains(op.Path, slot) {
			path = strings.ReplaceAll(path, slot, escapeSegment(value))
		} else {
			call.Query.Set(param.wire(), value)
		}
	}
	call.Path = p.base.EscapedPath() + path
	p.finish(call)
	return call, nil
}

// values are the parameters of a request by name, checked and canonical, with
// the defaults of those it does not give.
func (p *API) values(op *Operation, given map[string]json.RawMessage) (map[string]string, error) {
	values := map[string]string{}
	for _, param := range op.Params {
		raw, ok := given[param.Name]
		delete(given, param.Name)
		switch {
		case ok:
			text, err := param.check(raw, p.patterns[param.Pattern])
			if err != nil {
				return nil, err
			}
			if strings.Contains(op.Path, "{"+param.Name+"}") && strings.Trim(text, ".") == "" {
				return nil, &ParamError{Param: param.Name, Expected: "more than dots", Got: text}
			}
			values[param.Name] = text
		case param.Required:
			return nil, &ParamError{Param: param.Name, Expected: param.expected() + " (it is required)"}
		case param.Default != "":
			values[param.Name] = param.Default
		}
	}
	for name := range given {
		known := make([]string, len(op.Params))
		for i, param := range op.Params {
			known[i] = param.Name
		}
		return nil, &ParamError{Param: redact.Shorten(name, 40), Expected: fmt.Sprintf("only parameters that %s has: %s", op.Name, strings.Join(known, ", "))}
	}
	isGiven := func(name string) bool { return values[name] != "" }
	if len(op.AnyOf) > 0 && !slices.ContainsFunc(op.AnyOf, isGiven) {
		return nil, &ParamError{Expected: "at least one of " + strings.Join(op.AnyOf, ", ")}
	}
	for _, pair := range op.Exclusive {
		if all := slices.DeleteFunc(slices.Clone(pair), func(name string) bool { return !isGiven(name) }); len(all) > 1 {
			return nil, &ParamError{Param: all[1], Expected: fmt.Sprintf("nothing when %s is given", all[0])}
		}
	}
	return values, nil
}

// finish adds what every call of the operation carries, and the key.
func (p *API) finish(call *Call) {
	for _, fixed := range []map[string]string{call.Operation.Query, p.Query} {
		for name, value := range fixed {
			if !call.Query.Has(name) {
				call.Query.Set(name, value)
			}
		}
	}
	sum := sha256.Sum256([]byte(call.Target()))
	call.Key = p.Name + "." + call.Operation.Name + "." + hex.EncodeToString(sum[:])
}

func (p *Param) wire() string {
	if p.Wire != "" {
		return p.Wire
	}
	return p.Name
}

// escapeSegment escapes a value for one path segment. Commas stay: lists of
// symbols are paths in some APIs, and a comma is legal there.
func escapeSegment(value string) string {
	return strings.ReplaceAll(url.PathEscape(value), "%2C", ",")
}
