package fetch

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/cancel"
	"fetchworker/internal/record"

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
	c := newCancels(cancel.NewGuard(view, "w"))
	desk := cancel.NewDesk(view, record.New(b.JS, nil), func(string) bool { return true }, time.Hour, zap.NewNop())
	waits := func(agent string) (r *request, ended chan struct{}, over func()) {
		r, ended = new(request), make(chan struct{})
		r.Identity = fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: agent, ID: "q"}
		r.Lane, r.RequestedAt = fetchworker.LaneBatch, time.Now().Add(-time.Minute)
		return r, ended, c.during(r, sync.OnceFunc(func() { close(ended) }))
	}
	_, meanwhile, over := waits("alice")
	_, others, overToo := waits("bob")
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
	over()
	overToo()
	overAlready()
	if len(c.waiting) != 0 {
		t.Errorf("%d waits are remembered", len(c.waiting))
	}
}
