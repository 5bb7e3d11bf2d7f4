package operate_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/operate"
)

// An operator's limit that is used up is theirs and not the provider's: it is
// told with who set it, and holds no longer than it is in force; a backlog is
// gone by what holds after it. While a circuit is open nobody knows when.
func TestAnOperatorsLimitIsTheirs(t *testing.T) {
	d := newDesk(t)
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	limits := func(text string) ledger.Limits {
		t.Helper()
		l, err := ledger.ParseLimits(text)
		check(err)
		return l
	}
	check(fleet.Beat(ctx, d.JS, fleet.Worker{Name: "w-1", Providers: []string{"fmp"}, Limits: map[string]string{"fmp": "100/h"}}))
	check(budget.CreateRegister(ctx, d.KV, "fmp"))
	gate, err := budget.Open(ctx, d.JS, d.KV, budget.Settings{Provider: "fmp", Worker: "w-1", Limits: limits("100/h")}, func(budget.Event) {})
	check(err)
	permit, err := gate.Acquire(ctx, turns.Ask{Lane: budget.LaneOf(fetchworker.LaneInteractive), Alone: true})
	check(err)
	check(permit.Start())
	permit.Done(budget.Report{Outcome: budget.Success})
	gate.Close()
	for i := range 3 {
		_, err := d.JS.Publish(ctx, fetchworker.RequestSubject("fmp", fetchworker.LaneBatch, "quote", "alice"), fmt.Appendf(nil, `{"id":"q-%d"}`, i))
		check(err)
	}
	desk, err := operate.Open(ctx, d.NC)
	check(err)
	look := func() (operate.Hold, operate.Status, time.Duration) {
		t.Helper()
		f, err := desk.Fleet(ctx)
		check(err)
		defer f.Close()
		h, _ := f.Hold("fmp")
		s, err := f.Status(ctx, "fmp", nil)
		check(err)
		gone := f.Gone(map[string]int{"fmp": 3})
		if gone.IsZero() {
			return h, s, 0
		}
		return h, s, gone.Sub(desk.Now())
	}
	if h, s, gone := look(); h != (operate.Hold{}) || s.LimitsBy != "" || s.BacklogGone.IsZero() || gone <= 0 {
		t.Errorf("nothing holds it: %+v, %+v, %v", h, s, gone)
	}
	until := time.Now().Add(10 * time.Minute).UTC().Round(time.Second)
	check(fleet.SetLimits(ctx, d.KV, "fmp", limits("1/h"), until, "olga", "a test"))
	h, s, _ := look()
	if h.Reason != fetchworker.ReasonQuota || h.By != "olga" || h.Limits != "1/h" || !h.Until.Equal(until) || !strings.Contains(h.Words(desk.Now()), "the limit 1/h that olga has set for fmp") {
		t.Errorf("%+v: %s", h, h.Words(desk.Now()))
	}
	if s.LimitsBy != "olga" || s.LimitsWhy != "a test" || !s.LimitsUntil.Equal(until) || s.BacklogGone.Sub(until).Abs() > time.Minute {
		t.Errorf("%+v, gone %v after the limit's end", s, s.BacklogGone.Sub(until))
	}
	check(fleet.SetLimits(ctx, d.KV, "fmp", limits("1/h"), time.Time{}, "olga", ""))
	if h, s, _ := look(); h.By != "olga" || h.Until.Before(until) || s.BacklogGone.Sub(desk.Now()) < 2*time.Hour {
		t.Errorf("for good: %+v, gone at %v", h, s.BacklogGone)
	}
	check(fleet.ResetLimits(ctx, d.KV, "fmp"))
	open, err := circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenedAt: time.Now(), OpenUntil: time.Now().Add(time.Minute), Why: "it fails"}}.Encode()
	check(err)
	_, err = d.KV.Put(ctx, store.CircuitKey("fmp"), open)
	check(err)
	if _, s, gone := look(); s.Backlog != 3 || !s.BacklogGone.IsZero() || gone != 0 {
		t.Errorf("while its circuit is open: %d gone at %v, or after %v", s.Backlog, s.BacklogGone, gone)
	}
	// Of one agent's: what waits in the queues goes, and letters may not.
	alices, err := circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenedAt: time.Now(), OpenUntil: time.Now().Add(time.Minute), Why: "it fails", Agent: "alice"}}.Encode()
	check(err)
	_, err = d.KV.Put(ctx, store.CircuitKey("fmp"), alices)
	check(err)
	if _, s, gone := look(); s.BacklogGone.IsZero() || gone == 0 {
		t.Errorf("while alice's is open: %+v", s)
	}
	stream, err := d.JS.Stream(ctx, fetchworker.StreamRequests)
	check(err)
	check(stream.Purge(ctx))
	l := letter("q-1")
	l.NotBefore = time.Now().Add(-time.Hour)
	d.put(l)
	if _, s, _ := look(); s.Backlog != 1 || !s.BacklogGone.IsZero() {
		t.Errorf("with a letter that is due only: %d gone at %v", s.Backlog, s.BacklogGone)
	}
}
