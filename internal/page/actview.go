package page

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"fetchworker"
	"fetchworker/internal/operate"
)

// actView is an act as a template sees it.
type actView struct {
	*acting
	Step, By, Reason     string
	Plan                 operate.Plan
	Bars                 []operate.GroupCount
	Holds                []string
	Refused              string    // why it may not be done now
	Paused               []string  // the providers whose pause or circuit forbids it
	Planned              time.Time // when it was counted
	Form                 form      // what was written into it, where that was wrong
	Read, Did            int
	Began, Ended, Gone   time.Time
	Rate                 float64
	Left                 time.Duration
	Note, Why            string
	Fates                map[operate.Fate]int
	Failures             []string
	Type                 bool // the number has to be typed
	Works, ReasonNeeded  bool
	NoReplayer, Stopping bool
	Back                 string
	Queued, KeepDeadline bool
	Limit                int
	One                  *fetchworker.Identity // the only one of the plan
	Editable             string                // the request of a single one that may be edited
}

func (s *Server) actView(a *acting) actView {
	running := true
	if o, err := s.looks.get(context.Background()); err == nil && o != nil {
		running = o.Replayers
	}
	now := s.Desk.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	v := actView{
		acting: a, Step: a.step, By: a.by, Reason: a.reason, Plan: a.plan, Bars: a.plan.Bars(), Read: a.read, Did: a.did, Began: a.began, Ended: a.ended,
		Planned: a.counted, Note: a.note, Why: a.why, Fates: a.result.Fates, Type: a.plan.Count > manyMessages, Works: a.task.Works(),
		ReasonNeeded: a.Action != operate.ActReplay, NoReplayer: a.task.Works() && !running, Stopping: a.stops,
		Back: "/letters" + a.Filter.With(), Queued: a.task.Queued, KeepDeadline: a.task.KeepDeadline, Limit: a.task.Limit,
	}
	if a.plan.Count == 1 && len(a.plan.Identities) == 1 {
		v.One = &a.plan.Identities[0]
	}
	if a.one != nil && utf8.Valid(a.one.Body) && json.Valid(a.one.Body) {
		v.Editable = strings.ReplaceAll(string(a.one.Body), "\r\n", "\n")
	}
	if a.task.Reviews() {
		v.Back = "/review" + a.Filter.With()
	}
	for _, h := range a.holds {
		v.Holds = append(v.Holds, h.Words(now))
		if h.Stops && a.Action == operate.ActReplay {
			v.Refused = h.Words(now)
			v.Paused = append(v.Paused, h.Provider)
		}
	}
	for _, err := range a.result.Failures {
		v.Failures = append(v.Failures, err.Error())
	}
	if a.step == stepPlanned && v.Works {
		v.Gone = s.Fleet.Gone(a.plan.Providers)
	}
	if took := time.Since(a.began); a.step == stepRunning && a.did > 0 {
		v.Rate = float64(a.did) / took.Seconds()
		v.Left = time.Duration(float64(a.plan.Count-a.did) / v.Rate * float64(time.Second))
	}
	return v
}

// oldPlan is when a plan is so old that it is told: its number was counted then.
const oldPlan = time.Minute

// Old reports whether a plan was counted some time ago.
func (v actView) Old() bool { return time.Since(v.Planned) > oldPlan }

// Seen is where those of a group are listed.
func (v actView) Seen(g operate.GroupCount) string {
	return strings.Replace(v.Back, v.Filter.With(), v.Filter.With("group", g.Number, "provider", g.Provider), 1)
}

// act shows an act at whatever step it is.
func (s *Server) act(r *http.Request) (view, error) {
	a := s.acts.get(r.PathValue("id"))
	if a == nil {
		return missing("this act is no longer kept here; the audit tells what was done"), nil
	}
	return s.viewOf(a, nil), nil
}

// viewOf is an act's view, with what was written into its form.
func (s *Server) viewOf(a *acting, written url.Values) view {
	v := s.actView(a)
	v.Form = form{Written: written}
	nav := "letters"
	if a.task.Reviews() {
		nav = "review"
	}
	still := v.Step == stepDone || v.Step == stepFailed || v.Step == stepStopped
	return view{Name: "act", Title: v.Action, Nav: nav, Data: v, Still: still}
}

func (s *Server) allActs(*http.Request) (view, error) {
	var list []actView
	for _, a := range s.acts.list() {
		list = append(list, s.actView(a))
	}
	slices.SortFunc(list, func(a, b actView) int { return b.Began.Compare(a.Began) })
	return view{Name: "acts", Title: "Acts", Nav: "audit", Data: list}, nil
}
