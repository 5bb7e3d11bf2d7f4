package page

import (
	"fmt"
	"net/http"
	"net/url"
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
	c := chosen{Since: text("since"), Until: text("until"), Filter: browse.Filter{
		Provider: text("provider"), Operation: text("operation"), Agent: text("agent"), ID: text("id"),
		Class: wire.Class(text("class")), Code: fetchworker.Code(text("code")), Error: text("error"),
	}}
	for _, name := range []string{c.Provider, c.Operation, c.Agent} {
		if name != "" && !fetchworker.ValidToken(name) {
			return c, &mistake{fmt.Sprintf("%q is no name of a provider, an operation or an agent", name), "names have 1 to 32 of a-z 0-9 _ -"}
		}
	}
	if c.ID != "" && !fetchworker.ValidID(c.ID) {
		return c, &mistake{fmt.Sprintf("%q is no id of a request", c.ID), "ids have 1 to 64 of A-Z a-z 0-9 _ -"}
	}
	for name, into := range map[string]*int{"http": &c.HTTPStatus, "group": &c.Group} {
		if v := text(name); v != "" {
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 {
				return c, &mistake{fmt.Sprintf("%q is no number", v), name + " is a number"}
			}
			*into = n
		}
	}
	if v := text("before"); v != "" {
		c.Before, _ = strconv.ParseUint(v, 10, 64) // else from the newest
	}
	var err error
	if c.Filter.Since, err = moment(c.Since, now); err != nil {
		return c, err
	}
	c.Filter.Until, err = moment(c.Until, now)
	return c, err
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
		if n > longest.Hours()/24 {
			n = 0
		}
		d = time.Duration(n * 24 * float64(time.Hour))
	}
	if err != nil || d <= 0 || d > longest {
		return 0, &mistake{fmt.Sprintf("%q is no time", value), "write 90m, 2h, 7d, or 2026-11-24T10:00:00Z"}
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

// Words are the filter as a person reads it.
func (c chosen) Words() string {
	var parts []string
	for _, name := range []string{"provider", "operation", "agent", "id", "class", "code", "http", "error", "group", "since", "until"} {
		if v := c.query().Get(name); v != "" {
			parts = append(parts, name+" "+v)
		}
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

func (s *Server) filter(r *http.Request) (chosen, error) {
	return filterOf(r.URL.Query(), s.Desk.Now())
}

// number reads how many; none is 0.
func number(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, &mistake{fmt.Sprintf("%q is no number", text), "nothing was changed"}
	}
	return n, nil
}

// formText is a field of several lines as a person wrote it: a browser ends each
// with two characters.
func formText(r *http.Request, name string) string {
	return strings.ReplaceAll(r.PostFormValue(name), "\r\n", "\n")
}
