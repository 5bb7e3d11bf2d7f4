package fetch

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/cancel"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
)

// Of all that park a few are on their way to the server at a time, and each of
// them gets its turn; others are not held up.
func TestWhatParksIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Worker{parks: semaphore.NewWeighted(parksAtOnce), stores: newStores(nil, nil, zap.NewNop())}
		var now, most, done atomic.Int64
		write := func() error {
			n := now.Add(1)
			most.Store(max(most.Load(), n))
			time.Sleep(10 * time.Millisecond)
			now.Add(-1)
			done.Add(1)
			return nil
		}
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if err := w.keep(t.Context(), &request{delivery: &delivery{}, parks: true}, write); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Millisecond)
		began := time.Now()
		if err := w.keep(t.Context(), &request{delivery: &delivery{}}, func() error { return nil }); err != nil || time.Since(began) > 0 {
			t.Errorf("who does not park has waited %v: %v", time.Since(began), err)
		}
		all.Wait()
		if most.Load() != parksAtOnce || done.Load() != 100 {
			t.Errorf("%d at a time, %d done", most.Load(), done.Load())
		}
	})
}

// A wait that begins when its request is cancelled already ends at once, one
// that is cancelled meanwhile then, and nothing is remembered of either.
func TestAWaitOfACancelledRequestEnds(t *testing.T) {
	b := brokertest.Start(t)
	view, err := cancel.Watch(t.Context(), b.JS, b.KV)
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	c := newCancels(cancel.NewGuard(view, "w"), new(stirs))
	desk := cancel.NewDesk(view, record.New(b.JS, nil), func(string) bool { return true }, time.Hour, zap.NewNop())
	waits := func(agent string) (r *request, ended chan struct{}, over func()) {
		r, ended = new(request), make(chan struct{})
		r.Identity = fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: agent, ID: "q"}
		r.Lane, r.RequestedAt = fetchworker.LaneBatch, time.Now().Add(-time.Minute)
		return r, ended, c.during(r, sync.OnceFunc(func() { close(ended) }))
	}
	w := &Worker{stirs: c.stirs, cancels: c, maxLife: time.Hour, stopping: t.Context()}
	stirred := func(r *request) bool {
		stirs := w.untilOver(t.Context(), r).Stirs()
		if stirs == nil {
			return true
		}
		select {
		case <-stirs:
			return true
		default:
			return false
		}
	}
	alices, meanwhile, over := waits("alice")
	bobs, others, overToo := waits("bob")
	looks := w.untilOver(t.Context(), alices).Stirs()
	if looks == nil {
		t.Fatal("a wait of what nobody has cancelled is over")
	}
	if _, err := desk.Take(t.Context(), "fetch.cancel.fmp.alice", []byte(`{"all":true}`)); err != nil {
		t.Fatal(err)
	}
	_, already, overAlready := waits("alice")
	for name, ended := range map[string]chan struct{}{"cancelled meanwhile": meanwhile, "cancelled before": already} {
		select {
		case <-ended:
		case <-time.After(10 * time.Second): //nolint:forbidigo // of a test that fails
			t.Errorf("%s: it waits", name)
		}
	}
	select {
	case <-others:
		t.Error("another agent's wait has ended")
	default:
	}
	select {
	case <-looks:
	case <-time.After(10 * time.Second): //nolint:forbidigo // of a test that fails
		t.Error("who waits for a permit does not look whether it is cancelled")
	}
	if !stirred(alices) || stirred(bobs) {
		t.Error("a wait that is over by a cancel does not know, or another's does")
	}
	over()
	overToo()
	overAlready()
	if len(c.waiting) != 0 {
		t.Errorf("%d waits are remembered", len(c.waiting))
	}
}

