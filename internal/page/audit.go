package page

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"fetchworker/internal/operate"
)

type auditView struct {
	Acts   []operate.Act
	Filter operate.ActFilter
	Form   form
	More   time.Time // the list goes on before this
	Since  string
}

// Narrow reports whether anything is filtered.
func (a auditView) Narrow() bool {
	f := a.Filter
	return f.Action+f.Provider+f.Agent+f.ID+f.By != ""
}

// auditTime bounds one screen of the audit.
const auditTime = 700 * time.Millisecond

func (s *Server) audit(r *http.Request) (view, error) {
	q := r.URL.Query()
	data := auditView{Form: s.form(r.Context(), q), Filter: operate.ActFilter{
		Action: q.Get("action"), Provider: strings.ToLower(q.Get("provider")), Agent: strings.ToLower(q.Get("agent")), ID: q.Get("id"), By: q.Get("by"),
	}}
	v := func() view { return view{Name: "audit", Title: "Audit", Nav: "audit", Data: data} }
	err := s.checkedAct(r.Context(), data.Filter)
	if err != nil {
		return v(), err
	}
	if data.Filter.Until, err = moment(q.Get("until"), s.Desk.Now()); err != nil {
		return v(), in("until", err)
	}
	data.Acts, data.More, err = s.actsUntil(r.Context(), data.Filter)
	return v(), err
}

// checkedAct refuses a filter of acts whose names and words are none.
func (s *Server) checkedAct(ctx context.Context, f operate.ActFilter) error {
	if err := word("action", "act", f.Action, operate.Actions()); err != nil {
		return err
	}
	c, err := filterOf(url.Values{"provider": {f.Provider}, "agent": {f.Agent}, "id": {f.ID}}, s.Desk.Now())
	if err != nil {
		return err
	}
	return s.checked(ctx, c)
}

func (s *Server) actsUntil(ctx context.Context, f operate.ActFilter) (acts []operate.Act, more time.Time, err error) {
	began := time.Now()
	f.Looked = func(stored time.Time) bool { // most of what is looked at may not match
		if time.Since(began) > auditTime {
			more = stored.Add(time.Nanosecond)
		}
		return more.IsZero()
	}
	for a, err := range operate.Acts(ctx, s.Desk.Browser, f) {
		if err != nil {
			return nil, more, err
		}
		if len(acts) == rowsShown {
			return acts, a.Stored.Add(time.Nanosecond), nil // the end of a time is not in it
		}
		acts = append(acts, a)
	}
	return acts, more, nil
}

