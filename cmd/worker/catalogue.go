package main

import (
	"strings"

	"fetchworker/internal/app"
	"fetchworker/internal/providers"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go/micro"
	"go.uber.org/zap"
)

// tellCatalogue tells agents what can be asked: of a provider named in the
// subject its operations, of a literal "*" the providers.
func tellCatalogue(set *providers.Set, logger *zap.Logger) app.Endpoint {
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
			err = r.RespondJSON(told)
		default:
			err = r.Error("404", record.HeaderValue("no provider named "+name+" is known here"), nil)
		}
		if err != nil {
			logger.Debug("catalogue", zap.Error(err)) // whoever asked asks again
		}
	}}
}
