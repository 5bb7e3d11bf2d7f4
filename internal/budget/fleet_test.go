package budget

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"

	"github.com/nats-io/nats.go/jetstream"
)

func TestView(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.CallTimeout = 10 * time.Second })
		view, err := fleet.Watch(t.Context(), b.js, b.kv)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		held := func(want fetchworker.Reason) time.Time {
			t.Helper()
			settle()
			reason, until := view.Held("fmp", time.Now())
			if reason != want {
				t.Errorf("held by %q, want %q", reason, want)
			}
			return until
		}
		due := func() bool { return view.Provider("fmp", time.Now()).Circuit.Due(time.Now()) }
		held("")
		for range 5 {
			b.call(g, Success, "")
		}
		settle()
		v := view.Provider("fmp", time.Now())
		if len(v.Windows) != 1 || v.Windows[0].N != 120 || v.Windows[0].Left != 115 || v.Windows[0].LastMinute != 5 {
			t.Errorf("%+v", v.Windows)
		}

		if err := fleet.Pause(t.Context(), b.kv, "fmp", time.Now().Add(time.Hour), "alice", "x"); err != nil {
			t.Fatal(err)
		}
		b.about(held(fetchworker.ReasonPaused), time.Now().Add(time.Hour))
		if err := fleet.Resume(t.Context(), b.kv, "fmp"); err != nil {
			t.Fatal(err)
		}
		held("")

		b.outage(g)
		until := held(fetchworker.ReasonCircuitOpen)
		if due() {
			t.Error("a probe is due at once")
		}
		time.Sleep(time.Until(until))
		if !due() {
			t.Error("no probe is due")
		}
		p := b.begin(g, asks("p"))
		settle()
		if due() || !view.Provider("fmp", time.Now()).Circuit.ProbeLeased(time.Now()) {
			t.Error("a probe is due while one is out")
		}
		<-view.Changed()
		p.Done(throttled(10 * time.Minute))
		b.about(held(fetchworker.ReasonThrottled), time.Now().Add(10*time.Minute))
		if err := fleet.Resume(t.Context(), b.kv, "fmp"); err != nil {
			t.Fatal(err)
		}
		held("")
		if v := view.Provider("fmp", time.Now()); v.Circuit.State != circuit.Closed || !v.HoldUntil.IsZero() {
			t.Errorf("%+v", v)
		}
	})
}

func TestViewSeesAQuota(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Limits = ledger.Limits{{N: 4, Per: 24 * time.Hour}} })
		view, err := fleet.Watch(t.Context(), b.js, b.kv)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		for range 4 {
			b.call(g, Success, "")
		}
		settle()
		reason, until := view.Held("fmp", time.Now())
		if reason != fetchworker.ReasonQuota || time.Until(until) < time.Hour {
			t.Errorf("held by %q until %v", reason, until)
		}
	})
}

func TestViewForgetsAnOldLimit(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Limits = ledger.Limits{{N: 4, Per: 24 * time.Hour}} })
		view, err := fleet.Watch(t.Context(), b.js, b.kv)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		for range 3 {
			b.call(g, Success, "")
		}
		if err := fleet.SetLimits(t.Context(), b.kv, "fmp", nil, time.Time{}, "alice", "a new plan"); err != nil {
			t.Fatal(err)
		}
		settle()
		if reason, until := view.Held("fmp", time.Now()); reason != "" {
			t.Errorf("held by %q until %v, but there is no limit any more", reason, until)
		}
		b.call(g, Success, "")
	})
}

func TestViewAfterARestart(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		view, err := fleet.Watch(t.Context(), b.js, b.kv)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		if err := fleet.Beat(t.Context(), b.js, fleet.Worker{Name: "w1", Providers: []string{"fmp"}}); err != nil {
			t.Fatal(err)
		}
		settle()
		if len(view.Workers()) != 1 {
			t.Fatal("not seen")
		}
		b.stop()
		time.Sleep(2 * time.Minute) // nobody beats, and no marker is ever told
		b.start()
		time.Sleep(10 * time.Second)
		if w := view.Workers(); len(w) != 0 {
			t.Errorf("%+v", w)
		}
		if v := view.Provider("fmp", time.Now()); v.NoneSince.IsZero() {
			t.Error("a provider without a worker")
		}
	})
}

