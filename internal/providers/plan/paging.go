package plan

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"fetchworker/internal/providers/scan"
	"fetchworker/internal/providers/sheet"
)

// maxNext bounds the parameters of a next page, in bytes: they are stored with
// the answer.
const maxNext = 8 << 10

// Next returns the parameters that ask for the page after this one, nil when
// there is none or the body does not tell. They can be asked as they are: what
// Plan would refuse is left out. A page that names itself as the next is a
// loop, and has no next either.
func (p *API) Next(call *Call, header http.Header, body []byte) (next json.RawMessage, loop bool) {
	paging := call.Operation.Paging
	if paging == nil {
		return nil, false
	}
	var candidates []any
	switch paging.Kind {
	case sheet.PageNext:
		value, _ := scan.Lookup(body, paging.Next)
		if len(value) <= 2*maxNext { // more is not worth taking apart
			candidates = p.nextByURL(call, paging, scan.Text(value))
		}
	case sheet.PageLink:
		candidates = p.nextByURL(call, paging, linkOf(header))
	case sheet.PageToken:
		candidates = nextByToken(call, paging, body)
	case sheet.PageNumber, sheet.PageOffset:
		candidates = nextByNumber(call, paging, body)
	}
	for _, params := range candidates {
		next, err := json.Marshal(params)
		if err != nil || len(next) > maxNext {
			continue
		}
		planned, err := p.Plan(call.Operation.Name, next)
		switch {
		case err != nil:
		case planned.Key == call.Key:
			return nil, true
		default:
			return next, false
		}
	}
	return nil, false
}

func nextByNumber(call *Call, paging *sheet.Paging, body []byte) []any {
	number := func(param string, otherwise int64) int64 {
		if n, err := strconv.ParseInt(call.value(param), 10, 64); err == nil {
			return n
		}
		return otherwise
	}
	size, at := number(paging.Size, paging.Each), number(paging.Param, paging.First)
	if size < 1 {
		return nil
	}
	step, seen := int64(1), (at-paging.First+1)*size
	if paging.Kind == sheet.PageOffset {
		step, seen = size, at+size
	}
	if paging.Total == "" {
		array, _ := scan.Lookup(body, paging.Items)
		if scan.Items(array) < size {
			return nil
		}
	} else {
		value, _ := scan.Lookup(body, paging.Total)
		if total, err := strconv.ParseInt(scan.Text(value), 10, 64); err != nil || seen >= total {
			return nil
		}
	}
	return []any{call.with(paging.Param, strconv.FormatInt(at+step, 10))}
}

// nextByToken sends a value of the body back; none, null and an empty one are
// the end.
func nextByToken(call *Call, paging *sheet.Paging, body []byte) []any {
	value, ok := scan.Lookup(body, paging.Next)
	token := scan.Text(value)
	switch {
	case !ok, token == "", token == "null", token == "false", len(value) > maxNext, value[0] == '{', value[0] == '[':
		return nil
	}
	return []any{call.with(paging.Param, token)}
}

// linkOf is the target of the link with rel="next" (RFC 8288).
func linkOf(header http.Header) string {
	for _, line := range header.Values("Link") {
		for line != "" {
			_, rest, found := strings.Cut(line, "<")
			target, rest, closed := strings.Cut(rest, ">")
			if !found || !closed {
				break
			}
			params, more, _ := strings.Cut(rest, ",<")
			if params == rest { // with a space after the comma
				params, more, _ = strings.Cut(rest, ", <")
			}
			if isNext.MatchString(params) {
				return target
			}
			line = ""
			if more != "" {
				line = "<" + more
			}
		}
	}
	return ""
}

var isNext = regexp.MustCompile(`(?i);\s*rel\s*=\s*("[^"]*\bnext\b[^"]*"|next\b)`)

// value is a parameter of the call, or of get's query.
func (c *Call) value(name string) string {
	if c.get != nil {
		return c.get.query.Get(name)
	}
	return c.values[name]
}

// with are the parameters of the call but for one.
func (c *Call) with(name, value string) any {
	if c.get != nil {
		query := maps.Clone(c.get.query)
		query[name] = []string{value}
		return getParams(c.get.path, query)
	}
	values := maps.Clone(c.values)
	values[name] = value
	return values
}

// getParams are parameters of get: a name that is there twice keeps both.
func getParams(path string, query url.Values) any {
	texts := map[string]any{}
	for name, values := range query {
		texts[name] = values
		if len(values) == 1 {
			texts[name] = values[0]
		}
	}
	return map[string]any{"path": path, "query": texts}
}

var schemeAndHost = regexp.MustCompile(`^([a-zA-Z][a-zA-Z0-9+.-]*:)?//[^/?#]*`)

// nextByURL takes path and query of the URL in the body and nothing else: its
// host is whatever the body says (one API has written ":443:443"), and the
// key goes to our base URL only.
func (p *API) nextByURL(call *Call, paging *sheet.Paging, link string) []any {
	if link == "" || link == "null" || len(link) > 2*maxNext {
		return nil
	}
	link, _, _ = strings.Cut(schemeAndHost.ReplaceAllString(link, ""), "#")
	path, rawQuery, _ := strings.Cut(link, "?")
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil
	}
	for name := range query {
		if p.isKeyParam(name) {
			delete(query, name)
		}
	}
	if call.get != nil {
		if path == "" { // the same path, another query
			path = call.get.path
		}
		return []any{getParams(path, query)}
	}
	if base := p.base.EscapedPath(); strings.HasPrefix(path, base+"/") {
		path = strings.TrimPrefix(path, base)
	}
	return p.nextParams(call, paging, path, query)
}

// nextParams turns path and query of the next page into parameters of the
// operation. Where they do not fit its template, only the cursor is taken.
func (p *API) nextParams(call *Call, paging *sheet.Paging, path string, query url.Values) []any {
	op := call.Operation
	var candidates []any
	values, fits := matchTemplate(op.Path, path)
	for name, given := range query {
		param := byWire(op, name)
		switch {
		case len(given) > 1:
			fits = false
		case param != nil:
			values[param.Name] = given[0]
		case op.Query[name] == "" && p.Query[name] == "":
			fits = false
		}
	}
	if fits {
		candidates = append(candidates, values)
	}
	name := paging.Param
	if param := op.Param(name); param != nil {
		name = param.WireName()
	}
	if cursor := query.Get(name); cursor != "" && name != "" {
		candidates = append(candidates, call.with(paging.Param, cursor))
	}
	return candidates
}

// byWire is the parameter of that name in the query.
func byWire(op *sheet.Operation, name string) *sheet.Param {
	for i := range op.Params {
		if op.Params[i].WireName() == name && !op.InPath(op.Params[i].Name) {
			return &op.Params[i]
		}
	}
	return nil
}

// matchTemplate reads the parameters out of a path.
func matchTemplate(template, path string) (map[string]string, bool) {
	values := map[string]string{}
	slots, parts := strings.Split(template, "/"), strings.Split(path, "/")
	if len(slots) != len(parts) {
		return values, false
	}
	for i, slot := range slots {
		name, isSlot := strings.CutPrefix(slot, "{")
		value, err := url.PathUnescape(parts[i])
		if !isSlot {
			if parts[i] != slot && parts[i] != escapeLiteral(slot) {
				return values, false
			}
			continue
		}
		if err != nil {
			return values, false
		}
		values[strings.TrimSuffix(name, "}")] = value
	}
	return values, true
}
