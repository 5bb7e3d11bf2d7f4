package page

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

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
	Parked  int  // letters of the same
	Known   bool // they were looked at: else nobody knows yet whether any waits

	LeftOut, LeftOutQueued int // agents that are not listed, and their requests
}

// Button is what the button of a cancel says.
func (v waitingView) Button(act string) string {
	return button(act, v.Total+v.Parked, v.Letters.Filter)
}

// waiting says what waits, why, until when, and whose it is.
func (s *Server) waiting(r *http.Request) (view, error) {
	f, err := s.filter(r)
	data, letters := waitingView{Agent: f.Agent}, list{Of: "letters", Filter: f, Form: s.form(r.Context(), r.URL.Query())}
	if data.Letters = letters; err != nil {
		return view{Name: "waiting", Title: "Waiting", Nav: "waiting", Data: data}, err
	}
	var both errgroup.Group // together: the first look may be waited for
	both.Go(func() error { return s.rows(r.Context(), &letters, wire.StreamDLQ) })
	both.Go(func() (err error) {
		data.Parked, err = s.count(r.Context(), wire.StreamDLQ, f)
		return err
	})
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
	Form      form
	Filter    operate.UsageFilter
	Rows      []operate.Used
	Causes    []operate.Cause
	Most      int64 // calls of the row with most
	MostCause int64
	Missing   bool // nobody counts

	Days, Agents, Providers bool // the rows have these
}

// ledgerKept is how many days the ledger goes back.
const ledgerKept = 400

// period reads what the ledger is asked for.
func (s *Server) period(r *http.Request, data *agentsView) error {
	q, now := r.URL.Query(), s.Desk.Now()
	if err := within(q, "filter", []string{"since", "by", "provider", "agent"}); err != nil {
		return err
	}
	f, err := filterOf(url.Values{"provider": q["provider"], "agent": q["agent"]}, now)
	if err != nil {
		return err
	}
	if err := word("by", "sum", data.By, []string{"", "agent", "provider", "day"}); err != nil {
		return err
	}
	data.Filter = operate.UsageFilter{Provider: f.Provider, Agent: f.Agent, Since: now}
	if data.Since != "1d" { // today
		since, err := moment(data.Since, now)
		if err != nil {
			return in("since", err)
		}
		data.Filter.Since = since.Add(24 * time.Hour) // so many days, today included
		if now.Sub(since) > ledgerKept*24*time.Hour+time.Minute {
			return misplaced{field: "since", mistake: &mistake{fmt.Sprintf("%s is longer than the %dd that usage is kept", data.Since, ledgerKept), "write 7d, 30d or 400d"}}
		}
	}
	return s.checked(r.Context(), f)
}

// agents is the ledger: who used what, and what failed.
func (s *Server) agents(r *http.Request) (view, error) {
	q := r.URL.Query()
	data := agentsView{Since: cmp.Or(q.Get("since"), "1d"), By: q.Get("by"), Form: s.form(r.Context(), q)}
	if err := s.period(r, &data); err != nil {
		return view{Name: "agents", Title: "Agents", Nav: "agents", Data: data}, err
	}
	f := data.Filter
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
		data.Days, data.Agents, data.Providers = data.Days || u.Day != "", data.Agents || u.Agent != "", data.Providers || u.Provider != ""
	}
	for _, c := range data.Causes {
		data.MostCause = max(data.MostCause, c.Count)
	}
	return view{Name: "agents", Title: "Agents", Nav: "agents", Data: data}, nil
}

type eventsView struct {
	Events []operate.Event
	Filter operate.EventFilter
	Form   form
	Kinds  []string
	More   time.Time
}

// Narrow reports whether anything is filtered.
func (e eventsView) Narrow() bool { return e.Filter.Kind+e.Filter.Provider != "" }

func (s *Server) events(r *http.Request) (view, error) {
	q := r.URL.Query()
	data := eventsView{
		Filter: operate.EventFilter{Kind: q.Get("kind"), Provider: strings.ToLower(q.Get("provider"))},
		Form:   s.form(r.Context(), q), Kinds: operate.Kinds(),
	}
	v := func() view { return view{Name: "events", Title: "Events", Nav: "audit", Data: data} }
	if err := word("kind", "kind of event", data.Filter.Kind, data.Kinds); err != nil {
		return v(), err
	}
	if err := within(q, "filter", []string{"kind", "provider", "until"}); err != nil {
		return v(), err
	}
	c, err := filterOf(url.Values{"provider": q["provider"]}, s.Desk.Now())
	if err == nil {
		err = s.checked(r.Context(), c)
	}
	if err != nil {
		return v(), err
	}
	if data.Filter.Until, err = moment(q.Get("until"), s.Desk.Now()); err != nil {
		return v(), in("until", err)
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
	return v(), nil
}