// A wait is looked at whenever it may be over: at its request's end, at a stop, at
// whatever is cancelled, and after a while; one that is over, or about to be, is
// waited for by its own end from the start.
func TestAWaitIsLookedAtWhenItMayBeOver(t *testing.T) {
	closed := func(stirs <-chan struct{}) bool {
		synctest.Wait()
		select {
		case <-stirs:
			return true
		default:
			return false
		}
	}
	for name, c := range map[string]struct {
		left     time.Duration // of the request's life
		deadline time.Duration // 0: none
		before   func(w *Worker, stop, kill func())
		none     bool // it is over, or about to be
		does     func(w *Worker, stop, kill func())
		stirs    bool
	}{
		"nothing happens":           {left: time.Hour},
		"a while passes":            {left: time.Hour, does: func(*Worker, func(), func()) { time.Sleep(stirEach) }, stirs: true},
		"a while has nearly passed": {left: time.Hour, does: func(*Worker, func(), func()) { time.Sleep(stirEach - 1) }},
		"the worker stops":          {left: time.Hour, does: func(_ *Worker, stop, _ func()) { stop() }, stirs: true},
		"it is made to end":         {left: time.Hour, does: func(_ *Worker, _, kill func()) { kill() }, stirs: true},
		"somebody cancels":          {left: time.Hour, does: func(w *Worker, _, _ func()) { w.cancels.wake("fmp", "bob") }, stirs: true},
		"it has stopped":            {left: time.Hour, before: func(_ *Worker, stop, _ func()) { stop() }, none: true},
		"it has been made to end":   {left: time.Hour, before: func(_ *Worker, _, kill func()) { kill() }, none: true},
		"its life is about to end":  {left: stirEach, none: true},
		"its life ends after that":  {left: stirEach + 1},
		"its deadline is about to":  {left: time.Hour, deadline: stirEach, none: true},
		"its deadline is after":     {left: time.Hour, deadline: stirEach + 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stopping, stop := context.WithCancel(t.Context())
				working, kill := context.WithCancel(t.Context())
				defer stop()
				defer kill()
				w := &Worker{stirs: new(stirs), maxLife: time.Hour, stopping: stopping, working: working}
				w.cancels = newCancels(nil, w.stirs)
				defer w.stirs.at(stopping, working)()
				if c.before != nil {
					c.before(w, stop, kill)
					synctest.Wait()
				}
				r := new(request)
				r.RequestedAt = time.Now().Add(c.left - w.maxLife)
				if c.deadline > 0 {
					r.Deadline = time.Now().Add(c.deadline)
				}
				stirs := w.untilOver(working, r).Stirs()
				if (stirs == nil) != c.none {
					t.Fatalf("there is one to wait for: %v", stirs != nil)
				}
				if c.does != nil {
					c.does(w, stop, kill)
				}
				if stirs != nil && closed(stirs) != c.stirs {
					t.Errorf("it is looked at: %v", !c.stirs)
				}
			})
		})
	}
}

// A call that is judged again on another connection holds up no order by the one
// before.
func TestACallOnANewConnectionIsOneCall(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		view, err := cancel.Watch(t.Context(), b.JS, b.KV)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		guard := cancel.NewGuard(view, "w")
		c := newCancels(guard, new(stirs))
		desk := cancel.NewDesk(view, record.New(b.JS, nil), func(string) bool { return true }, time.Hour, zap.NewNop())
		r := new(request)
		r.Identity = fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q"}
		r.Lane, r.RequestedAt = fetchworker.LaneBatch, time.Now()
		for range 2 { // connections
			if err := c.mayCall(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		r.written()
		time.Sleep(100 * time.Millisecond)
		asked := time.Now()
		if _, err := desk.Take(t.Context(), "fetch.cancel.fmp.alice", []byte(`{"all":true}`)); err != nil || time.Since(asked) > 500*time.Millisecond {
			t.Errorf("an order took %v: %v", time.Since(asked), err)
		}
		if err := guard.Leave(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// In which lane a request waits for its permit: what comes back waits behind
// what is fresh, whatever lane it was of.
func TestWhoseTurnARequestTakes(t *testing.T) {
	for _, c := range []struct {
		lane     fetchworker.Lane
		replayed bool
		want     turns.Lane
	}{
		{fetchworker.LaneInteractive, false, turns.Interactive},
		{fetchworker.LaneBatch, false, turns.Batch},
		{fetchworker.LaneInteractive, true, turns.Replay},
		{fetchworker.LaneBatch, true, turns.Replay},
	} {
		r := &request{delivery: &delivery{replayed: c.replayed}}
		if r.Lane = c.lane; laneOf(r) != c.want {
			t.Errorf("%s, replayed %t: %v", c.lane, c.replayed, laneOf(r))
		}
	}
	// A replayed one is of its agent's shard, as it was when it was fresh.
	for _, agent := range []string{"alice", "bob", "a-long-name-of-an-agent"} {
		subject := fmt.Sprintf("fetch.request.fmp.batch.quote.%s", agent)
		b := brokertest.Start(t)
		if _, err := b.JS.Publish(t.Context(), subject, []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
		stream, err := b.JS.Stream(t.Context(), fetchworker.StreamRequests)
		if err != nil {
			t.Fatal(err)
		}
		m, err := stream.GetMsg(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		address, err := wire.ParseSubject(m.Subject)
		if err != nil {
			t.Fatal(err)
		}
		r := &request{delivery: &delivery{replayed: true}}
		if r.Agent = agent; shardOf(r) != address.Shard {
			t.Errorf("%s is of shard %d, and its letter of %d", agent, address.Shard, shardOf(r))
		}
	}
}
