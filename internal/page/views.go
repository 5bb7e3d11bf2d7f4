package page

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/doctor"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"

	"golang.org/x/sync/errgroup"
)

// overview is the first view: the verdict, and a provider a row.
func (s *Server) overview(r *http.Request) (view, error) {
	o, err := s.looks.get(r.Context())
	return view{Name: "overview", Title: "Overview", Nav: "overview", Data: o}, err
}

type providerView struct {
	operate.Status
	Findings []doctor.Finding
	Known    bool // the first look is over
	Hold     string
}

func (s *Server) provider(r *http.Request) (view, error) {
	p := r.PathValue("p")
	o, err := s.looks.get(r.Context())
	if err != nil {
		return view{}, err
	}
	data := providerView{Status: operate.Status{Provider: p}}
	if o != nil {
		data.Known = true
		i := slices.IndexFunc(o.Providers, func(x operate.Status) bool { return x.Provider == p })
		if i < 0 {
			return missing("nobody serves " + p + ", and nothing is stored of it"), nil
		}
		data.Status = o.Providers[i]
		for _, f := range o.Verdict.Findings {
			if f.Provider == p {
				data.Findings = append(data.Findings, f)
			}
		}
		if h, held := o.Facts.Holds[p]; held {
			data.Hold = h.Words(s.Desk.Now())
		}
	}
	return view{Name: "provider", Title: p, Nav: "overview", Data: data}, nil
}

// waits is what one agent has waiting of one provider.
type waits struct {
	Provider, Agent string
	Queued          int
	Why             string
	Until           time.Time // zero: nobody knows
}

type waitingView struct {
	Agent   string
	Waits   []waits
	Letters list // those of the agent, or all
	Total   int  // requests in the queues
	Known   bool // they were looked at: else nobody knows yet whether any waits

	LeftOut, LeftOutQueued int // agents that are not listed, and their requests
}

// waiting says what waits, why, until when, and whose it is.
func (s *Server) waiting(r *http.Request) (view, error) {
	f, err := s.filter(r)
	if err != nil {
		return view{}, err
	}
	data, letters := waitingView{Agent: f.Agent}, list{Of: "letters", Filter: f}
	var both errgroup.Group // together: the first look may be waited for
	both.Go(func() error { return s.rows(r.Context(), &letters, wire.StreamDLQ) })
	both.Go(func() error {
		o, err := s.looks.get(r.Context())
		if err != nil || o == nil {
			return err
		}
		data.Known = true
		for _, status := range o.Providers {
			if f.Provider != "" && f.Provider != status.Provider {
				continue
			}
			if err := s.queued(r.Context(), o, status, &data); err != nil {
				return err
			}
		}
		return nil
	})
	err = both.Wait()
	data.Letters = letters
	return view{Name: "waiting", Title: "Waiting", Nav: "waiting", Data: data}, err
}

// agentsShown is how many agents of a provider are listed, those with most.
const agentsShown = 50

// queued adds who waits for a provider.
func (s *Server) queued(ctx context.Context, o *overall, status operate.Status, data *waitingView) error {
	some := slices.ContainsFunc(status.Lanes, func(l operate.LaneStatus) bool { return l.Waiting+l.InFlight > 0 })
	if !some {
		return nil
	}
	agents, _, err := s.Fleet.Waiting(ctx, status.Provider)
	if err != nil {
		return err
	}
	why, until := "its turn: "+plural(status.Backlog, "request", "requests")+" in all at the present limit", status.BacklogGone
	if h, held := o.Facts.Holds[status.Provider]; held {
		why, until = h.Words(s.Desk.Now()), h.Until
	} else if len(status.Permits) == 0 {
		why = "its turn: no limit is in force"
	}
	names := slices.SortedFunc(maps.Keys(agents), func(a, b string) int {
		return cmp.Or(cmp.Compare(agents[b], agents[a]), cmp.Compare(a, b))
	})
	shown := 0
	for _, name := range names {
		if data.Agent != "" && data.Agent != name {
			continue
		}
		data.Total += agents[name]
		if shown++; shown > agentsShown {
			data.LeftOut++
			data.LeftOutQueued += agents[name]
			continue
		}
		data.Waits = append(data.Waits, waits{status.Provider, name, agents[name], why, until})
	}
	return nil
}

