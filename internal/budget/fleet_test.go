package budget

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
		// There was no pause: that somebody had all go on is an order all the same.
		if v := view.Provider("fmp", time.Now()); v.Circuit.State != circuit.Closed || !v.HoldUntil.IsZero() || time.Since(v.Control.Resumed) > time.Second || time.Since(v.Ordered) > time.Second {
			t.Errorf("%+v", v)
		}
	})
}

// TestViewHoldsWhatHoldsEverybody: a circuit that is open for one agent's calls,
// for one call, or for one operation, holds nobody else's letters.
func TestViewHoldsWhatHoldsEverybody(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		view, err := fleet.Watch(t.Context(), b.js, b.kv)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		is := func(agent, call string) circuit.Circuit {
			return circuit.Circuit{State: circuit.Open, Agent: agent, Call: call, OpenedAt: time.Now(), OpenUntil: time.Now().Add(time.Minute)}
		}
		for _, c := range []struct {
			r    circuit.Record
			want fetchworker.Reason
		}{
			{circuit.Record{Circuit: is("", "")}, fetchworker.ReasonCircuitOpen},
			{circuit.Record{Circuit: is("alice", "")}, ""},
			{circuit.Record{Circuit: is("alice", "quote/A")}, ""},
			{circuit.Record{Operations: []circuit.Operation{{Name: "quote", Circuit: is("", "")}}}, ""},
		} {
			value, err := c.r.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.kv.Put(t.Context(), store.CircuitKey("fmp"), value); err != nil {
				t.Fatal(err)
			}
			settle()
			if reason, until := view.Held("fmp", time.Now()); reason != c.want || until.IsZero() == (c.want != "") {
				t.Errorf("held by %q until %v, want %q: %s", reason, until, c.want, value)
			}
		}
	})
}

