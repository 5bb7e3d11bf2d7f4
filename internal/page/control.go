package page

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/operate"

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
}

var means = map[string]string{
	operate.ActPause:  "Within a second nobody calls any more. Requests are answered from stale bodies where they allow it, else they wait and go by themselves when the pause ends.",
	operate.ActResume: "The pause ends, the circuit closes, a hold is lifted. What was parked goes within ten seconds, as the permits allow. If the provider is still down its circuit opens again after a few failures; no request is harmed.",
	operate.ActLimit:  "The new limits hold for the whole fleet at once. What was called already counts in their windows, so it may begin slowly.",
	operate.ActRetire: "What waits for it and what is new is answered provider_not_configured; review items stay. A worker that serves it brings it back.",
}

// control shows what an act on providers means, and asks.
func (s *Server) control(r *http.Request) (view, error) {
	q := r.URL.Query()
	data := controlView{Do: q.Get("do"), Providers: q["provider"], All: q.Get("all") != "", For: q.Get("for"), Limits: q.Get("limits"), Means: means[q.Get("do")]}
	if data.Means == "" {
		return missing("there is no such act"), nil
	}
	o, err := s.looks.get(r.Context())
	if err != nil {
		return view{}, err
	}
	if data.Known, err = s.Fleet.Served(r.Context()); err != nil {
		return view{}, err
	}
	if data.All {
		data.Providers = data.Known
	}
	if o != nil {
		for _, p := range o.Providers {
			if slices.Contains(data.Providers, p.Provider) {
				data.Backlog += p.Backlog
			}
		}
	}
	return view{Name: "control", Title: data.Do, Nav: "overview", Data: data, Still: true}, nil
}

// obey does an act on providers: all checked first, then each recorded, done
// and announced.
func (s *Server) obey(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, func() (string, error) {
		if err := r.ParseForm(); err != nil {
			return "", &mistake{"the form cannot be read", "try it again"}
		}
		orders, err := s.orders(r.PostForm)
		if err != nil {
			return "", err
		}
		by, reason := oneLine(r.PostForm.Get("by"), longestName), oneLine(r.PostForm.Get("reason"), 500)
		if by == "" || reason == "" {
			return "", &mistake{"say who you are, and why", "colleagues will read it in the audit"}
		}
		known, err := s.Fleet.Served(r.Context())
		if err != nil {
			return "", err
		}
		for _, o := range orders {
			if !slices.Contains(known, o.Provider) {
				return "", &mistake{"no provider " + o.Provider, "there are " + strings.Join(known, ", ")}
			}
			var served *operate.ServedError
			var above *operate.AboveError
			switch err := s.Fleet.May(r.Context(), o); {
			case errors.As(err, &above) && r.PostForm.Get("above") == "":
				return "", &mistake{above.Error(), "tick that the provider allows it"}
			case errors.As(err, &served):
				return "", &mistake{served.Error(), "stop these workers first"}
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
	if means[do] == "" || len(providers) == 0 {
		return nil, &mistake{"choose an act, and at least one provider", "nothing was changed"}
	}
	order := operate.Order{Act: operate.Act{Action: do}}
	if do == operate.ActPause || do == operate.ActLimit && form.Get("for") != "" {
		d, err := span(form.Get("for"))
		if err != nil {
			return nil, err
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
			return nil, &mistake{fmt.Sprintf("a limit of %q could mean none, or that nothing may be called", limits), `a pause stops all calls, and "unlimited" takes the limits off`}
		case err != nil:
			return nil, &mistake{err.Error(), `write 60/min or 60/min,2/s, "unlimited" or "default"`}
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
