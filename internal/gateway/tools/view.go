package tools

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// query is what of a body is asked for.
type query struct {
	pointer  string
	from, to int // rows; to -1: to the end
	rows     bool
	search   string
}

var errRows = errors.New(`rows are such as "500-520", "500-" or "500", counted from 0`)

func newQuery(pointer, rows, search string) (query, error) {
	q := query{pointer: pointer, to: -1, search: strings.ToLower(search)}
	if pointer != "" && pointer[0] != '/' {
		q.pointer = "/" + pointer
	}
	if rows = strings.TrimSpace(rows); rows == "" {
		return q, nil
	}
	first, last, span := strings.Cut(rows, "-")
	from, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || from < 0 {
		return q, errRows
	}
	q.rows, q.from, q.to = true, from, from
	if span {
		q.to = -1
		if last = strings.TrimSpace(last); last != "" {
			if q.to, err = strconv.Atoi(last); err != nil || q.to < from {
				return q, errRows
			}
		}
	}
	return q, nil
}

// view is what is shown of a body.
type view struct {
	Pointer string          `json:"pointer,omitempty"`
	Rows    string          `json:"rows,omitempty"` // those that are shown
	Of      int             `json:"of,omitempty"`   // that there are
	Matches *int            `json:"matches,omitempty"`
	Header  string          `json:"header,omitempty"` // a table's first line
	Body    json.RawMessage `json:"body,omitempty"`
	LeftOut string          `json:"left_out,omitempty"` // what is not shown, and how to read it
}

// look shows what a query asks for of a body, in so many bytes at most.
func look(body []byte, contentType string, q query, room int) (*view, error) {
	switch {
	case len(body) == 0:
		return &view{}, nil
	case json.Valid(body):
		return lookJSON(body, q, room)
	case !utf8.Valid(body):
		return &view{LeftOut: "the body is not text: it can be downloaded over HTTP, not shown"}, nil
	case q.pointer != "":
		return nil, fmt.Errorf("the body is no JSON, so there is nothing at %s: read it by rows or search", q.pointer)
	}
	v := &view{}
	all := linesOf(string(body))
	if strings.Contains(contentType, "csv") && len(all) > 1 && (q.from > 0 || q.search != "") {
		v.Header = all[0]
	}
	return v, v.fill(quoted(all), q, room)
}

// lookJSON shows a part of JSON.
func lookJSON(body []byte, q query, room int) (*view, error) {
	target, err := at(body, q.pointer)
	if err != nil {
		return nil, err
	}
	v := &view{Pointer: q.pointer}
	switch target[0] {
	case '[':
		all, err := elements(target)
		if err != nil {
			return nil, err
		}
		return v, v.fill(all, q, room)
	case '{':
		if q.search != "" && !q.rows {
			return v, v.find(target, q, room)
		}
		if !q.rows {
			if cost(target) <= room {
				v.Body = target
				return v, nil
			}
			v.Body = outline(target, q.pointer, room)
			v.LeftOut = "large members are only named: read_answer with their pointer shows them"
			return v, nil
		}
		lists := arrays(target, q.pointer)
		if len(lists) != 1 {
			return nil, fmt.Errorf("what is at %s is an object and has no rows; arrays in it: %s", orRoot(q.pointer), strings.Join(lists, ", "))
		}
		q.pointer = lists[0]
		return lookJSON(body, q, room)
	case '"':
		var text string
		if err := json.Unmarshal(target, &text); err != nil {
			return nil, fmt.Errorf("text: %w", err)
		}
		if cost(target) <= room && !q.rows && q.search == "" {
			v.Body = target
			return v, nil
		}
		return v, v.fill(quoted(linesOf(text)), q, room)
	default:
		v.Body = target
		return v, nil
	}
}