// TestAnOrderThatIsToEndHasNotEnded: when orders last changed is never a moment
// to come, or what is parked would go at once.
func TestAnOrderThatIsToEndHasNotEnded(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		view, err := fleet.Watch(t.Context(), b.js, b.kv)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		ordered := time.Now()
		if err := fleet.Pause(t.Context(), b.kv, "fmp", ordered.Add(time.Minute), "alice", "x"); err != nil {
			t.Fatal(err)
		}
		if err := fleet.SetLimits(t.Context(), b.kv, "fmp", perMinute(10), ordered.Add(time.Hour), "alice", "x"); err != nil {
			t.Fatal(err)
		}
		settle()
		for after, want := range map[time.Duration]time.Duration{time.Second: 0, 59 * time.Second: 0, 61 * time.Second: time.Minute, 59 * time.Minute: time.Minute, time.Hour: time.Hour, 2 * time.Hour: time.Hour} {
			b.about(view.Provider("fmp", ordered.Add(after)).Ordered, ordered.Add(want))
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

// Where nobody asks, an operator's limits that ended are not those in force: what
// workers are configured for is, where they agree.
func TestViewForgetsAnOperatorsLimit(t *testing.T) {
	for name, c := range map[string]struct {
		told []string
		held bool
	}{
		"a larger one":       {[]string{"300/min"}, false},
		"none":               {[]string{"unlimited", "unlimited"}, false},
		"none, in two words": {[]string{"unlimited", "0/min", "0"}, false},
		"as small":           {[]string{"4/10m"}, true},
		"in other words":     {[]string{"300/min", "300/1m0s", "300/60s"}, false},
		"in another order":   {[]string{"300/min,900/1h0m0s", "900/h,300/min"}, false},
		"one has more":       {[]string{"300/min,900/h", "300/min"}, true},
		"one has less":       {[]string{"300/min", "300/min,900/h"}, true},
		"one has none":       {[]string{"300/min", "unlimited"}, true},
		"another has none":   {[]string{"unlimited", "300/min"}, true},
		"workers disagree":   {[]string{"300/min", "5/h"}, true},
		"one tells nothing":  {[]string{"300/min", ""}, true},
		"nobody lives":       {nil, true},
		"it cannot be read":  {[]string{"many"}, true},
		"several in a limit": {[]string{"300/min,4/10m"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				g := b.open("w1", func(s *Settings) { s.Limits = ledger.Limits{{N: 300, Per: time.Minute}} })
				view, err := fleet.Watch(t.Context(), b.js, b.kv)
				if err != nil {
					t.Fatal(err)
				}
				defer view.Close()
				small := ledger.Limits{{N: 4, Per: 10 * time.Minute}}
				if err := fleet.SetLimits(t.Context(), b.kv, "fmp", small, time.Time{}, "alice", "a small plan"); err != nil {
					t.Fatal(err)
				}
				settle()
				for range 4 {
					b.call(g, Success, "")
				}
				for i, limits := range c.told {
					w := fleet.Worker{Name: fmt.Sprint("w", i), Providers: []string{"fmp"}}
					if limits != "" {
						w.Limits = map[string]string{"fmp": limits}
					}
					if err := fleet.Beat(t.Context(), b.js, w); err != nil {
						t.Fatal(err)
					}
				}
				settle()
				if reason, until := view.Held("fmp", time.Now()); reason != fetchworker.ReasonQuota || time.Until(until) < 5*time.Minute {
					t.Errorf("under the small limit it is held by %q until %v", reason, until)
				}
				if err := fleet.ResetLimits(t.Context(), b.kv, "fmp"); err != nil {
					t.Fatal(err)
				}
				settle()
				if reason, until := view.Held("fmp", time.Now()); (reason == fetchworker.ReasonQuota) != c.held {
					t.Errorf("held by %q until %v", reason, until)
				}
			})
		})
	}
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

// Who asks seldom who lives is told all the same, and watches only for a while.
func TestAViewThatIsConsulted(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		js, kv := b.connect()
		mirror, err := store.NewMirror(t.Context(), js, kv, nil, fleet.OwnKeys("self")...)
		if err != nil {
			t.Fatal(err)
		}
		defer mirror.Close()
		view := fleet.Consult(js, kv, mirror)
		defer view.Close()
		consumers := func() int {
			synctest.Wait()
			stream, err := b.js.Stream(t.Context(), "KV_"+store.Bucket)
			if err != nil {
				t.Fatal(err)
			}
			return stream.CachedInfo().State.Consumers
		}
		var all sync.WaitGroup
		live := func(name string, providers ...string) context.CancelFunc {
			ctx, cancel := context.WithCancel(t.Context())
			all.Go(func() {
				fleet.Present(ctx, b.js, b.kv, fleet.Worker{Name: name, Providers: providers}, func(err error) { t.Error(err) })
			})
			settle()
			return cancel
		}
		absent := func(provider string, about time.Duration) {
			t.Helper()
			v := view.Provider(provider, time.Now())
			if d := time.Since(v.NoneSince); len(v.Workers) != 0 || d < about-time.Second || d > about+time.Second {
				t.Errorf("%s: %d workers, none for %v, want about %v", provider, len(v.Workers), d, about)
			}
		}
		began := time.Now()
		leave := live("w1", "fmp", "fred")
		time.Sleep(time.Minute)
		if n := consumers(); n != 1 {
			t.Errorf("%d consumers, and nobody has asked", n)
		}
		if w := view.Workers(); len(w) != 1 || w[0].Name != "w1" || len(view.Provider("fred", time.Now()).Workers) != 1 {
			t.Errorf("%+v", w)
		}
		absent("polygon", time.Since(began))
		if n := consumers(); n != 2 {
			t.Errorf("%d consumers after a question", n)
		}
		time.Sleep(20 * time.Second)
		if n := consumers(); n != 1 {
			t.Errorf("%d consumers when nobody has asked for a while", n)
		}
		// One whom it knew goes, and one whom it never met dies, while it looks away.
		leave()
		time.Sleep(time.Second)
		if err := fleet.Beat(t.Context(), b.js, fleet.Worker{Name: "stranger", Providers: []string{"newsapi"}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		absent("newsapi", 5*time.Second)
		if v := view.Provider("fmp", time.Now()); len(v.Workers) != 0 || time.Since(v.NoneSince) < 5*time.Second || time.Since(v.NoneSince) > 22*time.Second {
			t.Errorf("%d workers, none for %v", len(v.Workers), time.Since(v.NoneSince))
		}
		// While it looks it sees at once who comes and goes.
		leave = live("w2", "fmp")
		if len(view.Provider("fmp", time.Now()).Workers) != 1 {
			t.Error("who comes is not seen")
		}
		leave()
		all.Wait()
		settle()
		absent("fmp", 0)
		b.stop()
		time.Sleep(2 * time.Minute)
		if w := view.Workers(); len(w) != 0 {
			t.Errorf("without a server: %+v", w)
		}
		b.start()
		time.Sleep(10 * time.Second)
		leave = live("w3", "fmp")
		if len(view.Workers()) != 1 {
			t.Error("after a restart nobody is seen")
		}
		leave()
		all.Wait()
	})
}

// One who was met long ago and went just now has been gone since just now, also
// where nobody looked in between; and while the server cannot be asked nobody is
// said to be gone, nor waits.
func TestAViewThatLookedAwayForLong(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		js, kv := b.connect()
		mirror, err := store.NewMirror(t.Context(), js, kv, nil, fleet.OwnKeys("self")...)
		if err != nil {
			t.Fatal(err)
		}
		defer mirror.Close()
		view := fleet.Consult(js, kv, mirror)
		defer view.Close()
		none := func() time.Duration {
			v := view.Provider("fmp", time.Now())
			if len(v.Workers) > 0 {
				return 0
			}
			return time.Since(v.NoneSince)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			fleet.Present(ctx, b.js, b.kv, fleet.Worker{Name: "w1", Providers: []string{"fmp"}}, func(err error) { t.Error(err) })
		})
		settle()
		if len(view.Provider("fmp", time.Now()).Workers) != 1 {
			t.Error("who lives is not seen")
		}
		time.Sleep(10 * time.Minute)
		cancel()
		all.Wait()
		time.Sleep(3 * time.Second)
		if d := none(); d < 2*time.Second || d > 4*time.Second {
			t.Errorf("none for %v, who went 3 s ago", d)
		}
		time.Sleep(5 * time.Minute)
		if d := none(); d < 5*time.Minute {
			t.Errorf("none for %v, who went 5 minutes ago", d)
		}
		time.Sleep(time.Minute)
		b.stop()
		time.Sleep(time.Minute)
		began := time.Now()
		for range 10 {
			if d := none(); d > 5*time.Second {
				t.Errorf("the server cannot be asked, and none is said to live for %v", d)
			}
		}
		if d := time.Since(began); d > 0 {
			t.Errorf("ten questions took %v while the server was away", d)
		}
		b.start()
		time.Sleep(10 * time.Second)
		if d := none(); d < 5*time.Minute {
			t.Errorf("none for %v when it can be asked again", d)
		}
	})
}

