package operate_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

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

// What is done is told as done, also where nobody could be told of it: that is
// said apart.
func TestWhatCannotBeAnnouncedIsDone(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		desk, err := operate.Open(t.Context(), b.NC)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.JS.DeleteStream(t.Context(), fetchworker.StreamEvents); err != nil {
			t.Fatal(err)
		}
		until := time.Now().Add(time.Hour)
		lost := 0
		o := operate.Order{Act: operate.Act{Action: operate.ActPause, Provider: "fmp", Until: until}}
		if err := desk.Control(t.Context(), operate.Signature{By: "ann"}, o, func(error) { lost++ }); err != nil || lost != 1 {
			t.Errorf("%v, and %d announcements are said to be lost", err, lost)
		}
		f, err := desk.Fleet(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if h, held := f.Hold("fmp"); !held || !h.Until.Equal(until) {
			t.Errorf("it is not paused: %+v", h)
		}
	})
}

// A replayer whose pull has just ended has not gone.
func TestAReplayerBetweenTwoPullsRuns(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		if err := broker.ServeDLQ(t.Context(), b.JS); err != nil {
			t.Fatal(err)
		}
		desk, err := operate.Open(t.Context(), b.NC)
		if err != nil {
			t.Fatal(err)
		}
		if runs, err := desk.Replayers(t.Context()); runs || err != nil {
			t.Errorf("none runs, and %t is told: %v", runs, err)
		}
		c, err := b.JS.Consumer(t.Context(), wire.StreamDLQ, broker.ReplayerConsumer)
		if err != nil {
			t.Fatal(err)
		}
		var pulling sync.WaitGroup
		pulling.Go(func() {
			time.Sleep(50 * time.Millisecond)
			batch, err := c.Fetch(1, jetstream.FetchMaxWait(5*time.Second))
			if err != nil {
				t.Error(err)
				return
			}
			for range batch.Messages() {
				t.Error("there is a letter")
			}
		})
		if runs, err := desk.Replayers(t.Context()); !runs || err != nil {
			t.Errorf("one runs, and %t is told: %v", runs, err)
		}
		pulling.Wait()
	})
}

// What workers have in their hands is summed over all shards of a lane.
func TestWhatIsHeldIsOfAllShards(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		const agents = 8
		shards := map[int]bool{}
		for i := range agents {
			if _, err := b.JS.Publish(t.Context(), fmt.Sprintf("fetch.request.fmp.batch.quote.agent-%d", i), []byte(`{"id":"q"}`)); err != nil {
				t.Fatal(err)
			}
		}
		for shard := range wire.Shards {
			c, err := b.JS.CreateConsumer(t.Context(), fetchworker.StreamRequests, broker.RequestConsumer("fmp", fetchworker.LaneBatch, shard, 16))
			if err != nil {
				t.Fatal(err)
			}
			batch, err := c.FetchNoWait(agents)
			if err != nil {
				t.Fatal(err)
			}
			for range batch.Messages() {
				shards[shard] = true
			}
		}
		desk, err := operate.Open(t.Context(), b.NC)
		if err != nil {
			t.Fatal(err)
		}
		f, err := desk.Fleet(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		held, err := f.InFlight(t.Context())
		if err != nil || held[[2]string{"fmp", "batch"}] != agents || len(shards) < 2 {
			t.Errorf("%v are held, of %d in %d shards: %v", held, agents, len(shards), err)
		}
	})
}
