package cancel

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/wire"
)

// A view that opens while nobody answers waits no longer than who asks for it.
func TestAViewThatIsNotOpened(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		var cable brokertest.Wire
		js, end := b.Through(t, &cable)
		defer end()
		kv, err := js.KeyValue(t.Context(), wire.BucketProviders)
		if err != nil {
			t.Fatal(err)
		}
		cable.Break("CONSUMER.CREATE.KV_"+wire.BucketProviders, brokertest.RequestLost, 1<<20, 0)
		why := errors.New("no longer")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, why)
		defer cancel()
		began := time.Now()
		v, err := Watch(ctx, js, kv)
		if v != nil || !errors.Is(err, why) || time.Since(began) > 4*time.Second {
			t.Errorf("%v, %v after %v", v, err, time.Since(began))
		}
	})
}

// Everybody is told of each mark once, of those that are there already too, and
// of none again because a watch was opened anew; a mark that is gone or cannot be
// read cancels nothing.
func TestWhoIsToldOfAMark(t *testing.T) {
	inOffice(t, func(t *testing.T, o *office) {
		v := o.guard.View
		var told []string
		early := func(provider, agent string) { told = append(told, provider+" "+agent) }
		tell := func(when string, want ...string) {
			t.Helper()
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if slices.Sort(told); !slices.Equal(told, want) {
				t.Errorf("%s: told of %v, want %v", when, told, want)
			}
			told = nil
		}
		v.OnMark(early)
		tell("nothing is cancelled")
		o.order(byAll)
		tell("all of hers is", "fmp alice")
		v.OnMark(early)
		tell("whoever comes later", "fmp alice")
		o.order(byAll)
		tell("again", "fmp alice", "fmp alice")
		v.reopen()
		time.Sleep(time.Second)
		tell("a new watch")
		other := request("q-1")
		other.Agent = "bob"
		if got := [2]Verdict{v.Judge(request("q-1")), v.Judge(other)}; got != [2]Verdict{Cancelled, Goes} {
			t.Errorf("hers and another's: %v", got)
		}
		put := func(text string) {
			if _, err := o.b.KV.PutString(t.Context(), markKey("fmp", "alice"), text); err != nil {
				t.Fatal(err)
			}
		}
		put("no mark")
		tell("what cannot be read")
		if got := v.Judge(request("q-1")); got != Goes {
			t.Errorf("what cannot be read: %v", got)
		}
		o.order(byAll)
		tell("it is replaced", "fmp alice", "fmp alice")
		if got := v.Judge(request("q-1")); got != Cancelled {
			t.Errorf("replaced: %v", got)
		}
		if err := o.b.KV.Delete(t.Context(), markKey("fmp", "alice")); err != nil {
			t.Fatal(err)
		}
		tell("it is gone")
		if got := v.Judge(request("q-1")); got != Goes || len(v.marks) != 0 {
			t.Errorf("gone: %v", got)
		}
		if err := Note(t.Context(), o.b.JS, o.desk.log, "fmp", "alice", time.Now()); err != nil {
			t.Fatal(err)
		}
		tell("an operator's", "fmp alice", "fmp alice")
		if got := v.Judge(request("q-1")); got != Look {
			t.Errorf("an operator's: %v", got)
		}
	})
}

// Who may call is who has beaten within a lease and what clocks may differ by.
func TestWhoMayCall(t *testing.T) {
	now := time.Now()
	v := &View{beats: map[string]time.Time{
		"now": now, "lately": now.Add(-leaseLasts), "just": now.Add(1 - leaseLasts - skew), "over": now.Add(-leaseLasts - skew), "long": now.Add(-time.Hour),
	}}
	if got, want := v.callers(now), map[string]time.Duration{"now": leaseLasts + skew, "lately": skew, "just": 1}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	v.marks = map[string]seenMark{"fmp.alice": {revision: 7, stored: now.Add(time.Second)}}
	for revision, want := range map[uint64]time.Time{7: now.Add(time.Second), 6: now} {
		if got := v.storedAt("fmp", "alice", revision, now); !got.Equal(want) {
			t.Errorf("revision %d was stored %v, want %v", revision, got, want)
		}
	}
	if got := v.storedAt("fmp", "bob", 7, now); !got.Equal(now) {
		t.Errorf("no mark was stored %v", got)
	}
}

// What an order takes in of those before is what it says itself, and no more: of
// any two orders what each cancels is cancelled after both.
func TestNoOrderTakesBackWhatAnotherCancelled(t *testing.T) {
	early := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	late := early.Add(time.Minute)
	var orders []Order
	for _, operation := range []string{"", "quote", "bars"} {
		for _, lane := range []fetchworker.Lane{"", fetchworker.LaneBatch, fetchworker.LaneInteractive} {
			orders = append(orders, Order{All: true, Operation: operation, Lane: lane})
		}
	}
	orders = append(orders, Order{}, Order{Operation: "quote", IDs: []string{"a"}})
	var requests []Request
	for _, operation := range []string{"quote", "bars", "news"} {
		for _, lane := range []fetchworker.Lane{fetchworker.LaneBatch, fetchworker.LaneInteractive} {
			for _, stored := range []time.Time{early.Add(-1), early, late.Add(-1), late} {
				requests = append(requests, Request{Identity: fetchworker.Identity{Operation: operation}, Lane: lane, Stored: stored})
			}
		}
	}
	mark := func(m Mark, o Order, at time.Time) Mark {
		t.Helper()
		next, err := m.with(o, at, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	for _, first := range orders {
		for _, second := range orders {
			for _, at := range [][2]time.Time{{early, late}, {late, early}, {late, late}} {
				both := mark(mark(Mark{}, first, at[0]), second, at[1])
				if len(both.All) > 1 && first.All && second.All && first.Operation == second.Operation && first.Lane == second.Lane && !at[0].After(at[1]) {
					t.Errorf("%+v twice: %+v", first, both)
				}
				for _, r := range requests {
					want := max(mark(Mark{}, first, at[0]).judge(r), mark(Mark{}, second, at[1]).judge(r))
					if got := both.judge(r); got != want {
						t.Errorf("%+v of %v, then %+v of %v: %v of %+v, want %v", first, at[0], second, at[1], got, r, want)
					}
				}
			}
		}
	}
}
