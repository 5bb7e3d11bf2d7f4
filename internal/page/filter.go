package page

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/wire"
)

// chosen is a filter as the address has it.
type chosen struct {
	browse.Filter
	Since, Until string // as written
	Before       uint64 // of a list: older than this sequence
}

// filterOf reads a filter from an address or a form.
func filterOf(q url.Values, now time.Time) (chosen, error) {
	text := func(name string) string { return strings.TrimSpace(q.Get(name)) }
	token := func(name string) string { return strings.ToLower(text(name)) } // no name has a capital
	c := chosen{Since: text("since"), Until: text("until"), Filter: browse.Filter{
		Provider: token("provider"), Operation: token("operation"), Agent: token("agent"), ID: text("id"),
		Class: wire.Class(text("class")), Code: fetchworker.Code(text("code")), Error: text("error"),
	}}
	for _, field := range []string{"provider", "operation", "agent"} {
		if name := token(field); name != "" && !fetchworker.ValidToken(name) {
			return c, misplaced{field: field, mistake: &mistake{fmt.Sprintf("%q is no name of a provider, an operation or an agent", name), "names have 1 to 32 of a-z 0-9 _ -"}}
		}
	}
	if c.ID != "" && !fetchworker.ValidID(c.ID) {
		return c, misplaced{field: "id", mistake: &mistake{fmt.Sprintf("%q is no id of a request", c.ID), "ids have 1 to 64 of A-Z a-z 0-9 _ -"}}
	}
	if err := word("class", "class", string(c.Class), wordsOf(wire.LetterClasses())); err != nil {
		return c, err
	}
	var err error
	if c.HTTPStatus, err = whole(text("http"), 100, 599); err != nil {
		return c, in("http", err)
	}
	if c.Group, err = whole(text("group"), 0, math.MaxInt32); err != nil {
		return c, in("group", err)
	}
	if v := text("before"); v != "" {
		c.Before, _ = strconv.ParseUint(v, 10, 64) // else from the newest
	}
	if c.Filter.Since, err = moment(c.Since, now); err != nil {
		return c, in("since", err)
	}
	c.Filter.Until, err = moment(c.Until, now)
	return c, in("until", err)
}

// moment reads a time: how long ago, or when.
func moment(value string, now time.Time) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(form, value); err == nil {
			return t, nil
		}
	}
	d, err := span(value)
	if err != nil {
		return time.Time{}, err
	}
	return now.Add(-d), nil
}

// longest is how long any span may be: a hundred years.
const longest = 100 * 365 * 24 * time.Hour

// span reads 90m, 2h or 7d.
func span(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if days, ok := strings.CutSuffix(value, "d"); ok {
		var n float64
		n, err = strconv.ParseFloat(days, 64)
		if d = longest + 1; n <= longest.Hours()/24 {
			d = time.Duration(max(n, -1) * 24 * float64(time.Hour))
		}
	}
	switch number := strings.Trim(value, "hms"); {
	case err != nil && (number == "" || strings.Trim(number, "-.0123456789d") != ""):
		return 0, &mistake{fmt.Sprintf("%q is no time", value), "write 90m, 2h, 7d, or 2026-11-24T10:00:00Z"}
	case err != nil || d <= 0 || d > longest:
		return 0, &mistake{fmt.Sprintf("%q is not between 1s and 36500d", value), "write 90m, 2h or 7d"}
	}
	return d, nil
}

// query is the filter as an address has it.
func (c chosen) query() url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" && value != "0" {
			q.Set(name, value)
		}
	}
	set("provider", c.Provider)
	set("operation", c.Operation)
	set("agent", c.Agent)
	set("id", c.ID)
	set("class", string(c.Class))
	set("code", string(c.Code))
	set("error", c.Error)
	set("http", strconv.Itoa(c.HTTPStatus))
	set("group", strconv.Itoa(c.Group))
	set("since", c.Since)
	set("until", c.Until)
	return q
}

// With is the address of the same place with one more thing chosen.
func (c chosen) With(pairs ...any) string {
	q := c.query()
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Set(fmt.Sprint(pairs[i]), fmt.Sprint(pairs[i+1]))
	}
	return "?" + q.Encode()
}

// Fields are the filter as a form repeats it.
func (c chosen) Fields() map[string]string {
	fields := map[string]string{}
	for name := range c.query() {
		fields[name] = c.query().Get(name)
	}
	return fields
}

// filterFields are what a filter is written in.
var filterFields = []string{"provider", "operation", "agent", "id", "class", "code", "http", "error", "group", "since", "until"}

// Words are the filter as a person reads it.
func (c chosen) Words() string {
	var parts []string
	for _, name := range filterFields {
		if v := c.query().Get(name); v != "" {
			parts = append(parts, name+" "+v)
		}
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

// filter is what an address selects; what it names, there is. A filter of
// another name would select everything, and look as if it had selected.
func (s *Server) filter(r *http.Request) (chosen, error) {
	q := r.URL.Query()
	f, err := filterOf(q, s.Desk.Now())
	if err != nil {
		return f, err
	}
	if err := within(q, "filter", append(slices.Clone(filterFields), "before")); err != nil {
		return f, err
	}
	return f, s.checked(r.Context(), f)
}

// whole reads a number between two; none is 0.
func whole(text string, least, most int) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		return 0, &mistake{fmt.Sprintf("%q is no number", text), fmt.Sprintf("write one between %d and %d", least, most)}
	case err != nil || n < least || n > most:
		return 0, &mistake{fmt.Sprintf("%s is not between %d and %d", text, least, most), "write another"}
	}
	return n, nil
}

// wordsOf are words as text.
func wordsOf[T ~string](words []T) []string {
	texts := make([]string, len(words))
	for i, w := range words {
		texts[i] = string(w)
	}
	return texts
}

// formText is a field of several lines as a person wrote it: a browser ends each
// with two characters.
func formText(r *http.Request, name string) string {
	return strings.ReplaceAll(r.PostFormValue(name), "\r\n", "\n")
}
