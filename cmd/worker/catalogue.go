package main

import (
	"slices"
	"strings"

	"fetchworker"
	"fetchworker/internal/app"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/fetch"
	"fetchworker/internal/providers"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go/micro"
	"go.uber.org/zap"
)

// tellCatalogue tells agents what can be asked: of a provider named in the
// subject its operations and how it stands, of a literal "*" the providers.
func tellCatalogue(set *providers.Set, board *fleet.View, serving []fetch.Served, logger *zap.Logger) app.Endpoint {
	return app.Endpoint{Name: "catalog", Subject: "fetch.catalog.*", Handle: func(r micro.Request) {
		name := r.Subject()[strings.LastIndexByte(r.Subject(), '.')+1:]
		told, known := set.Tell(name)
		var err error
		switch {
		case name == "*":
			var all struct {
				Providers []string `json:"providers"`
			}
			for _, p := range set.All() {
				all.Providers = append(all.Providers, p.Name)
			}
			err = r.RespondJSON(all)
		case known:
			told.Now = standing(board, serving, name)
			told.Configured = told.Configured || told.Now.Workers > 0 // by another of the fleet
			err = r.RespondJSON(told)
		default:
			err = r.Error("404", record.HeaderValue("no provider named "+name+" is known here"), nil)
		}
		if err != nil {
			logger.Debug("catalogue", zap.Error(err)) // whoever asked asks again
		}
	}}
}

// standing is how a provider stands, as the fleet shares it. Nothing of it says
// what any one agent did.
func standing(board *fleet.View, serving []fetch.Served, name string) *fetchworker.Standing {
	now := board.Now()
	p := board.Provider(name, now)
	s := &fetchworker.Standing{At: now.UTC(), Workers: len(p.Workers), NextAt: p.NextAt.UTC()}
	s.Reason, s.RetryAt = board.Held(name, now)
	if s.Reason == "" && s.Workers == 0 {
		s.Reason = fetchworker.ReasonNoWorker
	}
	for _, w := range slices.Concat(p.Windows, p.Groups) {
		s.Limits = append(s.Limits, fetchworker.WindowLeft{Calls: w.N, Per: fetchworker.Duration(w.Per), Left: w.Left, Group: w.Group})
	}
	for _, o := range p.Circuit.OpenOperations() {
		if o.ForAll() {
			s.Open = append(s.Open, fetchworker.OpenCalls{Operation: o.Name, Until: o.Until().UTC()})
		}
	}
	for _, sv := range serving {
		if sv.Provider.Name != name {
			continue
		}
		if state := sv.Gate.State(); state.BytesLimit > 0 {
			s.Bytes = &fetchworker.BytesLeft{Used: state.BytesUsed, Limit: state.BytesLimit, Ends: state.MonthEnds.UTC()}
		}
	}
	return s
}
