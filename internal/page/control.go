package page

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"

	"go.uber.org/zap"
)

// controlView is an act on providers before it is done: what it is, what it
// means, and to which.
type controlView struct {
	Do        string // pause, resume, limit, retire
	Providers []string
	All       bool
	For       string
	Limits    string
	Means     string
	Backlog   int
	Known     []string
	Now       []string // the limits in force
	Form      form     // what was written into it, where that was wrong
}

var means = map[string]string{
	operate.ActPause:  "Within a second nobody calls any more. Requests are answered from stale bodies where they allow it, else they wait and go by themselves when the pause ends.",
	operate.ActResume: "The pause ends, the circuit closes, a hold is lifted. What was parked goes within ten seconds, as the permits allow. If the provider is still down its circuit opens again after a few failures; no request is harmed.",
	operate.ActLimit:  "The new limits hold for the whole fleet at once. What was called already counts in their windows, so it may begin slowly.",
	operate.ActRetire: "What waits for it and what is new is answered provider_not_configured; review items stay. A worker that serves it brings it back.",
}

// control shows what an act on providers means, and asks.
func (s *Server) control(r *http.Request) (view, error) {
	v, err := s.order(r.Context(), r.URL.Query())
	if data, is := v.Data.(controlView); is && err == nil {
		for _, p := range data.Providers {
			if !slices.Contains(data.Known, p) {
				return v, unknown("provider", "provider", p, data.Known)
			}
		}
	}
	return v, err
}

// order is the form of an act on providers, with what is chosen and written.
func (s *Server) order(ctx context.Context, q url.Values) (view, error) {
	data := controlView{Do: q.Get("do"), Providers: q["provider"], All: q.Get("all") != "", For: q.Get("for"), Limits: q.Get("limits"), Means: means[q.Get("do")], Form: form{Written: q}}
	if data.Means == "" {
		return missing("there is no such act"), nil
	}
	o, err := s.looks.get(ctx)
	if err != nil {
		return view{}, err
	}
	if data.Known, err = s.Fleet.Served(ctx); err != nil {
		return view{}, err
	}
	if data.All && !q.Has("by") {
		data.Providers = data.Known
	}
	if o != nil {
		for _, p := range o.Providers {
			if slices.Contains(data.Providers, p.Provider) {
				data.Backlog += p.Backlog
				data.Now = append(data.Now, inForce(p, s.Desk.Now()))
			}
		}
	}
	return view{Name: "control", Title: data.Do, Nav: "overview", Data: data, Still: true}, nil
}

// obey does an act on providers: all checked first, then each recorded, done
// and announced.
func (s *Server) obey(w http.ResponseWriter, r *http.Request) {
	again := func() view {
		v, err := s.order(r.Context(), r.PostForm)
		if err != nil || v.Name != "control" {
			return view{} // the mistake alone says it
		}
		return v
	}
	s.answer(w, r, again, func() (string, error) {
		if err := fields(r, "do", "all", "provider", "for", "limits", "by", "reason", "above"); err != nil {
			return "", err
		}
		orders, err := s.orders(r.PostForm)
		if err != nil {
			return "", err
		}
		by, reason := oneLine(r.PostForm.Get("by"), longestName), oneLine(r.PostForm.Get("reason"), 500)
		switch {
		case by == "":
			return "", misplaced{field: "by", mistake: &mistake{"say who you are", "the audit keeps it"}}
		case reason == "":
			return "", misplaced{field: "reason", mistake: &mistake{"give a reason", "colleagues will read it in the audit"}}
		}
		known, err := s.Fleet.Served(r.Context())
		if err != nil {
			return "", err
		}
		for _, o := range orders {
			if !slices.Contains(known, o.Provider) {
				return "", unknown("provider", "provider", o.Provider, known)
			}
			var served *operate.ServedError
			var above *operate.AboveError
			switch err := s.Fleet.May(r.Context(), o); {
			case errors.As(err, &above) && r.PostForm.Get("above") == "":
				return "", misplaced{field: "above", mistake: &mistake{above.Error(), "tick that the provider allows it, if it does"}}
			case errors.As(err, &served):
				return "", misplaced{field: "provider", mistake: &mistake{served.Error(), "stop these workers first"}}
			case err != nil && above == nil:
				return "", err
			}
		}
		signed := operate.Signature{By: by, NATSUser: s.User, Reason: reason, Run: "page-" + rand.Text()[:6]}
		for _, o := range orders {
			err := s.Desk.Control(r.Context(), signed, o, func(err error) {
				s.Log.Warn("an act was done, and the event that tells of it could not be stored", zap.Error(err))
			})
			if err != nil {
				return "", err
			}
		}
		keepBy(w, r, by)
		s.looks.again()
		if len(orders) == 1 {
			return "/provider/" + url.PathEscape(orders[0].Provider), nil
		}
		return "/", nil
	})
}

// orders reads a form.
func (s *Server) orders(form url.Values) ([]operate.Order, error) {
	do, providers := form.Get("do"), form["provider"]
	switch {
	case means[do] == "":
		return nil, &mistake{"there is no such act", "choose one of those that are offered"}
	case len(providers) == 0:
		return nil, misplaced{field: "provider", mistake: &mistake{"choose at least one provider", "nothing was changed"}}
	}
	order := operate.Order{Act: operate.Act{Action: do}}
	if do == operate.ActPause || do == operate.ActLimit && form.Get("for") != "" {
		d, err := span(strings.TrimSpace(form.Get("for")))
		if err != nil {
			return nil, in("for", err)
		}
		order.Until = s.Desk.Now().Add(d).UTC()
	}
	if do == operate.ActLimit {
		limits := strings.TrimSpace(form.Get("limits"))
		number, _, _ := strings.Cut(limits, "/")
		parsed, err := ledger.ParseLimits(limits)
		switch {
		case limits == "default":
			order.Reset, order.Act.Limits = true, limits
		case limits == "" || strings.Trim(number, "0.") == "":
			return nil, misplaced{field: "limits", mistake: &mistake{fmt.Sprintf("a limit of %q could mean none, or that nothing may be called", limits), `a pause stops all calls, and "unlimited" takes the limits off`}}
		case err != nil:
			return nil, misplaced{field: "limits", mistake: &mistake{err.Error(), `write 60/min or 60/min,2/s, "unlimited" or "default"`}}
		default:
			order.Limits, order.Act.Limits = parsed, parsed.String()
		}
	}
	orders := make([]operate.Order, len(providers))
	for i, p := range providers {
		orders[i] = order
		orders[i].Provider = p
	}
	return orders, nil
}

// inForce is a provider's limits as they are, and whose.
func inForce(s operate.Status, now time.Time) string {
	var limits []string
	for _, p := range s.Permits {
		if p.Group == "" {
			limits = append(limits, p.Limit)
		}
	}
	text := s.Provider + " " + cmp.Or(strings.Join(limits, ","), s.LimitsChanged, "none that is known")
	if s.LimitsChanged == "" {
		return text
	}
	text += ", by " + cmp.Or(s.LimitsBy, "an operator")
	if !s.LimitsUntil.IsZero() {
		text += " until " + terminal.Clock(s.LimitsUntil, now)
	}
	return text
}
