package fetchworker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"
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
		"a wait": {func(ctx context.Context, w *wiredClient) error {
			stored := make(chan struct{})
			time.AfterFunc(50*time.Second, func() { defer close(stored); w.service().store(ok(identity("q-1"), `[1]`)) })
			_, err := w.Wait(ctx, identity("q-1"))
			<-stored
			return err
		}, 45 * time.Second, 6}, // the first look, and those after the cut
		"an order": {func(ctx context.Context, w *wiredClient) error { _, err := w.Cancel(ctx, identity("q-1")); return err }, 29 * time.Second, 2},
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
		w.service().onRequest(func(r fetchworker.Request) {
			if r.ID != "q-0" {
				w.service().store(ok(r.Identity(), `[1]`))
			}
		})
		for range w.FetchAll(until(t, time.Minute), quotes(100)) { //nolint:errcheck // it is left at once
			break
		}
		if got := w.Held(); got != fetchworker.HeldNothing {
			t.Errorf("FetchAll: %s", got)
		}
		for range w.FetchAllHolding(until(t, time.Minute), quotes(100), 1, 1<<20) { //nolint:errcheck // it is left while the others wait for their turn
			break
		}
		if got := w.Held(); got != fetchworker.HeldNothing {
			t.Errorf("FetchAll, one at a time: %s", got)
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

// Whichever way a request is published, it is part of its caller's trace.
func TestEveryRequestIsPartOfItsTrace(t *testing.T) {
	traceID, err := trace.TraceIDFromHex("0af7651916cd43dd8448eb211c80319c")
	if err != nil {
		t.Fatal(err)
	}
	wired(t, func(t *testing.T, w *wiredClient) {
		ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: trace.SpanID{7}, TraceFlags: trace.FlagsSampled}))
		w.service().onRequest(func(r fetchworker.Request) { w.service().store(ok(r.Identity(), `[1]`)) })
		asked, err := w.NC.SubscribeSync("fetch.request.>")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		for name, do := range map[string]func(fetchworker.Request) error{
			"submit": func(r fetchworker.Request) error { _, err := w.Submit(ctx, r); return err },
			"fetch":  func(r fetchworker.Request) error { _, err := w.Fetch(ctx, r); return err },
			"submit-all": func(r fetchworker.Request) error {
				return all(w.SubmitAll(ctx, slices.Values([]fetchworker.Request{r})))
			},
			"fetch-all": func(r fetchworker.Request) error {
				return all(w.FetchAll(ctx, slices.Values([]fetchworker.Request{r})))
			},
		} {
			r := quote("")
			r.Operation = name
			if err := do(r); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			m, err := asked.NextMsg(time.Second)
			if err != nil || !strings.Contains(m.Header.Get("traceparent"), traceID.String()) {
				t.Errorf("%s: %v, %v", name, m, err)
			}
		}
	})
}

// Of a bulk each request is told of for itself: one that is refused is no other's end.
func TestARefusedRequestEndsNoOther(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.service().onRequest(func(r fetchworker.Request) { w.service().store(ok(r.Identity(), `[1]`)) })
		const n = 200 // more than are published at a time
		requests := func(yield func(fetchworker.Request) bool) {
			for i := range n {
				r := quote(fmt.Sprint("q-", i))
				if i == 0 || i == 100 {
					r.Provider = "F MP"
				}
				if !yield(r) {
					return
				}
			}
		}
		told := map[string]int{}
		judge := func(how, id string, err error) {
			told[how+" "+id]++
			var wrong *fetchworker.RequestError
			if bad := id == "q-0" || id == "q-100"; bad != errors.As(err, &wrong) || !bad && err != nil {
				t.Errorf("%s: %s: %v", how, id, err)
			}
		}
		for r, err := range w.SubmitAll(until(t, time.Minute), requests) {
			judge("SubmitAll", r.Identity.ID, err)
		}
		for a, err := range w.FetchAll(until(t, time.Minute), requests) {
			judge("FetchAll", a.Identity.ID, err)
		}
		if len(told) != 2*n {
			t.Errorf("%d of %d were told of", len(told), 2*n)
		}
	})
}

// No more than so many of a bulk wait for their answers: each that is taken makes
// room for the next.
func TestHowManyOfABulkAreOutstanding(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		const n, most = 20, 3
		asked := make(chan fetchworker.Identity, n)
		var all atomic.Int64
		w.service().onRequest(func(r fetchworker.Request) { all.Add(1); asked <- r.Identity() })
		store := func() {
			select {
			case id := <-asked:
				w.service().store(ok(id, `[1]`))
			default:
			}
		}
		time.AfterFunc(time.Second, func() {
			if got := all.Load(); got != most {
				t.Errorf("%d are asked at first", got)
			}
			store()
		})
		told := 0
		for _, err := range w.FetchAllHolding(until(t, time.Minute), quotes(n), most, 1<<20) {
			if err != nil {
				t.Fatal(err)
			}
			told++
			time.Sleep(time.Second)
			if got := all.Load(); got != int64(min(told+most, n)) {
				t.Errorf("%d are asked when %d were told of", got, told)
			}
			store()
		}
		if told != n {
			t.Errorf("told of %d", told)
		}
	})
}

// Nothing is taken from a sequence when the time is over before it is begun with.
func TestNothingIsTakenWhenTheTimeIsOver(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		ended, end := context.WithCancel(t.Context())
		end()
		begun := false
		requests := func(yield func(fetchworker.Request) bool) { begun = true; yield(quote("q-1")) }
		_ = all(w.SubmitAll(ended, requests))
		_ = all(w.FetchAll(ended, requests))
		if begun {
			t.Error("a request is lost")
		}
	})
}

// An answer to another request is none of this one's, also where its body was let go
// and read again.
func TestAnotherRequestsAnswerInABulk(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		for _, holds := range []int{0, 1 << 20} {
			for i := range 3 {
				other := ok(identity(fmt.Sprint("q-", i)), `[1]`)
				other.Digest = "0123456789abcdef"
				w.service().store(other)
			}
			n := 0
			for a, err := range w.FetchAllHolding(until(t, time.Minute), quotes(3), 3, holds) {
				if n++; !errors.Is(err, fetchworker.ErrIDReused) || a.Body != nil {
					t.Errorf("holding %d bytes: %q, %v", holds, a.Body, err)
				}
			}
			if n != 3 {
				t.Errorf("told of %d", n)
			}
		}
	})
}