// What the watch has told before a beat says nothing of the beat.
func TestABeatIsToldAfterItIsSaid(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		js, kv := b.connect()
		self := fleet.Worker{Name: "self", Providers: []string{"fmp"}}
		if err := fleet.Beat(t.Context(), js, self); err != nil { // before it was restarted
			t.Fatal(err)
		}
		mirror, err := store.NewMirror(t.Context(), js, kv, nil, fleet.OwnKeys("self")...)
		if err != nil {
			t.Fatal(err)
		}
		defer mirror.Close()
		stream, err := b.js.Stream(t.Context(), "KV_"+store.Bucket)
		if err != nil {
			t.Fatal(err)
		}
		for name := range stream.ConsumerNames(t.Context()).Name() {
			if err := stream.DeleteConsumer(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		var failed atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			fleet.Presence{Worker: self, Mirror: mirror}.Run(ctx, js, kv, func(error) { failed.Add(1) })
		})
		time.Sleep(4 * time.Second)
		if failed.Load() != 1 {
			t.Errorf("%d of the first beats were missed, whose watch tells nothing", failed.Load())
		}
		cancel()
		all.Wait()
	})
}

// A beat is told to whom it is of: that is its acknowledgement, and shows that
// the watch is alive. One that is dead is opened anew.
func TestABeatShowsThatTheWatchLives(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		js, kv := b.connect()
		mirror, err := store.NewMirror(t.Context(), js, kv, nil, fleet.OwnKeys("self")...)
		if err != nil {
			t.Fatal(err)
		}
		defer mirror.Close()
		view := fleet.Consult(js, kv, mirror)
		defer view.Close()
		var busy atomic.Bool
		var failed atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			lives := fleet.Presence{Worker: fleet.Worker{Name: "self", Providers: []string{"fmp"}}, Mirror: mirror, Busy: busy.Load}
			lives.Run(ctx, js, kv, func(error) { failed.Add(1) })
		})
		beats := func() uint64 {
			stream, err := b.js.Stream(t.Context(), "KV_"+store.Bucket)
			if err != nil {
				t.Fatal(err)
			}
			before := stream.CachedInfo().State.LastSeq
			time.Sleep(time.Minute)
			info, err := stream.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return info.State.LastSeq - before
		}
		if n := beats(); n < 5 || n > 7 {
			t.Errorf("%d beats of an idle worker in a minute", n)
		}
		busy.Store(true)
		if n := beats(); n < 11 || n > 13 {
			t.Errorf("%d beats of one with work in a minute", n)
		}
		if n := failed.Load(); n > 0 {
			t.Errorf("%d beats failed", n)
		}
		busy.Store(false)
		stream, err := b.js.Stream(t.Context(), "KV_"+store.Bucket)
		if err != nil {
			t.Fatal(err)
		}
		for name := range stream.ConsumerNames(t.Context()).Name() {
			if err := stream.DeleteConsumer(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(20 * time.Second)
		if err := fleet.Pause(t.Context(), b.kv, "fmp", time.Now().Add(time.Minute), "alice", "x"); err != nil {
			t.Fatal(err)
		}
		settle()
		if view.Provider("fmp", time.Now()).PausedUntil.IsZero() {
			t.Error("a pause is not seen 20 s after the watch was taken away")
		}
		if failed.Load() == 0 {
			t.Error("nobody was told")
		}
		cancel()
		all.Wait()
		settle()
		if w := view.Workers(); len(w) != 0 {
			t.Errorf("after its end: %+v", w)
		}
	})
}
