package sheet

import (
	"encoding/json"
	"maps"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"fetchworker/internal/providers/scan"
)

// maxNext bounds the parameters of a next page, in bytes: they are stored with
// the answer.
const maxNext = 8 << 10

// Next returns the parameters that ask for the page after this one, nil when
// there is none or the body does not tell.
func (p *API) Next(call *Call, body []byte) json.RawMessage {
	paging := call.Operation.Paging
	if paging == nil {
		return nil
	}
	var params any
	switch paging.Kind {
	case PageNext:
		params = p.nextByURL(call, paging, body)
	case PageNumber, PageOffset:
		params = nextByNumber(call, paging, body)
	}
	if params == nil {
		return nil
	}
	next, err := json.Marshal(params)
	if err != nil {
		return nil
	}
	if len(next) > maxNext {
		return nil
	}
	return next
}

func nextByNumber(call *Call, paging *Paging, body []byte) any {
	number := func(param string, otherwise int64) int64 {
		if n, err := strconv.ParseInt(call.values[param], 10, 64); err == nil {
			return n
		}
		return otherwise
	}
	size, at := number(paging.Size, paging.Each), number(paging.Param, paging.First)
	if size < 1 {
		return nil
	}
	step, seen := int64(1), (at-paging.First+1)*size
	if paging.Kind == PageOffset {
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
	values := maps.Clone(call.values)
	values[paging.Param] = strconv.FormatInt(at+step, 10)
	return values
}

var schemeAndHost = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*://[^/?#]*`)

// nextByURL takes path and query of the URL in the body and nothing else: its
// host is whatever the body says (one API has written ":443:443"), and the
// key goes to our base URL only.
func (p *API) nextByURL(call *Call, paging *Paging, body []byte) any {
	value, ok := scan.Lookup(body, paging.Next)
	if len(value) > 2*maxNext { // not worth taking apart
		return nil
	}
	link := scan.Text(value)
	if !ok || link == "" || link == "null" {
		return nil
	}
	path, rawQuery, _ := strings.Cut(schemeAndHost.ReplaceAllString(link, ""), "?")
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil
	}
	path = strings.TrimPrefix(path, p.base.EscapedPath())

	params := map[string]string{}
	for name := range query {
		if !p.isKeyParam(name) {
			params[name] = query.Get(name)
		}
	}
	if call.values == nil {
		return map[string]any{"path": path, "query": params}
	}
	return p.nextParams(call, paging, path, params)
}

// nextParams turns path and query of the next page into parameters of the
// operation. Where they do not fit its template, only the cursor is taken.
func (p *API) nextParams(call *Call, paging *Paging, path string, query map[string]string) any {
	op := call.Operation
	values, fits := matchTemplate(op.Path, path)
	for name, value := range query {
		param := op.byWire(name)
		switch {
		case param != nil:
			values[param.Name] = value
		case op.Query[name] == "" && p.Query[name] == "":
			fits = false
		}
	}
	if fits {
		return values
	}
	cursor := query[paging.Param]
	if cursor == "" {
		return nil
	}
	values = maps.Clone(call.values)
	values[paging.Param] = cursor
	return values
}

// byWire is the parameter of that name in the query.
func (op *Operation) byWire(name string) *Param {
	for i := range op.Params {
		if op.Params[i].wire() == name && !strings.Contains(op.Path, "{"+op.Params[i].Name+"}") {
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
			if parts[i] != slot {
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
