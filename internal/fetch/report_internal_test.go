package fetch

import (
	"testing"
	"time"

	"fetchworker/internal/budget"
	"fetchworker/internal/providers"
	"fetchworker/internal/providers/plan"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

func TestWhatACallSaysAboutTheProvider(t *testing.T) {
	r := &request{call: &providers.Call{Operation: new(providers.Operation)}, served: &Served{Provider: &providers.Provider{API: &plan.API{Spec: sheet.Spec{Timeout: 5 * time.Second}}}}}
	for name, c := range map[string]struct {
		class   wire.Class
		latency time.Duration
		want    budget.Outcome
	}{
		"an answer":                        {wire.ClassOK, time.Second, budget.Success},
		"no such symbol":                   {wire.ClassPermanent, time.Second, budget.Success},
		"a failure":                        {wire.ClassTransient, time.Second, budget.Failure},
		"a timeout":                        {wire.ClassTransient, 5*time.Second + 100*time.Millisecond, budget.Failure},
		"a timeout of a frozen process":    {wire.ClassTransient, 20 * time.Second, budget.Neutral},
		"an answer to a frozen process":    {wire.ClassOK, 20 * time.Second, budget.Success},
		"a wrong key":                      {wire.ClassUnauthorized, time.Second, budget.Unauthorized},
		"too many calls":                   {wire.ClassThrottled, time.Second, budget.Throttled},
		"too many, to a frozen process":    {wire.ClassThrottled, 20 * time.Second, budget.Throttled},
		"a wrong key, to a frozen process": {wire.ClassUnauthorized, 20 * time.Second, budget.Unauthorized},
	} {
		if got := report(r, &providers.Result{Class: c.class, Latency: c.latency, Sent: true}).Outcome; got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
