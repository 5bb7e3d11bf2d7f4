package operate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/browse"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"
	"fetchworker/internal/wire"
)

// A canary lets the rest go when enough of it have succeeded, and stops it as
// soon as they cannot any more, or its time is over; what came back to wait has
// failed, and what another life was answered is no answer.
func TestACanaryDecides(t *testing.T) {
	ok, stale, failed, none := fetchworker.StatusOK, fetchworker.StatusStale, fetchworker.StatusFailed, fetchworker.Status("")
	for name, c := range map[string]struct {
		action   string
		of       int // 0: 4
		answered []fetchworker.Status
		done     int
		want     operate.CanaryError // zero: the rest goes
	}{
		"all succeed":           {operate.ActReplay, 0, []fetchworker.Status{ok, stale, ok, ok}, 8, operate.CanaryError{}},
		"just enough":           {operate.ActReplay, 0, []fetchworker.Status{ok, ok, failed, failed}, 8, operate.CanaryError{}},
		"one too few":           {operate.ActReplay, 0, []fetchworker.Status{ok, failed, failed, failed}, 4, operate.CanaryError{Of: 4, Succeeded: 1, Failed: 3}},
		"enough of those there": {operate.ActReplay, 0, []fetchworker.Status{ok, ok, none, none}, 8, operate.CanaryError{}},
		"too few in time":       {operate.ActReplay, 0, []fetchworker.Status{ok, none, none, none}, 4, operate.CanaryError{Of: 4, Succeeded: 1, Open: 3}},
		"the life before":       {operate.ActRequeue, 0, nil, 4, operate.CanaryError{Of: 4, Open: 4}},
		"a canary of all":       {operate.ActReplay, 8, []fetchworker.Status{failed, failed}, 8, operate.CanaryError{}},
		"back again":            {operate.ActReplay, 1, nil, 1, operate.CanaryError{Of: 1, Failed: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			var first dlq.Letter
			for i := range 8 {
				l := letter(fmt.Sprint("q-", i))
				if i == 0 {
					first = l
				}
				if c.action == operate.ActRequeue {
					d.bury(l)
					continue
				}
				d.put(l)
				if i < len(c.answered) && c.answered[i] != none {
					a := fetchworker.Answer{Identity: l.Identity, Status: c.answered[i], Final: true, Generation: 1}
					if a.Status == failed {
						p := fetchworker.Failure(l.Identity, fetchworker.CodeNotFound, "")
						a.Problem = &p
					}
					d.answer(a)
				}
			}
			task := &operate.Task{Action: c.action, Canary: max(c.of, 4), MinSuccess: 0.5}
			if c.of == 1 {
				task.Canary = 1
			}
			plan := d.begin(task)
			watch := silent()
			if name == "back again" {
				watch.Did = func() {
					first.Calls, first.Failures = 5, 5
					d.put(first)
				}
			}
			result, err := task.Do(t.Context(), plan, watch)
			var stopped *operate.CanaryError
			if errors.As(err, &stopped) != (c.want.Of > 0) || err != nil && stopped == nil {
				t.Fatalf("%+v, %v", result, err)
			}
			if stopped != nil {
				c.want.Need = 0.5
				if *stopped != c.want {
					t.Errorf("%+v, want %+v", *stopped, c.want)
				}
			}
			if result.Fates[operate.FateDone] != c.done {
				t.Errorf("%+v, want %d done", result.Fates, c.done)
			}
		})
	}
}