// fill shows rows, as many as there is room for.
func (v *view) fill(all []json.RawMessage, q query, room int) error {
	v.Of = len(all)
	if q.rows && q.from >= len(all) {
		return fmt.Errorf("there are %d rows, counted from 0", len(all))
	}
	to := len(all) - 1
	if q.to >= 0 {
		to = min(q.to, to)
	}
	var shown []json.RawMessage
	last, more := q.from-1, 0
	for i := q.from; i <= to; i++ {
		if q.search != "" && !strings.Contains(strings.ToLower(string(all[i])), q.search) {
			continue
		}
		row := q.row(i, all[i])
		switch fits := cost(row)+2 <= room; {
		case !fits && more == 0 && len(shown) == 0: // one alone is too large
			row = q.row(i, outline(all[i], q.pointer+"/"+strconv.Itoa(i), room))
			v.LeftOut = fmt.Sprintf("row %d is shown in part: read_answer with pointer %s/%d shows the rest", i, q.pointer, i)
			shown, last, room = append(shown, row), i, 0
			continue
		case !fits || more > 0:
			more++
			continue
		}
		room -= cost(row) + 2
		shown, last = append(shown, row), i
	}
	if q.search != "" {
		n := len(shown) + more
		v.Matches = &n
	} else if len(shown) > 0 {
		v.Rows = fmt.Sprintf("%d-%d", q.from, last)
	}
	if more > 0 {
		also := fmt.Sprintf("%d rows from %d on are left out", more, last+1)
		if q.search != "" {
			also = fmt.Sprintf("%d matches from row %d on are left out", more, last+1)
		}
		v.LeftOut = strings.TrimPrefix(v.LeftOut+"; ", "; ") + fmt.Sprintf(`%s: read_answer with rows "%d-%d" shows them`, also, last+1, to)
		if v.Pointer != "" {
			v.LeftOut += " (same pointer)"
		}
	}
	v.Body = list(shown)
	return nil
}

// row is a row as it is shown: of a search with its number.
func (q query) row(i int, value json.RawMessage) json.RawMessage {
	if q.search == "" {
		return value
	}
	return fmt.Appendf(nil, `{"row":%d,"value":%s}`, i, value)
}

func list(rows []json.RawMessage) json.RawMessage {
	return slices.Concat([]byte("["), bytes.Join(asBytes(rows), []byte(",")), []byte("]"))
}

func asBytes(rows []json.RawMessage) [][]byte {
	all := make([][]byte, len(rows))
	for i, r := range rows {
		all[i] = r
	}
	return all
}

// found values of an object.
type match struct {
	Pointer string          `json:"pointer"`
	Value   json.RawMessage `json:"value"`
}

// find shows the names and values in an object that hold a text.
func (v *view) find(target []byte, q query, room int) error {
	var hits []match
	if err := walk(target, q.pointer, func(pointer, name string, value json.RawMessage) bool {
		scalar := value[0] != '{' && value[0] != '['
		if strings.Contains(strings.ToLower(name), q.search) || scalar && strings.Contains(strings.ToLower(string(value)), q.search) {
			hits = append(hits, match{pointer, value})
			return false
		}
		return !scalar
	}); err != nil {
		return err
	}
	shown := []json.RawMessage{}
	for _, h := range hits {
		if cost(h.Value) > room/4 {
			h.Value = outline(h.Value, h.Pointer, room/4)
			v.LeftOut = "large values are only named: read_answer with their pointer shows them"
		}
		text, err := json.Marshal(h)
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if cost(text) > room {
			v.LeftOut = fmt.Sprintf("%d more matches are left out: search with a longer text, or with a pointer", len(hits)-len(shown))
			break
		}
		room -= cost(text) + 2
		shown = append(shown, text)
	}
	n := len(hits)
	v.Matches, v.Body = &n, list(shown)
	return nil
}

func orRoot(pointer string) string {
	if pointer == "" {
		return "the root"
	}
	return pointer
}

// lineBytes is the longest row of a text: what has longer lines is broken, so
// that all of it can be read.
const lineBytes = 2000

func linesOf(text string) []string {
	var all []string
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		line = strings.TrimSuffix(line, "\r")
		for len(line) > lineBytes {
			cut := lineBytes
			for !utf8.RuneStart(line[cut]) {
				cut--
			}
			all, line = append(all, line[:cut]), line[cut:]
		}
		all = append(all, line)
	}
	return all
}

func quoted(lines []string) []json.RawMessage {
	all := make([]json.RawMessage, len(lines))
	for i, line := range lines {
		all[i], _ = json.Marshal(line) // a text
	}
	return all
}