type agentsView struct {
	Since, By string
	Filter    operate.UsageFilter
	Rows      []operate.Used
	Causes    []operate.Cause
	Most      int64 // calls of the row with most
	MostCause int64
	Missing   bool // nobody counts
}

// agents is the ledger: who used what, and what failed.
func (s *Server) agents(r *http.Request) (view, error) {
	q := r.URL.Query()
	data := agentsView{Since: cmp.Or(q.Get("since"), "1d"), By: q.Get("by")}
	if !slices.Contains([]string{"", "agent", "provider", "day"}, data.By) {
		return view{}, &mistake{"usage is summed by agent, provider or day", "choose one of them"}
	}
	now := s.Desk.Now()
	f := operate.UsageFilter{Provider: strings.TrimSpace(q.Get("provider")), Agent: strings.TrimSpace(q.Get("agent")), Since: now}
	for _, name := range []string{f.Provider, f.Agent} {
		if name != "" && !fetchworker.ValidToken(name) {
			return view{}, &mistake{"that is no name of a provider or an agent", "names have 1 to 32 of a-z 0-9 _ -"}
		}
	}
	if data.Since != "1d" { // today
		var err error
		if f.Since, err = moment(data.Since, now); err != nil {
			return view{}, err
		}
		f.Since = f.Since.Add(24 * time.Hour) // so many days, today included
	}
	data.Filter = f
	rows, err := s.Desk.Usage(r.Context(), f)
	if noStream(err) {
		data.Missing = true
		return view{Name: "agents", Title: "Agents", Nav: "agents", Data: data}, nil
	}
	if err != nil {
		return view{}, err
	}
	if data.Causes, err = s.Desk.Causes(r.Context(), operate.UsageFilter{Provider: f.Provider, Since: f.Since}); err != nil {
		return view{}, err
	}
	data.Rows = operate.SumBy(rows, data.By)
	for _, u := range data.Rows {
		data.Most = max(data.Most, u.Calls)
	}
	for _, c := range data.Causes {
		data.MostCause = max(data.MostCause, c.Count)
	}
	return view{Name: "agents", Title: "Agents", Nav: "agents", Data: data}, nil
}

type auditView struct {
	Acts   []operate.Act
	Filter operate.ActFilter
	More   time.Time // the list goes on before this
	Since  string
}

// auditTime bounds one screen of the audit.
const auditTime = 700 * time.Millisecond

func (s *Server) audit(r *http.Request) (view, error) {
	q := r.URL.Query()
	data := auditView{Filter: operate.ActFilter{
		Action: q.Get("action"), Provider: q.Get("provider"), Agent: q.Get("agent"), ID: q.Get("id"), By: q.Get("by"),
	}}
	for _, token := range []string{data.Filter.Action, data.Filter.Provider} {
		if token != "" && !fetchworker.ValidToken(token) {
			return view{}, &mistake{"that is no name of an act or a provider", "names have 1 to 32 of a-z 0-9 _ -"}
		}
	}
	var err error
	if data.Filter.Until, err = moment(q.Get("until"), s.Desk.Now()); err != nil {
		return view{}, err
	}
	data.Acts, data.More, err = s.actsUntil(r.Context(), data.Filter)
	return view{Name: "audit", Title: "Audit", Nav: "audit", Data: data}, err
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

type eventsView struct {
	Events []operate.Event
	Filter operate.EventFilter
	Kinds  []string
	More   time.Time
}

func (s *Server) events(r *http.Request) (view, error) {
	q := r.URL.Query()
	data := eventsView{Filter: operate.EventFilter{Kind: q.Get("kind"), Provider: q.Get("provider")}, Kinds: operate.Kinds()}
	for _, token := range []string{data.Filter.Kind, data.Filter.Provider} {
		if token != "" && !fetchworker.ValidToken(token) {
			return view{}, &mistake{"that is no kind of event and no provider", "names have 1 to 32 of a-z 0-9 _ -"}
		}
	}
	var err error
	if data.Filter.Until, err = moment(q.Get("until"), s.Desk.Now()); err != nil {
		return view{}, err
	}
	for e, err := range s.Desk.Events(r.Context(), data.Filter) {
		if err != nil {
			return view{}, err
		}
		if len(data.Events) == rowsShown {
			data.More = e.Stored.Add(time.Nanosecond)
			break
		}
		data.Events = append(data.Events, e)
	}
	return view{Name: "events", Title: "Events", Nav: "audit", Data: data}, nil
}
