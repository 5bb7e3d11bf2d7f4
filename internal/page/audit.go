package page

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"fetchworker/internal/operate"
)

type auditView struct {
	Acts   []done
	Filter operate.ActFilter
	Form   form
	More   time.Time // the list goes on before this
	Since  string
}

// Narrow reports whether anything is filtered.
func (a auditView) Narrow() bool {
	f := a.Filter
	return f.Action+f.Provider+f.Agent+f.ID+f.By+f.Run != ""
}

// auditTime bounds one screen of the audit.
const auditTime = 700 * time.Millisecond

func (s *Server) audit(r *http.Request) (view, error) {
	q := r.URL.Query()
	data := auditView{Form: s.form(r.Context(), q), Filter: operate.ActFilter{
		Action: q.Get("action"), Provider: strings.ToLower(q.Get("provider")), Agent: strings.ToLower(q.Get("agent")), ID: q.Get("id"), By: q.Get("by"), Run: q.Get("run"),
	}}
	v := func() view { return view{Name: "audit", Title: "Audit", Nav: "audit", Data: data} }
	err := within(q, "filter", []string{"action", "provider", "agent", "id", "by", "run", "until"})
	if err == nil {
		err = s.checkedAct(r.Context(), data.Filter)
	}
	if err != nil {
		return v(), err
	}
	if data.Filter.Until, err = moment(q.Get("until"), s.Desk.Now()); err != nil {
		return v(), in("until", err)
	}
	data.Acts, data.More, err = s.actsUntil(r.Context(), data.Filter, data.Filter.Run == "")
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

// done is one line of the audit as it is shown: an act, or all of one command
// that followed each other.
type done struct {
	operate.Act               // the newest of them
	All         []operate.Act // the first of them, the newest first
	Count, Not  int           // how many, and how many of those were not done after all
	Agents      []string
	Of          []string // the providers
	Over        bool     // what was ordered until then has been ended
}

// foldedShown is how many of one command are listed when it is unfolded.
const foldedShown = 20

// add takes an act in that belongs to the same command, and reports whether it
// does.
func (d *done) add(a operate.Act) bool {
	if d.Run == "" || a.Unreadable != "" || d.Unreadable != "" || a.Run != d.Run || a.Action != d.Action || a.By != d.By || a.Reason != d.Reason || a.Limits != d.Limits {
		return false
	}
	d.count(a)
	return true
}

func (d *done) count(a operate.Act) {
	if d.Count++; a.Outcome != "" {
		d.Count-- // it tells of a line that is counted
		d.Not++
	}
	if len(d.All) < foldedShown {
		d.All = append(d.All, a)
	}
	if a.Agent != "" && !slices.Contains(d.Agents, a.Agent) && len(d.Agents) < foldedShown {
		d.Agents = append(d.Agents, a.Agent)
	}
	if !slices.Contains(d.Of, a.Provider) && len(d.Of) < foldedShown {
		d.Of = append(d.Of, a.Provider)
	}
}

// Folded reports whether it is more than one act.
func (d *done) Folded() bool { return len(d.All) > 1 }

// actsUntil reads a screen of acts, those of one command as one line if they are
// to be folded.
func (s *Server) actsUntil(ctx context.Context, f operate.ActFilter, fold bool) (acts []done, more time.Time, err error) {
	began, now := time.Now(), s.Desk.Now()
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
		if n := len(acts); fold && n > 0 && acts[n-1].add(a) {
			continue
		}
		if len(acts) == rowsShown {
			return acts, a.Stored.Add(time.Nanosecond), nil // the end of a time is not in it
		}
		d := done{Act: a, Over: s.over(a, now)}
		d.count(a)
		acts = append(acts, d)
	}
	return acts, more, nil
}

// over reports whether an order until a time is no longer in force: its time has
// come, or somebody has ended or replaced it.
func (s *Server) over(a operate.Act, now time.Time) bool {
	if a.Until.IsZero() || !a.Until.After(now) {
		return !a.Until.IsZero()
	}
	control := s.Fleet.Provider(a.Provider, now).Control
	switch a.Action {
	case operate.ActPause:
		return control.Pause == nil || !control.Pause.Until.Equal(a.Until)
	case operate.ActLimit:
		return control.Limits == nil || !control.Limits.Until.Equal(a.Until)
	}
	return false
}
