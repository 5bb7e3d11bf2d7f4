package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"fetchworker/internal/nearest"
	"fetchworker/internal/providers/redact"
	"fetchworker/internal/providers/scan"
	"fetchworker/internal/providers/sheet"
)

// Call is one request that has been checked: it can be made, and made again.
// It holds no key.
type Call struct {
	Operation *sheet.Operation

	// Key is the canonical cache key of provider, operation and parameters:
	// <provider>.<operation>.<hash>, valid as a NATS KV key. Calls that ask
	// for the same thing have the same key, however their parameters were
	// written or ordered; the two generations of an API have different ones.
	Key string

	Path     string       // escaped, below the host
	Query    url.Values   // without the key
	RawQuery string       // Query as it is sent
	Auth     []sheet.Auth // how the keys are to be sent

	Group string // of operations, whose limits it counts in besides the provider's; empty: none
	Cost  int    // how many calls it counts as

	Body        []byte // of a POST; nil for a GET
	ContentType string // of the body

	values map[string]string // parameters by name, defaults included; nil for get
	get    *getCall          // what get was asked for; nil for any other operation
}

// getCall is what an agent gave to get.
type getCall struct {
	path  string
	query url.Values
}

// Target is the path and query the call asks for, without the key.
func (c *Call) Target() string {
	if c.RawQuery == "" {
		return c.Path
	}
	return c.Path + "?" + c.RawQuery
}

// Plan checks an operation and its parameters and returns the call to make.
// The error is a *ParamError, or wraps ErrUnknownOperation. Nothing is spent.
func (p *API) Plan(operation string, params json.RawMessage) (*Call, error) {
	op, ok := p.Operations[operation]
	if !ok {
		operation = redact.Shorten(operation, 40)
		known := slices.Collect(maps.Keys(p.Operations))
		return nil, fmt.Errorf("%w: %s has no %q, %sit has %s", ErrUnknownOperation,
			p.Name, operation, meant(operation, known), strings.Join(nearest.Sorted(operation, known), ", "))
	}
	given, err := members(params)
	if err != nil {
		return nil, err
	}
	if operation == sheet.Get {
		return p.planGet(op, given)
	}

	values, err := p.values(op, given)
	if err != nil {
		return nil, err
	}
	call := &Call{Operation: op, Group: op.LimitGroup(), Cost: op.Units(), Auth: op.Auths(&p.Spec), values: values, Query: url.Values{}}
	for i := range op.Params {
		param := &op.Params[i]
		if value, ok := values[param.Name]; ok && !op.InPath(param.Name) && param.At == "" {
			call.Query[param.WireName()] = param.Sent(value)
		}
	}
	call.Path = p.ready[op].path.fill(values)
	if op.Method == http.MethodPost {
		if call.Body, call.ContentType, err = op.Content(values); err != nil {
			return nil, fmt.Errorf("body of %s: %w", op.Name, err)
		}
	}
	p.finish(call)
	return call, nil
}

// members are those of the object that parameters are, none of null. They are
// cut out and not decoded: through encoding/json they were a tenth of what a
// request allocates.
func members(params json.RawMessage) (map[string]json.RawMessage, error) {
	given := map[string]json.RawMessage{}
	params = bytes.TrimSpace(params)
	if len(params) == 0 || string(params) == "null" {
		return given, nil
	}
	if params[0] != '{' || !scan.Valid(params) {
		return nil, &sheet.ParamError{Expected: "a JSON object", Got: string(params)}
	}
	var twice error
	scan.Members(params, func(name string, value []byte) {
		if _, again := given[name]; again && twice == nil { // which of them is meant nobody can tell
			twice = &sheet.ParamError{Param: redact.Shorten(name, 40), Expected: "one value, and it is given more than once"}
		}
		given[name] = value
	})
	if twice != nil {
		return nil, twice
	}
	return given, nil
}

// values are the parameters of a request by name, checked and canonical, with
// the defaults of those it does not give.
func (p *API) values(op *sheet.Operation, given map[string]json.RawMessage) (map[string]string, error) {
	values := map[string]string{}
	for name, raw := range given {
		if string(raw) == "null" { // the same as leaving it out
			delete(given, name)
		}
	}
	if err := known(op, given); err != nil { // first, as a mistyped name looks like a missing one as well
		return nil, err
	}
	for i := range op.Params {
		param := &op.Params[i]
		raw, ok := given[param.Name]
		switch {
		case ok:
			text, err := param.Value(raw, p.patterns[param.Pattern])
			if err != nil {
				return nil, err
			}
			if op.InPath(param.Name) && climbs(text) {
				return nil, &sheet.ParamError{Param: param.Name, Expected: `a value without "/", "\", "%", "?" and "#", and more than dots: it is a part of the path`, Got: text}
			}
			values[param.Name] = text
		case param.Required:
			return nil, &sheet.ParamError{Param: param.Name, Expected: param.Expects() + " (it is required)"}
		case param.Default != "":
			values[param.Name] = param.Default
		}
	}
	isGiven := func(name string) bool { return values[name] != "" }
	if len(op.AnyOf) > 0 && !slices.ContainsFunc(op.AnyOf, isGiven) {
		return nil, &sheet.ParamError{Expected: "at least one of " + strings.Join(op.AnyOf, ", ")}
	}
	for _, pair := range op.Exclusive {
		if all := slices.DeleteFunc(slices.Clone(pair), func(name string) bool { return !isGiven(name) }); len(all) > 1 {
			return nil, &sheet.ParamError{Param: all[1], Expected: fmt.Sprintf("nothing when %s is given", all[0])}
		}
	}
	return values, inOrder(op, values)
}

// known refuses a parameter that the operation does not have.
func known(op *sheet.Operation, given map[string]json.RawMessage) error {
	strange := false
	for name := range given {
		strange = strange || op.Param(name) == nil
	}
	if !strange {
		return nil // nearly always, and the names in their order cost four allocations
	}
	names := make([]string, len(op.Params))
	for i, param := range op.Params {
		names[i] = param.Name
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(names, name) {
			name = redact.Shorten(name, 40)
			return &sheet.ParamError{Param: name, Expected: fmt.Sprintf("only parameters that %s has (%s%s)", op.Name, meant(name, names), strings.Join(nearest.Sorted(name, names), ", "))}
		}
	}
	return nil
}

func meant(written string, words []string) string {
	if word := nearest.Of(written, words); word != "" {
		return "did you mean " + word + "? "
	}
	return ""
}

// climbs reports whether a value could be more than one segment of a path, or
// none.
func climbs(text string) bool {
	return strings.ContainsAny(text, `/\%?#`) || strings.Trim(text, ".") == ""
}

// finish adds what every call of the operation carries, and the key.
func (p *API) finish(call *Call) {
	for _, fixed := range p.ready[call.Operation].query {
		if !call.Query.Has(fixed.Name) {
			call.Query.Set(fixed.Name, fixed.Text)
		}
	}
	call.RawQuery = call.Query.Encode()
	var room, keyRoom [256]byte // for nearly all, on the stack
	target := append(room[:0], call.Path...)
	if call.RawQuery != "" {
		target = append(append(target, '?'), call.RawQuery...)
	}
	if call.Body != nil {
		target = append(append(target, '\n'), call.Body...)
	}
	sum := sha256.Sum256(target)
	key := append(append(append(append(keyRoom[:0], p.Name...), '.'), call.Operation.Name...), '.')
	call.Key = string(hex.AppendEncode(key, sum[:]))
}
