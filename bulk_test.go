package fetchworker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go"
)

// Whatever way a request is published, each of its errors names it, so that its
// answer can be found later.
func TestEveryErrorNamesItsRequest(t *testing.T) {
	one := slices.Values([]fetchworker.Request{quote("q-1")})
	for how, do := range map[string]func(context.Context, *fetchworker.Client) (fetchworker.Identity, error){
		"Submit": func(ctx context.Context, c *fetchworker.Client) (fetchworker.Identity, error) {
			r, err := c.Submit(ctx, quote("q-1"))
			return r.Identity, err
		},
		"Fetch": func(ctx context.Context, c *fetchworker.Client) (fetchworker.Identity, error) {
			a, err := c.Fetch(ctx, quote("q-1"))
			return a.Identity, err
		},
		"Ask": func(ctx context.Context, c *fetchworker.Client) (fetchworker.Identity, error) {
			a, err := c.Ask(ctx, quote("q-1"))
			return a.Identity, err
		},
		"SubmitAll": func(ctx context.Context, c *fetchworker.Client) (id fetchworker.Identity, err error) {
			for r, e := range c.SubmitAll(ctx, one) {
				id, err = r.Identity, e
			}
			return id, err
		},
		"FetchAll": func(ctx context.Context, c *fetchworker.Client) (id fetchworker.Identity, err error) {
			for a, e := range c.FetchAll(ctx, one) {
				id, err = a.Identity, e
			}
			return id, err
		},
	} {
		wired(t, func(t *testing.T, w *wiredClient) {
			w.nc.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
			for _, c := range []struct {
				name string
				meet func()
				want error
			}{
				{"refused", func() { w.Break("fetch.request.", brokertest.Refused, 10, 0) }, fetchworker.ErrNotPermitted},
				{"lost", func() { w.Break("fetch.request.", brokertest.RequestLost, 100, 0) }, context.DeadlineExceeded},
				{"not connected", w.Cut, context.DeadlineExceeded},
				{"closed", w.nc.Close, fetchworker.ErrClosed},
			} {
				c.meet()
				id, err := do(until(t, 7*time.Second), w.Client)
				if !errors.Is(err, c.want) || id != identity("q-1") {
					t.Errorf("%s, %s: %s: %v", how, c.name, id, err)
				}
				w.Mend()
				w.Join()
				time.Sleep(time.Minute)
				if got := w.Held(); got != fetchworker.HeldNothing {
					t.Errorf("%s, %s: %s", how, c.name, got)
				}
			}
		})
	}
}

// What a lost connection holds up is not put into its buffer again and again: it
// goes once with the next.
func TestWhatWaitsForAConnectionIsSaidOnce(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(context.Context, *wiredClient) error
		cut  time.Duration
		most uint64
	}{
		"a request": {func(ctx context.Context, w *wiredClient) error { _, err := w.Submit(ctx, quote("")); return err }, 1900 * time.Millisecond, 2},
		"an order":  {func(ctx context.Context, w *wiredClient) error { _, err := w.Cancel(ctx, identity("q-1")); return err }, 29 * time.Second, 2},
	} {
		t.Run(name, func(t *testing.T) {
			wired(t, func(t *testing.T, w *wiredClient) {
				replies(t, w.NC, "fetch.cancel.fmp.alice", `{"cancelled":1}`)
				time.Sleep(time.Millisecond)
				before := w.nc.Stats().OutMsgs
				w.Cut()
				time.AfterFunc(c.cut, w.Join)
				if err := c.do(until(t, time.Minute), w); err != nil {
					t.Error(err)
				}
				if said := w.nc.Stats().OutMsgs - before; said > c.most {
					t.Errorf("it was said %d times", said)
				}
			})
		})
	}
}

// However many are asked, 64 are published at a time, and what is outstanding is
// looked up at most 500 times a second.
func TestABulkTakesItsTime(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.Break("fetch.request.", brokertest.RequestLost, 1<<20, 0)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan int)
		go func() {
			n := 0
			for range w.FetchAll(ctx, quotes(1500)) { //nolint:errcheck // how each ended is not asked
				n++
			}
			ended <- n
		}()
		time.Sleep(100 * time.Millisecond)
		if n := w.Met(); n != 64 {
			t.Errorf("%d are published at a time", n)
		}
		w.Mend()
		time.Sleep(5 * time.Second)
		for range 3 {
			before := w.nc.Stats().OutMsgs
			time.Sleep(time.Second)
			if n := w.nc.Stats().OutMsgs - before; n > 520 {
				t.Errorf("%d looks a second", n)
			}
		}
		stop()
		if n := <-ended; n != 1500 {
			t.Errorf("%d were told of", n)
		}
	})
}

// What a bulk tells when its time ends: of what has come by then its answer, also
// where that was while the program took its time; of the rest why it waits.
func TestWhatABulkTellsAtItsEnd(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		s := w.service()
		const n = 5
		time.AfterFunc(time.Second, func() {
			for i := range n {
				s.store(waiting(identity(fmt.Sprint("q-", i))))
			}
		})
		first := ""
		told := map[string]error{}
		for a, err := range w.FetchAll(until(t, 10*time.Second), quotes(n)) {
			if first == "" {
				first = a.Identity.ID
				for i := range n {
					if id := fmt.Sprint("q-", i); id != first {
						s.store(ok(identity(id), `[1]`))
					}
				}
				time.Sleep(time.Second)
			}
			if _, twice := told[a.Identity.ID]; twice {
				t.Errorf("%s was told of twice", a.Identity)
			}
			told[a.Identity.ID] = err
			if a.Identity.ID != first && (err != nil || string(a.Body) != `[1]`) {
				t.Errorf("%s, which came: %q, %v", a.Identity, a.Body, err)
			}
		}
		var why *fetchworker.Problem
		var pending *fetchworker.PendingError
		if err := told[first]; !errors.As(err, &pending) || pending.Last == nil || !errors.As(err, &why) || why.Reason() != fetchworker.ReasonCircuitOpen {
			t.Errorf("the first, which waits: %v", err)
		}
		if len(told) != n || w.Held() != fetchworker.HeldNothing {
			t.Errorf("told of %d, %s", len(told), w.Held())
		}
	})
}

// A loop that is left leaves nothing behind, whichever it was.
func TestALoopThatIsLeftLeavesNothing(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.service().store(waiting(identity("q-0")))
		w.service().store(ok(identity("q-1"), `[1]`))
		for range w.FetchAll(until(t, time.Minute), quotes(100)) { //nolint:errcheck // it is left at once
			break
		}
		if got := w.Held(); got != fetchworker.HeldNothing {
			t.Errorf("FetchAll: %s", got)
		}
		for range w.SubmitAll(until(t, time.Minute), quotes(100)) { //nolint:errcheck // it is left at once
			break
		}
		for range w.Updates(until(t, time.Minute), identity("q-0")) { //nolint:errcheck // it is left at once
			break
		}
		if got := w.Held(); got != fetchworker.HeldNothing {
			t.Errorf("Updates: %s", got)
		}
		for range w.Answers(until(t, time.Minute), 0) { //nolint:errcheck // it is left at once
			break
		}
		if got := w.Held(); got != fetchworker.HeldNothing {
			t.Errorf("Answers: %s", got)
		}
	})
}
