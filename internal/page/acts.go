package page

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"fetchworker/internal/browse"
	"fetchworker/internal/operate"
)

// The steps of an act on messages.
const (
	stepPlanning = "planning" // everything that matches is counted
	stepPlanned  = "planned"  // a person is asked
	stepRunning  = "running"
	stepDone     = "done"
	stepFailed   = "failed"  // before it did anything
	stepStopped  = "stopped" // by a person, a hold, a canary or an error, in the middle
)

const (
	// manyMessages is above how many a person must type the number.
	manyMessages = 100
	actsKept     = 200
	actKept      = time.Hour // after it ended, or while a person thinks
)

// acting is one act on its way: planned, confirmed, done, watched.
type acting struct {
	ID     string
	Action string
	Filter chosen
	task   *operate.Task

	mu      sync.Mutex
	by      string
	reason  string
	stop    context.CancelFunc // of what is under way
	step    string
	plan    operate.Plan
	holds   []operate.Hold
	read    int       // while planning
	counted time.Time // the plan was
	did     int
	began   time.Time
	ended   time.Time
	note    string
	one     *browse.Found // the only message of the plan of a requeue
	given   string        // what it was confirmed with
	result  operate.Result
	why     string // it failed or stopped
	stops   bool   // a person has asked it to
}

type acts struct {
	s   *Server
	mu  sync.Mutex
	all map[string]*acting
}

func newActs(s *Server) *acts { return &acts{s: s, all: map[string]*acting{}} }

// add keeps an act; those that ended long ago make room.
func (a *acts) add(act *acting) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, other := range a.all {
		other.mu.Lock()
		over := other.step != stepRunning && other.step != stepPlanning && time.Since(other.ended) > actKept
		other.mu.Unlock()
		if over {
			delete(a.all, id)
		}
	}
	if len(a.all) >= actsKept {
		return &mistake{"too many acts are under way", "finish some of them first"}
	}
	a.all[act.ID] = act
	return nil
}

func (a *acts) get(id string) *acting {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all[id]
}

// list are all acts of this page.
func (a *acts) list() []*acting {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.all))
}

// planAct begins an act: it counts what would be touched, and changes nothing.
func (s *Server) planAct(w http.ResponseWriter, r *http.Request) {
	again := func() view { // it was planned otherwise: from another plan's view
		if from := s.acts.get(r.PostFormValue("from")); from != nil {
			return s.viewOf(from, r.PostForm)
		}
		return view{}
	}
	s.answer(w, r, again, func() (string, error) {
		if err := fields(r, append([]string{"action", "all", "limit", "keep_deadline", "from", "before"}, filterFields...)...); err != nil {
			return "", err
		}
		f, err := filterOf(r.PostForm, s.Desk.Now())
		if err != nil {
			return "", err
		}
		action := r.PostForm.Get("action")
		if !slices.Contains([]string{operate.ActReplay, operate.ActCancel, operate.ActRequeue, operate.ActDiscard}, action) {
			return "", &mistake{"there is no such act", "choose one of those that are offered"}
		}
		if err := s.checked(r.Context(), f); err != nil {
			return "", err
		}
		limit, err := whole(r.PostForm.Get("limit"), 1, math.MaxInt32)
		if err != nil {
			return "", in("limit", err)
		}
		if f.Empty() && r.PostForm.Get("all") == "" {
			return "", &mistake{"nothing is chosen", "choose a filter or a group, or everything"}
		}
		act := &acting{ID: rand.Text()[:16], Action: action, Filter: f, step: stepPlanning, began: time.Now(), ended: time.Now()}
		ctx, cancel := context.WithCancel(s.running)
		act.stop = cancel
		act.task = &operate.Task{
			Action: action, Filter: f.Filter, MinSuccess: 0.9, CanaryWait: 5 * time.Minute, Limit: limit,
			Queued: action == operate.ActCancel, KeepDeadline: action == operate.ActRequeue && r.PostForm.Get("keep_deadline") != "",
		}
		if err := s.acts.add(act); err != nil {
			cancel()
			return "", err
		}
		s.work.Go(func() {
			defer cancel()
			act.planned(ctx, s)
		})
		return "/acts/" + act.ID, nil
	})
}

func (a *acting) watch() operate.Watch {
	return operate.Watch{
		Did: func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.step == stepPlanning {
				a.read++
			} else {
				a.did++
			}
		},
		Note: func(text string) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.note = text
		},
	}
}