// Letters of a provider that is paused go by themselves when the pause ends:
// there is nothing to replay. To cancel and to decide need no provider.
func TestAPauseStopsAReplayAndNothingElse(t *testing.T) {
	d := newDesk(t)
	if err := fleet.Pause(t.Context(), d.KV, "fmp", time.Now().Add(time.Hour), "bob", "an outage"); err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{operate.ActReplay, operate.ActCancel, operate.ActRequeue, operate.ActDiscard} {
		l := letter(action)
		if action == operate.ActRequeue || action == operate.ActDiscard {
			d.bury(l)
		} else {
			d.put(l)
		}
		task := &operate.Task{Action: action, Filter: browse.Filter{ID: action}}
		plan := d.begin(task)
		result, err := task.Do(t.Context(), plan, silent())
		var held *operate.HoldError
		if stops := action == operate.ActReplay; errors.As(err, &held) != stops || !stops && result.Fates[operate.FateDone] != 1 || stops && (len(result.Fates) > 0 || held.Hold.By != "bob") {
			t.Errorf("%s: %+v, %v", action, result.Fates, err)
		}
	}
}

// What holds a provider up says whether its letters go by themselves.
func TestWhatStopsAReplay(t *testing.T) {
	d := newDesk(t)
	now := time.Now()
	open, err := circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenedAt: now, OpenUntil: now.Add(time.Hour), Why: "it fails"}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.KV.Put(t.Context(), store.CircuitKey("open"), open); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fleet.Pause(t.Context(), d.KV, "paused", now.Add(time.Hour), "bob", ""), fleet.Retire(t.Context(), d.KV, "retired", "bob", "")); err != nil {
		t.Fatal(err)
	}
	desk, err := operate.Open(t.Context(), d.NC)
	if err != nil {
		t.Fatal(err)
	}
	f, err := desk.Fleet(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for provider, want := range map[string]operate.Hold{
		"open":    {Provider: "open", Reason: fetchworker.ReasonCircuitOpen, Stops: true},
		"paused":  {Provider: "paused", Reason: fetchworker.ReasonPaused, Stops: true, By: "bob"},
		"retired": {Provider: "retired", Reason: fetchworker.ReasonNoWorker, Retired: true},
		"nobodys": {Provider: "nobodys", Reason: fetchworker.ReasonNoWorker},
	} {
		h, held := f.Hold(provider)
		if wantUntil := want.Stops; wantUntil == h.Until.IsZero() {
			t.Errorf("%s: until %v", provider, h.Until)
		}
		if h.Until = (time.Time{}); !held || h != want {
			t.Errorf("%s: %+v, want %+v", provider, h, want)
		}
	}
}

