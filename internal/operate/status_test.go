package operate_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/browse"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"
)

// What windows that are partly used take: nothing is free that is not left.
func TestWhatCallsTakeInWindows(t *testing.T) {
	minute, second := ledger.Window{N: 60, Per: time.Minute}, ledger.Window{N: 2, Per: time.Second}
	for name, c := range map[string]struct {
		n       int
		windows []ledger.Usage
		want    time.Duration
	}{
		"no limit":            {1000, nil, 0},
		"nothing is known":    {1000, []ledger.Usage{{}}, 0},
		"all is left":         {60, []ledger.Usage{{Window: minute, Left: 60}}, time.Second},
		"none is left":        {60, []ledger.Usage{{Window: minute}}, time.Minute},
		"half is left":        {60, []ledger.Usage{{Window: minute, Left: 30}}, 30 * time.Second},
		"more than is needed": {10, []ledger.Usage{{Window: minute, Left: 60}}, time.Second},
		"the longest counts":  {120, []ledger.Usage{{Window: second}, {Window: minute}}, 2 * time.Minute},
		"the short one":       {120, []ledger.Usage{{Window: second}, {Window: minute, Left: 90}}, time.Minute},
	} {
		if got := operate.WindowsTake(c.n, c.windows); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// Letters are counted, however large they are.
func TestLargeLettersAreCounted(t *testing.T) {
	d := newDesk(t)
	const many = 30 // six megabytes
	for i := range many {
		l := letter(fmt.Sprint("large-", i))
		l.Body = make([]byte, 200<<10)
		if _, err := d.JS.PublishMsg(t.Context(), l.DeadLetter()); err != nil {
			t.Fatal(err)
		}
	}
	f := d.fleet(d.open())
	defer f.Close()
	if s, err := f.Status(t.Context(), "fmp", nil); err != nil || s.Letters != many || s.Waiting != many {
		t.Errorf("%d letters, %d of them wait, of %d: %v", s.Letters, s.Waiting, many, err)
	}
}

// Letters are held, wait for their time or are due, and each counts once.
func TestAStatusTellsWhereLettersAre(t *testing.T) {
	d := newDesk(t)
	now := time.Now()
	put := func(provider, id string, class wire.Class, notBefore time.Time) {
		l := letter(id)
		l.Provider, l.Class, l.NotBefore = provider, class, notBefore
		d.put(l)
	}
	for _, provider := range []string{"fmp", "fred"} {
		put(provider, "later", wire.ClassTransient, now.Add(time.Hour))
		put(provider, "due", wire.ClassTransient, now.Add(-time.Hour))
		for i, class := range []wire.Class{wire.ClassCircuitOpen, wire.ClassPaused, wire.ClassThrottled, wire.ClassQuota} {
			put(provider, fmt.Sprint("parked-", i), class, now.Add(time.Hour))
		}
	}
	if err := fleet.Pause(t.Context(), d.KV, "fred", now.Add(time.Hour), "bob", "an outage"); err != nil {
		t.Fatal(err)
	}
	l := letter("item")
	d.bury(l)
	f := d.fleet(d.open())
	defer f.Close()
	seen := f.Seen()
	for provider, want := range map[string][5]int{"fmp": {6, 2, 4, 0, 1}, "fred": {6, 0, 0, 6, 0}, "none": {}} {
		s, err := f.Status(t.Context(), provider, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := [5]int{s.Letters, s.Waiting, s.Due, s.HeldLetters, s.Review}; got != want || s.Backlog != s.Due+s.HeldLetters || (s.Held == "paused") != (provider == "fred") {
			t.Errorf("%s: letters, waiting, due, held, review are %v, want %v: %+v", provider, got, want, s)
		}
		states := map[string]int{}
		for _, found := range d.walk(wire.StreamDLQ, browse.Filter{Provider: provider}) {
			states[seen.State(found)]++
		}
		if states["waiting"] != want[1] || states["due"] != want[2] || states["held"] != want[3] {
			t.Errorf("%s: %v, want %v", provider, states, want)
		}
	}
}

// What anybody may make up is counted apart, and shown by name only while it is
// little and was accepted once.
func TestNamesThatNobodyServesAreCountedApart(t *testing.T) {
	d := newDesk(t)
	desk := d.open()
	survey := func() operate.Survey {
		t.Helper()
		f := d.fleet(desk)
		defer f.Close()
		s, err := f.Survey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	put := func(i int) {
		l := letter("q")
		l.Provider = fmt.Sprint("gone-", i)
		d.put(l)
	}
	for i := range 10 {
		put(i)
	}
	if s := survey(); len(s.Providers) != 10 || s.Unserved.Letters != 0 || !s.Knows("gone-3") || s.Knows("gone-10") {
		t.Errorf("ten names of letters: %+v", s)
	}
	put(10)
	if s := survey(); len(s.Providers) != 0 || s.Unserved.Letters != 11 || len(s.Unserved.Names) != 11 || !s.Knows("gone-10") {
		t.Errorf("eleven: %+v", s)
	}
	for i := range 10 {
		if err := d.log.Delete(t.Context(), "", wire.StreamDLQ, uint64(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	d.bury(letter("item"))
	if _, err := d.JS.Publish(t.Context(), "fetch.request.made-up.batch.quote.alice", []byte(`{"id":"x"}`)); err != nil {
		t.Fatal(err)
	}
	if s := survey(); len(s.Providers) != 0 || s.Unserved.Letters != 1 || s.Unserved.Requests != 1 || s.Unserved.Review != 1 || s.Unserved.Released != 0 || strings.Join(s.Unserved.Names, " ") != "fmp gone-10 made-up" {
		t.Errorf("with a request: %+v", s)
	}
	if err := fleet.Pause(t.Context(), d.KV, "fmp", time.Now().Add(time.Hour), "bob", ""); err != nil { // who is named is known
		t.Fatal(err)
	}
	d.put(letter("known"))
	if s := survey(); strings.Join(s.Providers, " ") != "fmp" || s.Unserved.Letters != 1 || s.Unserved.Review != 0 || strings.Join(s.Unserved.Names, " ") != "gone-10 made-up" {
		t.Errorf("beside one that is known: %+v", s)
	}
}
