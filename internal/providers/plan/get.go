package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"fetchworker/internal/providers/redact"
	"fetchworker/internal/providers/sheet"
)

// Percent-encoded dots, slashes, backslashes, control characters and percent
// signs: whatever decodes a path twice must find nothing.
var hiddenPath = regexp.MustCompile(`(?i)%(2e|2f|5c|25|[01][0-9a-f]|7f)`)

// planGet plans the operation get: {"path":"/…","query":{…}}. The agent says
// path and query only; host, scheme and key stay the provider's.
func (p *API) planGet(op *sheet.Operation, given map[string]json.RawMessage) (*Call, error) {
	for name, raw := range given {
		if string(raw) == "null" {
			delete(given, name)
		}
	}
	var path string
	if err := json.Unmarshal(given["path"], &path); err != nil {
		return nil, &sheet.ParamError{Param: "path", Expected: `a path such as "/quote/AAPL" (it is required)`, Got: string(given["path"])}
	}
	escaped, wrong := checkPath(path)
	if wrong != "" {
		return nil, &sheet.ParamError{Param: "path", Expected: wrong, Got: path}
	}
	query, err := p.getQuery(given["query"])
	if err != nil {
		return nil, err
	}
	for name := range given {
		if name != "path" && name != "query" {
			return nil, &sheet.ParamError{Param: redact.Shorten(name, 40), Expected: "only path and query"}
		}
	}

	call := &Call{Operation: op, get: &getCall{path, maps.Clone(query)}, Query: query, Auth: p.Auth, Path: p.base.EscapedPath() + escaped}
	if strings.HasPrefix(escaped, p.base.EscapedPath()+"/") { // written with the base's path, as the API's manual does
		call.Path = escaped
	}
	for _, special := range p.GetPaths {
		if !strings.HasPrefix(path, special.Prefix) {
			continue
		}
		if special.Auth != nil {
			call.Auth = special.Auth
		}
		if special.FromRoot {
			call.Path = escaped
		}
		break
	}
	call.Group, call.Cost = p.countsAs(call.Path)
	p.finish(call)
	return call, nil
}

// checkPath returns the path escaped for the wire, or what a path must be.
func checkPath(path string) (escaped, expected string) {
	switch {
	case !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//"):
		return "", "a path below the provider's base URL, starting with one slash"
	case strings.ContainsAny(path, `?#\@`) || strings.Contains(path, "://"):
		return "", `a path only, without "?", "#", "@", "\" or "://" (parameters go into query)`
	case strings.Contains(path, "..") || slices.Contains(strings.Split(path, "/"), "."):
		return "", `a path without ".." or "."`
	case strings.ContainsFunc(path, unicode.IsControl):
		return "", "a path without control characters"
	case hiddenPath.MatchString(path):
		return "", "a path without percent-encoded dots, slashes, percent signs or control characters"
	}
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return "", "a path with valid percent-encoding"
	}
	u := url.URL{Path: decoded, RawPath: path}
	return u.EscapedPath(), ""
}

// getQuery reads the query of get: texts, numbers and booleans by name.
func (p *API) getQuery(raw json.RawMessage) (url.Values, error) {
	query := url.Values{}
	if len(raw) == 0 || string(raw) == "null" {
		return query, nil
	}
	var values map[string]any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&values); err != nil {
		return nil, &sheet.ParamError{Param: "query", Expected: "a JSON object of texts, numbers and booleans", Got: string(raw)}
	}
	var twice *sheet.ParamError
	if _, err := members(raw); errors.As(err, &twice) {
		twice.Param = "query." + twice.Param
		return nil, twice
	}
	for name, value := range values {
		if value == nil {
			continue // the same as leaving it out
		}
		texts, ok := scalars(value)
		text := strings.Join(texts, "")
		switch {
		case !ok:
			return nil, &sheet.ParamError{Param: "query." + redact.Shorten(name, 40), Expected: "a text, a number or a boolean, or a list of these"}
		case name == "" || strings.ContainsFunc(name+text, unicode.IsControl):
			return nil, &sheet.ParamError{Param: "query." + redact.Shorten(name, 40), Expected: "a name, and no control characters"}
		case p.isKeyParam(name):
			return nil, &sheet.ParamError{Param: "query." + redact.Shorten(name, 40), Expected: "no key: the worker sends its own"}
		}
		query[name] = texts
	}
	return query, nil
}

// scalars are the texts of one value or of a list of them.
func scalars(value any) ([]string, bool) {
	list, isList := value.([]any)
	if !isList {
		list = []any{value}
	}
	texts := make([]string, len(list))
	for i, item := range list {
		text, ok := sheet.Scalar(item)
		if !ok {
			return nil, false
		}
		texts[i] = text
	}
	return texts, len(texts) > 0
}

// isKeyParam reports whether the API takes a key in this query parameter.
func (p *API) isKeyParam(name string) bool {
	is := func(key string) bool { return strings.EqualFold(key, name) }
	carries := func(a sheet.Auth) bool { return is(a.InQuery()) && name != "" }
	for _, path := range p.GetPaths {
		if slices.ContainsFunc(path.Auth, carries) {
			return true
		}
	}
	return slices.ContainsFunc(p.Auth, carries) || slices.ContainsFunc(p.KeyParams, is) || sheet.SecretPattern.MatchString(p.Query[name])
}