// What an operator may do to a provider, and what is told of its month, is by
// what its workers say of themselves, the most careful first.
func TestWhatWorkersSayBounds(t *testing.T) {
	d := newDesk(t)
	ctx, leave := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	for _, w := range []fleet.Worker{
		{Name: "w-1", Providers: []string{"fmp"}, Limits: map[string]string{"fmp": "10/s"}, Bytes: map[string]int64{"fmp": 100}},
		{Name: "w-2", Providers: []string{"fmp"}, Limits: map[string]string{"fmp": "10/s"}, Bytes: map[string]int64{"fmp": 50}},
		{Name: "w-3", Providers: []string{"fred"}, Limits: map[string]string{"fred": "10/s"}},
	} {
		workers.Go(func() { fleet.Present(ctx, d.JS, d.KV, w, func(err error) { t.Error(err) }) })
	}
	defer workers.Wait()
	defer leave()
	desk, err := operate.Open(t.Context(), d.NC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Increment(t.Context(), d.JS, wire.BytesSubject("fmp", time.Now()), 25, "once"); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := d.JS.Publish(t.Context(), "fetch.request.fmp.batch.quote.alice", fmt.Appendf(nil, `{"id":"q-%d"}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := desk.Fleet(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for deadline := time.Now().Add(20 * time.Second); len(f.Provider("fmp", desk.Now()).Workers)+len(f.Provider("fred", desk.Now()).Workers) < 3; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("they do not show")
		}
	}
	limits := func(text string) ledger.Limits {
		t.Helper()
		l, err := ledger.ParseLimits(text)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, c := range []struct {
		action, provider, limits string
		reset                    bool
		served, above            bool
	}{
		{operate.ActRetire, "fmp", "", false, true, false},
		{operate.ActRetire, "fred", "", false, true, false},
		{operate.ActRetire, "gone", "", false, false, false},
		{operate.ActLimit, "fmp", "5/s", false, false, false},
		{operate.ActLimit, "fmp", "20/s", false, false, true},
		{operate.ActLimit, "fmp", "20/s", true, false, false},
		{operate.ActPause, "fmp", "", false, false, false},
	} {
		o := operate.Order{Act: operate.Act{Action: c.action, Provider: c.provider}, Reset: c.reset}
		if c.limits != "" {
			o.Limits = limits(c.limits)
		}
		err := f.May(t.Context(), o)
		var served *operate.ServedError
		var above *operate.AboveError
		if errors.As(err, &served) != c.served || errors.As(err, &above) != c.above || err != nil && !c.served && !c.above {
			t.Errorf("%+v: %v", c, err)
		}
	}
	s, err := f.Status(t.Context(), "fmp", map[[2]string]int{{"fmp", "batch"}: 5})
	if err != nil {
		t.Fatal(err)
	}
	if s.BytesLimit != 50 || s.BytesUsed != 25 || len(s.Workers) != 2 {
		t.Errorf("%d of %d bytes, %v", s.BytesUsed, s.BytesLimit, s.Workers)
	}
	for _, lane := range s.Lanes {
		if want := map[string]int{"batch": 3}[lane.Lane]; lane.Waiting != 0 || lane.InFlight != want {
			t.Errorf("%+v: of three requests five are said to be held", lane)
		}
	}
}

// Nothing is done to a provider that is not recorded first.
func TestWhatCannotBeRecordedIsNotDone(t *testing.T) {
	d := newDesk(t)
	desk, err := operate.Open(t.Context(), d.NC)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.JS.DeleteStream(t.Context(), wire.StreamAudit); err != nil {
		t.Fatal(err)
	}
	before, err := d.KV.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{operate.ActPause, operate.ActResume, operate.ActLimit, operate.ActRetire} {
		o := operate.Order{Act: operate.Act{Action: action, Provider: "fmp", Until: time.Now().Add(time.Hour)}, Limits: ledger.Limits{{N: 1, Per: time.Second}}}
		short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if err := desk.Control(short, operate.Signature{By: "ann"}, o, func(err error) { t.Error(err) }); err == nil {
			t.Errorf("%s is done", action)
		}
		cancel()
	}
	after, err := d.KV.Status(t.Context())
	if err != nil || after.Values() != before.Values() {
		t.Errorf("%d keys were %d: %v", after.Values(), before.Values(), err)
	}
}

// A task that is about one message is about the one that its plan showed last.
func TestTheOneIsTheOneThatWasShown(t *testing.T) {
	d := newDesk(t)
	for _, id := range []string{"first", "second"} {
		d.bury(letter(id))
	}
	task := &operate.Task{Action: operate.ActDiscard}
	plan := d.begin(task)
	if one, err := task.One(t.Context(), plan); err != nil || one.ID != "second" {
		t.Fatalf("%s, %v", one.ID, err)
	}
	if result, err := task.Do(t.Context(), plan, silent()); err != nil || result.Fates[operate.FateDone] != 1 {
		t.Errorf("%+v, %v", result, err)
	}
	if left := d.only(wire.StreamReview); left.ID != "first" {
		t.Errorf("%s is left", left.ID)
	}
	task = &operate.Task{Action: operate.ActDiscard}
	plan = d.begin(task)
	d.bury(letter("first")) // anew
	if one, err := task.One(t.Context(), plan); !errors.Is(err, operate.ErrGone) {
		t.Errorf("%s, %v", one.ID, err)
	}
}

// What is asked for after the plan was shown is not cancelled, wherever it is.
func TestACancelIsOfWhatWasThere(t *testing.T) {
	d := newDesk(t)
	d.put(letter("before"))
	task := &operate.Task{Action: operate.ActCancel, Queued: true, Filter: browse.Filter{Agent: "alice"}}
	plan := d.begin(task)
	time.Sleep(2 * time.Millisecond)
	l := letter("after")
	l.RequestedAt = time.Now()
	d.put(l)
	if _, err := d.JS.Publish(t.Context(), "fetch.request.fmp.batch.quote.alice", []byte(`{"id":"queued"}`)); err != nil {
		t.Fatal(err)
	}
	result, err := task.Do(t.Context(), plan, silent())
	if err != nil || result.Fates[operate.FateDone] != 1 || len(result.Fates) != 1 {
		t.Errorf("%+v, %v", result, err)
	}
	if left := d.only(wire.StreamDLQ); left.ID != "after" || d.count(fetchworker.StreamRequests) != 1 {
		t.Errorf("%s is left", left.ID)
	}
}

// Counters of a day are as old as their last increment: one of before the asked
// day may have been written after it began.
func TestUsageIsOfTheDaysThatAreAsked(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		time.Sleep(time.Hour)
		now := time.Now().UTC()
		day := func(ago int) string { return now.AddDate(0, 0, -ago).Format(time.DateOnly) }
		n := int64(1)
		for ago := range 4 {
			for _, provider := range []string{"fmp", "fred"} {
				for _, agent := range []string{"alice", "bob"} {
					for _, subject := range []string{"fetch.usage." + provider + "." + agent + "." + day(ago) + ".calls", "fetch.cause." + provider + "." + agent + "." + day(ago) + ".transient-503"} {
						if _, err := store.Increment(t.Context(), b.JS, subject, n, subject); err != nil {
							t.Fatal(err)
						}
						n *= 2
					}
				}
			}
		}
		desk, err := operate.Open(t.Context(), b.NC)
		if err != nil {
			t.Fatal(err)
		}
		of := func(kind, provider, agent string, days int) (sum int64) {
			n := int64(1)
			for ago := range 4 {
				for _, p := range []string{"fmp", "fred"} {
					for _, a := range []string{"alice", "bob"} {
						for _, k := range []string{"usage", "cause"} {
							if k == kind && ago < days && (provider == "" || p == provider) && (agent == "" || a == agent) {
								sum += n
							}
							n *= 2
						}
					}
				}
			}
			return sum
		}
		for _, provider := range []string{"", "fmp"} {
			for _, agent := range []string{"", "bob"} {
				for _, c := range []struct {
					since time.Time
					days  int
				}{{time.Time{}, 4}, {now, 1}, {now.Truncate(24 * time.Hour), 1}, {now.Truncate(24 * time.Hour).Add(-1), 2}, {now.AddDate(0, 0, -2), 3}, {now.AddDate(0, -1, 0), 4}} {
					f := operate.UsageFilter{Provider: provider, Agent: agent, Since: c.since}
					rows, err := desk.Usage(t.Context(), f)
					if err != nil {
						t.Fatal(err)
					}
					var calls int64
					for _, u := range rows {
						calls += u.Calls
					}
					if want := of("usage", provider, agent, c.days); calls != want {
						t.Errorf("%+v: %b calls, want %b", f, calls, want)
					}
					for _, by := range []string{"agent", "provider", "day", "cause"} {
						var sum int64
						for _, u := range operate.SumBy(rows, by) {
							sum += u.Calls
						}
						if sum != calls {
							t.Errorf("%+v by %s: %b calls of %b", f, by, sum, calls)
						}
					}
					causes, err := desk.Causes(t.Context(), f)
					if err != nil {
						t.Fatal(err)
					}
					var failed int64
					for i, c := range causes {
						if failed += c.Count; i > 0 && c.Count > causes[i-1].Count || c.Cause != "transient-503" {
							t.Errorf("%+v: %+v", f, causes)
						}
					}
					if want := of("cause", provider, "", c.days); failed != want { // the operation, not the agent
						t.Errorf("%+v: %b failed, want %b", f, failed, want)
					}
				}
			}
		}
	})
}

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
	desk, err := operate.Open(t.Context(), d.NC)
	if err != nil {
		t.Fatal(err)
	}
	f, err := desk.Fleet(t.Context())
	if err != nil {
		t.Fatal(err)
	}
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
	desk, err := operate.Open(t.Context(), d.NC)
	if err != nil {
		t.Fatal(err)
	}
	survey := func() operate.Survey {
		t.Helper()
		f, err := desk.Fleet(t.Context())
		if err != nil {
			t.Fatal(err)
		}
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

// No cell of a table is a formula, whoever wrote what is in it.
func TestNoCellIsAFormula(t *testing.T) {
	l := letter("q-1")
	l.Error, l.Body, l.Traceparent = "=1+1", []byte("@SUM(1)"), "00-=x-y-01"
	for i, cell := range operate.ExportCells(browse.Found{Letter: l}) {
		if cell != "" && strings.ContainsAny(cell[:1], "=+-@") {
			t.Errorf("%s: %s", operate.ExportColumns[i], cell)
		}
	}
}

// No cell of a table is obeyed by a terminal, and a request in it is the JSON
// that it was.
func TestNoCellIsObeyedByATerminal(t *testing.T) {
	l := letter("q-1")
	body := "{\"params\":{\"symbol\":\"A\u202eB\u009bC\u2028D\u200b\"}}"
	for _, bytes := range []string{body, "\x1b[2J\x9b\xff", "\"\u202e\"", "a\r\nb\x00\x7f", "{\"params\":\r\n\t{}}"} {
		l.Error, l.Body, l.Agent, l.Operation = "\x1b]52;c;eA==\x07\u009b2J\u2066\r\n\xff", []byte(bytes), "al\x1bice", "quo\u202ete"
		cells := operate.ExportCells(browse.Found{Letter: l})
		for i, cell := range cells {
			if cell != terminal.Visible(cell) {
				t.Errorf("%s: %q", operate.ExportColumns[i], cell)
			}
		}
		var before, after any
		if err := json.Unmarshal(operate.RequestJSON(l.Body), &before); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(cells[len(cells)-1]), &after); err != nil || !reflect.DeepEqual(before, after) {
			t.Errorf("%q became %q: %v", bytes, cells[len(cells)-1], err)
		}
	}
}

// An edited request is one that the wire accepts, under the id that it had.
func TestAnEditIsARequestThatTheWireAccepts(t *testing.T) {
	f := browse.Found{Letter: letter("q-1")}
	long := func(n int) string {
		body := `{"params":{"symbol":"AAPL","x":""}}`
		return strings.Replace(body, `""`, `"`+strings.Repeat("x", n-len(body))+`"`, 1)
	}
	for body, good := range map[string]bool{
		`{"params":{"symbol":"MSFT"}}`:                                true,
		` {"id":"q-1","params":{"symbol":"MSFT"}} `:                   true,
		`{"id":"q-2","params":{"symbol":"MSFT"}}`:                     false,
		` {"id":"q-1","params":{"symbol":"AAPL"}} ` + "\n":            false, // nothing was changed
		`{"params":{"symbol":"MSFT"}`:                                 false,
		`{"params":{"symbol":"MSFT"},"colour":1}`:                     false,
		`{"params":{"symbol":"MSFT"},"reply_to":"fetch.reply.bob.x"}`: false,
		long(fetchworker.MaxRequestBytes):                             true,
		long(fetchworker.MaxRequestBytes + 1):                         false,
		`{"params":{"symbol":"MSFT"},"ttl":"-1s"}`:                    false,
		"": false,
	} {
		edited, err := operate.Edited(f, []byte(body))
		if (err == nil) != good || good && string(edited) != strings.TrimSpace(body) {
			t.Errorf("%.80s: %v", body, err)
		}
	}
}
