package fetch

import (
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers"
	"fetchworker/internal/wire"
)

// TestWhoIsToBlame is what a failure becomes, by how many there were, by how
// the call was made and by what the circuits say.
func TestWhoIsToBlame(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	first := now.Add(-10 * time.Second)
	for name, c := range map[string]struct {
		failures int
		made     made
		outage   bool
		want     wire.Class
		counts   int
		spared   bool
	}{
		"the first":                       {0, ordinary, true, wire.ClassTransient, 1, false},
		"the last but one, in an outage":  {2, ordinary, true, wire.ClassTransient, 3, false},
		"the last":                        {3, ordinary, false, wire.ClassTransient, 4, false},
		"the last, in an outage":          {3, ordinary, true, wire.ClassCircuitOpen, 3, true},
		"a probe":                         {1, probe, false, wire.ClassCircuitOpen, 1, false},
		"a probe that would be its last":  {3, probe, false, wire.ClassCircuitOpen, 3, false},
		"the last, by another's own call": {3, shared, true, wire.ClassCircuitOpen, 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := dlq.Letter{Failures: c.failures}
			if c.failures > 0 {
				l.FirstFailedAt = first
			}
			asked := time.Time{}
			e := decide(facts{
				letter: l, result: &providers.Result{Class: wire.ClassTransient, HTTPStatus: 503, Detail: "status 503"},
				made: c.made, now: now, retries: 3,
				retryWait: func(int) time.Duration { return time.Second },
				hold:      func() time.Time { return time.Time{} },
				outage:    func(since time.Time) bool { asked = since; return c.outage },
				circuit: func() *budget.ClosedError {
					return &budget.ClosedError{Reason: fetchworker.ReasonCircuitOpen, Detail: "it is open", Until: now.Add(time.Minute)}
				},
			})
			if e.letter == nil || e.letter.Class != c.want || e.letter.Failures != c.counts || e.spare.IsZero() == c.spared {
				t.Errorf("letter %+v, spared %v", e.letter, e.spare)
			}
			if c.spared && (!e.spare.Equal(first) || !asked.Equal(first)) {
				t.Errorf("asked of %v, spared since %v; it failed first at %v", asked, e.spare, first)
			}
			if c.want == wire.ClassCircuitOpen && (e.answer == nil || e.answer.Problem.Detail != "it is open; the last attempt: status 503, the next probe at 2026-03-01T12:01:00Z" || e.answer.Problem.RetryAt.IsZero()) {
				t.Errorf("told %+v", e.answer)
			}
		})
	}
}
