package operate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/operate"
	"fetchworker/internal/wire"
)

// Each field of a filter selects what it says and no more; a span of time has
// its beginning in it and not its end.
func TestActsAndEventsAreThoseAskedFor(t *testing.T) {
	d := newDesk(t)
	desk, err := operate.Open(t.Context(), d.NC)
	if err != nil {
		t.Fatal(err)
	}
	acts := []operate.Act{
		{Action: "replay", Provider: "fmp", Operation: "quote", Agent: "alice", ID: "a", Class: wire.ClassTransient},
		{Action: "discard", Provider: "fred", Operation: "series", Agent: "bob", ID: "b", Class: wire.ClassPermanent},
		{Action: "replay", Provider: "fred", Operation: "quote", Agent: "bob", ID: "a", Class: wire.ClassThrottled},
		{Action: "pause", Provider: "fmp"},
	}
	for i, a := range acts {
		by := []string{"ann", "joe"}[i%2]
		if err := operate.RecordAct(t.Context(), d.JS, operate.Signature{By: by, Reason: "because", Run: "r"}, a); err != nil {
			t.Fatal(err)
		}
		kind := []string{"circuit", "control"}[i/2]
		if _, err := d.JS.Publish(t.Context(), wire.EventSubject(kind, a.Provider), fmt.Appendf(nil, `{"id":"%d"}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	found := func(f operate.ActFilter) (ids string, at []time.Time) {
		for a, err := range operate.Acts(t.Context(), d.browser, f) {
			if err != nil {
				t.Fatal(err)
			}
			ids += a.Action[:1] + a.Provider[1:2] + a.ID + " "
			at = append(at, a.Stored)
		}
		return strings.TrimSpace(ids), at
	}
	all, at := found(operate.ActFilter{})
	if all != "pm rra drb rma" {
		t.Fatal(all)
	}
	slices.Reverse(at)
	for _, c := range []struct {
		f    operate.ActFilter
		want string
	}{
		{operate.ActFilter{Action: "replay"}, "rra rma"},
		{operate.ActFilter{Provider: "fmp"}, "pm rma"},
		{operate.ActFilter{Operation: "quote"}, "rra rma"},
		{operate.ActFilter{Agent: "bob"}, "rra drb"},
		{operate.ActFilter{ID: "a"}, "rra rma"},
		{operate.ActFilter{By: "joe"}, "pm drb"},
		{operate.ActFilter{Class: wire.ClassPermanent}, "drb"},
		{operate.ActFilter{Action: "replay", Provider: "fred"}, "rra"},
		{operate.ActFilter{Action: "discard", Provider: "fmp"}, ""},
		{operate.ActFilter{Since: at[0]}, "pm rra drb rma"},
		{operate.ActFilter{Since: at[1]}, "pm rra drb"},
		{operate.ActFilter{Until: at[2]}, "drb rma"},
		{operate.ActFilter{Since: at[1], Until: at[2]}, "drb"},
		{operate.ActFilter{Until: at[0]}, ""},
	} {
		if got, _ := found(c.f); got != c.want {
			t.Errorf("%+v: %s, want %s", c.f, got, c.want)
		}
	}
	looked := 0
	if got, _ := found(operate.ActFilter{ID: "a", Looked: func(time.Time) bool { looked++; return looked < 3 }}); got != "rra" || looked != 3 {
		t.Errorf("a search that ends early: %s, after %d", got, looked)
	}
	events := func(f operate.EventFilter) (ids string, at []time.Time) {
		for e, err := range desk.Events(t.Context(), f) {
			if err != nil {
				t.Fatal(err)
			}
			ids += e.ID
			at = append(at, e.Stored)
		}
		return ids, at
	}
	ids, at := events(operate.EventFilter{})
	if ids != "3210" {
		t.Fatal(ids)
	}
	slices.Reverse(at)
	for want, f := range map[string]operate.EventFilter{
		"32": {Kind: "control"}, "30": {Provider: "fmp"}, "1": {Kind: "circuit", Provider: "fred"},
		"321": {Since: at[1]}, "10": {Until: at[2]}, "2": {Since: at[2], Until: at[3]}, "": {Until: at[0]},
	} {
		if got, _ := events(f); got != want {
			t.Errorf("%+v: %s, want %s", f, got, want)
		}
	}
}