// A key that a server brought back after a hard death never expires: whoever
// it names is no worker all the same, and it is taken away.
func TestAGhostIsNoWorker(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		early, err := fleet.Watch(t.Context(), b.js, b.kv)
		if err != nil {
			t.Fatal(err)
		}
		defer early.Close()
		if _, err := b.kv.Put(t.Context(), store.WorkerKey("ghost"), []byte(`{"name":"ghost","providers":["fmp"]}`)); err != nil {
			t.Fatal(err)
		}
		settle()
		if len(early.Workers()) != 1 {
			t.Fatal("a worker that has just spoken lives")
		}
		time.Sleep(time.Minute)
		late, err := fleet.Watch(t.Context(), b.js, b.kv)
		if err != nil {
			t.Fatal(err)
		}
		defer late.Close()
		settle()
		for name, view := range map[string]*fleet.View{"early": early, "late": late} {
			v := view.Provider("fmp", time.Now())
			if len(view.Workers()) != 0 || len(v.Workers) != 0 {
				t.Errorf("%s: it sees %+v", name, v.Workers)
			}
			if d := time.Since(v.NoneSince); d < 40*time.Second || d > time.Minute {
				t.Errorf("%s: without a worker for %v, want about 45 s", name, d)
			}
		}
		if lives, err := fleet.Lives(t.Context(), b.kv, "ghost"); err != nil || lives {
			t.Errorf("it lives: %v %v", lives, err)
		}
		time.Sleep(10 * time.Second)
		if err := late.Bury(t.Context(), b.kv); err != nil {
			t.Fatal(err)
		}
		if _, err := b.kv.Get(t.Context(), store.WorkerKey("ghost")); !errors.Is(err, jetstream.ErrKeyNotFound) {
			t.Errorf("its key: %v", err)
		}
	})
}

func TestPresence(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		view, err := fleet.Watch(t.Context(), b.js, b.kv)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		var all sync.WaitGroup
		live := func(name string, providers ...string) context.CancelFunc {
			ctx, cancel := context.WithCancel(t.Context())
			all.Go(func() {
				fleet.Present(ctx, b.js, b.kv, fleet.Worker{Name: name, Version: "v1", Providers: providers}, func(err error) { t.Error(err) })
			})
			settle()
			return cancel
		}
		leave := live("w1", "fmp", "fred")
		if err := fleet.Beat(t.Context(), b.js, fleet.Worker{Name: "dying", Providers: []string{"polygon"}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if w := view.Workers(); len(w) != 2 || w[1].Name != "w1" || w[1].Version != "v1" {
			t.Errorf("%+v", w)
		}
		if v := view.Provider("polygon", time.Now()); len(v.Workers) != 1 || !v.NoneSince.IsZero() {
			t.Errorf("%+v", v)
		}
		time.Sleep(time.Minute) // one keeps beating, one is dead
		if w := view.Workers(); len(w) != 1 {
			t.Errorf("%+v", w)
		}
		if d := time.Since(view.Provider("polygon", time.Now()).NoneSince); d < 50*time.Second || d > time.Minute {
			t.Errorf("without a worker for %v, want about 55 s", d)
		}
		gone := time.Now()
		leave()
		all.Wait()
		settle()
		if v := view.Provider("fred", time.Now()); len(v.Workers) != 0 || v.NoneSince.Sub(gone) > time.Second {
			t.Errorf("%+v", v)
		}
		stop := live("w2", "fred")
		if v := view.Provider("fred", time.Now()); len(v.Workers) != 1 {
			t.Errorf("%+v", v)
		}
		stop()
		all.Wait()
	})
}
