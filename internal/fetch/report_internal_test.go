package fetch

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

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

// All that an answer says of waiting and of calls left reaches the gate.
func TestWhatTheGateIsToldOfACall(t *testing.T) {
	r := &request{call: &providers.Call{Operation: new(providers.Operation)}, served: &Served{Provider: &providers.Provider{API: &plan.API{Spec: sheet.Spec{Timeout: 5 * time.Second}}}}}
	got := report(r, &providers.Result{
		Class: wire.ClassThrottled, Sent: true, WireBytes: 7, RetryAfter: 2 * time.Second, MinHold: 3 * time.Second, HoldSent: "Retry-After: 2",
		Remaining: 4, Reset: 5 * time.Second, Window: time.Minute,
	})
	want := budget.Report{
		Outcome: budget.Throttled, Bytes: 7, RetryAfter: 2 * time.Second, MinHold: 3 * time.Second, Sent: "Retry-After: 2",
		Remaining: 4, Reset: 5 * time.Second, Window: time.Minute,
	}
	if got != want {
		t.Errorf("%+v\nwant\n%+v", got, want)
	}
	if got := report(r, &providers.Result{Class: wire.ClassOK, Remaining: -1, Reset: -1}); got.Remaining != -1 || got.Reset != 0 {
		t.Errorf("where nothing is said: %+v", got)
	}
}

// What was not an answer of the provider's to this request says no more than
// that: each kind of it has its own weight.
func TestWhatAFailedCallWeighs(t *testing.T) {
	r := &request{call: &providers.Call{Operation: new(providers.Operation)}, served: &Served{Provider: &providers.Provider{API: &plan.API{Spec: sheet.Spec{Timeout: 5 * time.Second}}}}}
	for name, c := range map[string]struct {
		result providers.Result
		want   budget.Outcome
	}{
		"no connection":                    {providers.Result{Class: wire.ClassTransient, Err: errors.New("refused")}, budget.Unreached},
		"a connection that broke":          {providers.Result{Class: wire.ClassTransient, Err: errors.New("reset"), Sent: true}, budget.Failure},
		"a time-out":                       {providers.Result{Class: wire.ClassTransient, ErrorType: "timeout", Sent: true}, budget.Failure},
		"status 500":                       {providers.Result{Class: wire.ClassTransient, HTTPStatus: 500, Sent: true}, budget.Failure},
		"status 418":                       {providers.Result{Class: wire.ClassTransient, HTTPStatus: 418, Sent: true}, budget.Odd},
		"no call: the permit had lapsed":   {providers.Result{Class: wire.ClassTransient, Err: fmt.Errorf("dial: %w", budget.ErrLapsed)}, budget.Unused},
		"a call whose permit lapsed later": {providers.Result{Class: wire.ClassTransient, Err: budget.ErrLapsed, Sent: true}, budget.Failure},
	} {
		if got := report(r, &c.result).Outcome; got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestATextIsNotCutThroughACharacter: its answer would be no JSON.
func TestATextIsNotCutThroughACharacter(t *testing.T) {
	for before := range 4 {
		s := strings.Repeat("x", before) + strings.Repeat("€", longestDetail)
		if got := clip(s); !utf8.ValidString(got) || len(got) > longestDetail+len("…") || !strings.HasSuffix(got, "€…") {
			t.Errorf("%q", got)
		}
	}
	if s := strings.Repeat("x", longestDetail); clip(s) != s {
		t.Error("what is not too long was cut")
	}
}