func (a *acting) planned(ctx context.Context, s *Server) {
	err := a.task.Begin(ctx, s.Desk, s.Fleet)
	var plan operate.Plan
	if err == nil {
		plan, err = a.task.Plan(ctx, a.watch())
	}
	var holds []operate.Hold
	if err == nil && a.task.Works() {
		holds, err = a.task.Holds(ctx, plan)
	}
	var one *browse.Found
	if err == nil && a.Action == operate.ActRequeue && plan.Count == 1 {
		if found, gone := a.task.One(ctx, plan); gone == nil { // else somebody was faster, and the act says so
			one = &found
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.plan, a.holds, a.one, a.ended, a.note = plan, holds, one, time.Now(), ""
	switch {
	case ctx.Err() != nil:
		a.step, a.why = stepFailed, "it was stopped while it counted; nothing was changed"
	case err != nil:
		a.step, a.why = stepFailed, err.Error()
	default:
		a.step, a.counted = stepPlanned, time.Now()
	}
}

// stepAct confirms an act, or stops it.
func (s *Server) stepAct(w http.ResponseWriter, r *http.Request) {
	act := s.acts.get(r.PathValue("id"))
	again := func() view {
		if act == nil {
			return view{}
		}
		return s.viewOf(act, r.PostForm)
	}
	s.answer(w, r, again, func() (string, error) {
		if act == nil {
			return "", &mistake{"this act is no longer kept here", "the audit tells what was done"}
		}
		back := "/acts/" + act.ID
		switch r.PathValue("step") {
		case "stop":
			act.halt()
			return back, nil
		case "confirm":
			return back, s.confirm(w, r, act)
		}
		return "", &mistake{"there is no such step", "an act is confirmed or stopped"}
	})
}

// halt stops an act: one that nobody has confirmed yet is over.
func (a *acting) halt() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.step == stepPlanned {
		a.step, a.why, a.ended = stepStopped, "it was stopped before it began; nothing was changed", time.Now()
		return
	}
	a.stops = true
	a.stop()
}

// confirmFields are what a plan's form asks for.
var confirmFields = []string{"by", "reason", "rate", "canary", "body", "count"}

func (s *Server) confirm(w http.ResponseWriter, r *http.Request, act *acting) error {
	if err := fields(r, confirmFields...); err != nil {
		return err
	}
	v := s.actView(act)
	by, reason := oneLine(r.PostFormValue("by"), longestName), oneLine(r.PostFormValue("reason"), 500)
	rate, err := strconv.ParseFloat(r.PostFormValue("rate"), 64)
	if r.PostFormValue("rate") == "" {
		rate, err = 0, nil
	}
	canary, canaryErr := whole(r.PostFormValue("canary"), 1, math.MaxInt32)
	switch {
	case v.Step != stepPlanned:
		return act.again(r.PostForm.Encode())
	case v.Refused != "":
		return &mistake{"not now: " + v.Refused, "nothing was changed"}
	case by == "":
		return misplaced{field: "by", mistake: &mistake{"say who you are", "the audit keeps it"}}
	case reason == "" && v.ReasonNeeded:
		return misplaced{field: "reason", mistake: &mistake{"give a reason", "colleagues will read it in the audit"}}
	case err != nil || !(rate >= 0 && rate <= 1e6):
		return misplaced{field: "rate", mistake: &mistake{fmt.Sprintf("%q is no number between 0 and 1000000", r.PostFormValue("rate")), "leave it empty for as fast as possible"}}
	case canaryErr != nil:
		return in("canary", canaryErr)
	case v.Type && strings.Join(strings.FieldsFunc(r.PostFormValue("count"), func(c rune) bool { return c < '0' || c > '9' }), "") != strconv.Itoa(v.Plan.Count):
		return misplaced{field: "count", mistake: &mistake{fmt.Sprintf("type %d to %s so many messages", v.Plan.Count, act.Action), "nothing was changed"}}
	}
	var body []byte
	if _, has := r.PostForm["body"]; v.Editable != "" && has && formText(r, "body") != v.Editable {
		if body, err = operate.Edited(*act.one, []byte(formText(r, "body"))); err != nil && !errors.Is(err, operate.ErrUnchanged) {
			return misplaced{field: "body", mistake: &mistake{err.Error(), "nothing was changed: correct it here"}}
		}
	}
	act.mu.Lock()
	if act.step != stepPlanned {
		act.mu.Unlock()
		return act.again(r.PostForm.Encode())
	}
	act.given = r.PostForm.Encode()
	act.step, act.by, act.reason, act.began = stepRunning, by, reason, time.Now()
	ctx, cancel := context.WithCancel(s.running)
	act.stop = cancel
	act.task.PerSecond, act.task.Canary, act.task.Body = rate, canary, body
	act.mu.Unlock()
	act.task.Sign(operate.Signature{By: by, NATSUser: s.User, Reason: reason, Run: "page-" + act.ID[:6]})
	keepBy(w, r, by)
	s.work.Go(func() {
		defer cancel()
		result, err := act.task.Do(ctx, v.Plan, act.watch())
		act.finish(result, err, s)
	})
	return nil
}

// again judges a second confirmation: who pressed twice sees what is under way,
// and whoever wrote something else meanwhile is told that it was not done.
func (a *acting) again(given string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.given == "" || a.given == given {
		return nil
	}
	return &mistake{"this plan was confirmed before, by " + a.by + ": what you have sent now was not done", "plan it anew from the list, if more is to be done"}
}

func (a *acting) finish(result operate.Result, err error, s *Server) {
	a.mu.Lock()
	a.result, a.ended, a.step, a.note = result, time.Now(), stepDone, ""
	if err != nil {
		a.step, a.why = stepStopped, s.whyStopped(err, a.stops)
	}
	a.mu.Unlock()
	s.looks.again()
}

func (s *Server) whyStopped(err error, asked bool) string {
	var hold *operate.HoldError
	switch {
	case asked:
		return "it was stopped; what was begun is done, and the rest was not touched"
	case errors.As(err, &hold):
		return "it stopped by itself: " + hold.Hold.Words(s.Desk.Now())
	}
	return err.Error()
}

// answer does what a form asks for, and goes on to where its result is seen.
// Where it cannot be done, again is the form as it was written.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, again func() view, do func() (string, error)) {
	if err := r.ParseForm(); err != nil {
		err = &mistake{"the form cannot be read", "try it again"}
		s.show(func(*http.Request) (view, error) { return view{}, err }).ServeHTTP(w, r)
		return
	}
	to, err := do()
	if err == nil {
		http.Redirect(w, r, to, http.StatusSeeOther)
		return
	}
	s.show(func(*http.Request) (view, error) {
		if again == nil {
			return view{}, err
		}
		return again(), err
	}).ServeHTTP(w, r)
}

// fields refuses a form that has others than these: what is not read must not
// look as if it were.
func fields(r *http.Request, known ...string) error { return within(r.PostForm, "field", known) }
