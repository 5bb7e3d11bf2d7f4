package fetchworker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go"
)

// waits begins to wait for an answer; how long that took is told when it came.
func (w *wiredClient) waits(ctx context.Context, id string) <-chan waited {
	ended := make(chan waited, 1)
	began := time.Now()
	go func() {
		a, err := w.Wait(ctx, identity(id))
		ended <- waited{a, err, time.Since(began)}
	}()
	return ended
}

type waited struct {
	fetchworker.Answer
	err  error
	took time.Duration
}

// silent has the server send no live answer to this client.
func (w *wiredClient) silent() { w.BreakSaid("fetch.result.", brokertest.Lost, 1<<20, 0) }

// What comes live is seen as it comes; what does not is found by looks, soon at
// first, however long another has been waited for, and at once where the client
// knows that something was lost: after a flood, and after its connection was.
func TestHowSoonAnAnswerIsSeen(t *testing.T) {
	const atOnce = 10 * time.Millisecond
	for name, c := range map[string]struct {
		stored time.Duration // after the wait began
		meet   func(*testing.T, *wiredClient, func())
		most   time.Duration // after it was stored
	}{
		"live":                     {5 * time.Minute, nil, atOnce},
		"lost, and soon":           {40 * time.Millisecond, func(_ *testing.T, w *wiredClient, store func()) { w.silent(); store() }, 15 * time.Millisecond},
		"lost, and a little later": {190 * time.Millisecond, func(_ *testing.T, w *wiredClient, store func()) { w.silent(); store() }, 15 * time.Millisecond},
		"lost, and late":           {5 * time.Minute, func(_ *testing.T, w *wiredClient, store func()) { w.silent(); store() }, 10*time.Second + atOnce},
		"twice": {time.Second, func(_ *testing.T, w *wiredClient, store func()) {
			w.BreakSaid("fetch.result.", brokertest.Twice, 1<<20, 0)
			store()
		}, atOnce},
		"live and late": {time.Minute, func(_ *testing.T, w *wiredClient, store func()) {
			w.BreakSaid("fetch.result.", brokertest.ReplyLate, 1<<20, 3*time.Second)
			store()
		}, 3*time.Second + atOnce},
		"in a flood": {5 * time.Minute, func(t *testing.T, w *wiredClient, store func()) {
			w.Flooded(t, func(context.Context) {
				s := &service{w.Broker, t}
				for i := range 5 {
					s.store(ok(identity(fmt.Sprint("other-", i)), `[1]`))
				}
				store()
			})
			other := w.waits(until(t, time.Second), "other") // whoever comes next looks soon, and sees it
			<-other
		}, 60 * time.Millisecond},
		"without a connection": {5 * time.Minute, func(t *testing.T, w *wiredClient, store func()) {
			w.Cut()
			store()
			w.Join()
		}, 3 * time.Second}, // the connection's own wait
	} {
		t.Run(name, func(t *testing.T) {
			wired(t, func(t *testing.T, w *wiredClient) {
				s := &service{w.Broker, t}
				long := w.waits(until(t, time.Hour), "long") // and nothing comes
				time.Sleep(time.Minute)
				ended := w.waits(until(t, time.Hour), "q-1")
				time.Sleep(c.stored)
				store := func() { s.store(ok(identity("q-1"), `[1]`)) }
				if c.meet == nil {
					store()
				} else {
					c.meet(t, w, store)
				}
				got := <-ended
				if late := got.took - c.stored; got.err != nil || string(got.Body) != `[1]` || late > c.most {
					t.Errorf("%s, %v after %v", got.Body, got.err, late)
				}
				w.Mend()
				w.Close()
				if got := <-long; !errors.Is(got.err, fetchworker.ErrClosed) {
					t.Errorf("what nothing came for: %v", got.err)
				}
				if got := w.Held(); got != fetchworker.HeldNothing {
					t.Error(got)
				}
			})
		})
	}
}

// The subscription has room for large answers.
func TestManyLargeAnswersAreHeld(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		<-w.waits(until(t, time.Second), "q-1")
		if messages, bytes, err := w.Live().PendingLimits(); err != nil || messages >= 0 || bytes < 400*fetchworker.MaxInlineBody {
			t.Errorf("%d answers and %d bytes of them, %v", messages, bytes, err)
		}
	})
}

// What the first look at a request comes to: a server that says nothing takes a
// second of a wait, and no more.
func TestTheFirstLook(t *testing.T) {
	for name, c := range map[string]struct {
		meet func(*wiredClient)
		most time.Duration
	}{
		"heard":          {func(*wiredClient) {}, 10 * time.Millisecond},
		"lost":           {func(w *wiredClient) { w.Break("DIRECT.GET", brokertest.RequestLost, 1, 0) }, 1060 * time.Millisecond},
		"its reply lost": {func(w *wiredClient) { w.Break("DIRECT.GET", brokertest.ReplyLost, 1, 0) }, 1060 * time.Millisecond},
		"late":           {func(w *wiredClient) { w.Break("DIRECT.GET", brokertest.ReplyLate, 1, 900*time.Millisecond) }, 910 * time.Millisecond},
		"lost twice":     {func(w *wiredClient) { w.Break("DIRECT.GET", brokertest.RequestLost, 2, 0) }, 1210 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			wired(t, func(t *testing.T, w *wiredClient) {
				(&service{w.Broker, t}).store(ok(identity("q-1"), `[1]`))
				c.meet(w)
				if got := <-w.waits(until(t, time.Minute), "q-1"); got.err != nil || got.took > c.most {
					t.Errorf("Wait: %v after %v", got.err, got.took)
				}
				w.Mend()
				c.meet(w)
				began := time.Now()
				if a, err := w.Fetch(until(t, time.Minute), quote("q-1")); err != nil || time.Since(began) > c.most || string(a.Body) != `[1]` {
					t.Errorf("Fetch: %v after %v", err, time.Since(began))
				}
			})
		})
	}
}

// A client that is closed leaves the connection that a program gave to it, and
// closes the one that it made.
func TestWhoseTheConnectionIs(t *testing.T) {
	s := startService(t)
	nc := s.Connect(t)
	defer nc.Close()
	given, err := fetchworker.NewClient(nc, "alice")
	if err != nil {
		t.Fatal(err)
	}
	before := nc.NumSubscriptions()
	if _, err := given.Wait(until(t, time.Millisecond), identity("none")); err == nil {
		t.Error("an answer of nobody")
	}
	given.Close()
	if nc.IsClosed() {
		t.Error("a client closed its program's connection")
	}
	if n := nc.NumSubscriptions() - before; n > 1 { // the one for replies, which a connection has anyway
		t.Errorf("a client left %d subscriptions on its program's connection", n)
	}
	if _, err := given.Submit(soon(t), quote("")); err != nil {
		t.Errorf("a submit needs no more than the connection: %v", err)
	}
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	defer b.Stop()
	made, err := fetchworker.Connect(b.Server.URL(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	made.Close()
	if _, err := made.Submit(soon(t), quote("")); !errors.Is(err, fetchworker.ErrClosed) {
		t.Errorf("a client left its own connection open: %v", err)
	}
}

// Of several who wait for one request each is told, whoever has come or left before,
// and so is one who waits for another.
func TestManyWaitForOneRequest(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		s := w.service()
		var all []<-chan waited
		for range 5 {
			all = append(all, w.waits(until(t, 5*time.Minute), "q-1"))
		}
		left := w.waits(until(t, 10*time.Second), "q-1")
		other := w.waits(until(t, 5*time.Minute), "q-2")
		updates := make(chan []fetchworker.Status)
		go func() {
			var seen []fetchworker.Status
			for a, err := range w.Updates(until(t, 5*time.Minute), identity("q-1")) {
				if err != nil {
					t.Error(err)
				}
				seen = append(seen, a.Status)
			}
			updates <- seen
		}()
		time.Sleep(5 * time.Second)
		s.store(waiting(identity("q-1")))
		if got := <-left; !errors.Is(got.err, context.DeadlineExceeded) {
			t.Errorf("who left: %v", got.err)
		}
		time.Sleep(50 * time.Second)
		const stored = time.Minute - 5*time.Second + 5*time.Second // after the waits began
		s.store(ok(identity("q-1"), `[1]`))
		for _, ended := range all {
			if got := <-ended; got.err != nil || string(got.Body) != `[1]` || got.took > stored+10*time.Millisecond {
				t.Errorf("%q, %v after %v", got.Body, got.err, got.took)
			}
		}
		if seen := <-updates; len(seen) != 2 || seen[0] != fetchworker.StatusWaiting || seen[1] != fetchworker.StatusOK {
			t.Errorf("updates: %v", seen)
		}
		s.store(ok(identity("q-2"), `[2]`))
		if got := <-other; got.err != nil || string(got.Body) != `[2]` {
			t.Errorf("the other: %q, %v", got.Body, got.err)
		}
		if got := w.Held(); got != fetchworker.HeldNothing {
			t.Error(got)
		}
	})
}

// What is told of a wait whose time ends: what last went wrong in looking, unless
// it has gone well since.
func TestWhatWentWrongIsTold(t *testing.T) {
	comes := func(w *wiredClient) { // an answer that is not final, just before the time is over
		time.AfterFunc(24900*time.Millisecond, func() { w.service().store(waiting(identity("q-0"))) })
	}
	lost := func(w *wiredClient, times int) { w.Break("DIRECT.GET", brokertest.RequestLost, times, 0) }
	for name, c := range map[string]struct {
		meet func(*wiredClient)
		want bool
	}{
		"nothing":                    {func(*wiredClient) {}, false},
		"every look":                 {func(w *wiredClient) { lost(w, 1<<20) }, true},
		"a look, and not the next":   {func(w *wiredClient) { lost(w, 1) }, false},
		"looks, and it came at last": {func(w *wiredClient) { lost(w, 1<<20); comes(w) }, false},
	} {
		for how, wait := range map[string]func(context.Context, *wiredClient) error{
			"Wait":     func(ctx context.Context, w *wiredClient) error { _, err := w.Wait(ctx, identity("q-0")); return err },
			"FetchAll": func(ctx context.Context, w *wiredClient) error { return all(w.FetchAll(ctx, quotes(1))) },
		} {
			t.Run(how+" "+name, func(t *testing.T) {
				wired(t, func(t *testing.T, w *wiredClient) {
					c.meet(w)
					err := wait(until(t, 25*time.Second), w)
					var pending *fetchworker.PendingError
					if !errors.As(err, &pending) || (pending.Trouble != nil) != c.want {
						t.Errorf("%v: %+v", err, pending)
					}
				})
			})
		}
	}
}

// What comes live and cannot be read is told to nobody, however much of it can.
func TestWhatCannotBeReadLive(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		good := ok(identity("q-1"), `[1]`)
		good.Generation = 1
		said := func(a fetchworker.Answer, err error) string {
			return fmt.Sprintf("%s %s %s %v", a.Identity.ID, a.Status, a.Body, err)
		}
		followed, updates := make(chan []string), make(chan []string)
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			var told []string
			for a, err := range w.Answers(ctx, 0) {
				told = append(told, said(a, err))
			}
			followed <- told
		}()
		go func() {
			var told []string
			for a, err := range w.Updates(until(t, time.Minute), identity("q-1")) {
				told = append(told, said(a, err))
			}
			updates <- told
		}()
		time.Sleep(time.Second)
		for _, spoil := range []func(*nats.Msg){
			func(m *nats.Msg) { m.Header.Set("Fetch-Status", "of another version") },
			func(m *nats.Msg) { m.Data = []byte(`[2]`) },
			func(m *nats.Msg) { m.Header.Set("Fetch-Status", "failed"); m.Data = []byte(`no problem`) },
			func(*nats.Msg) {},
		} {
			m := good.Encode()
			spoil(m)
			if _, err := w.JS.PublishMsg(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		const want = "q-1 ok [1] <nil>"
		if got := <-updates; len(got) != 1 || got[0] != want {
			t.Errorf("who waits is told %q", got)
		}
		stop()
		if got := <-followed; len(got) != 1 || got[0] != want {
			t.Errorf("who follows is told %q", got)
		}
	})
}

// A large body that does not come by the end: what is known of its answer is told.
func TestALargeBodyThatDoesNotCome(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.service().storeLarge(identity("q-0"), make([]byte, fetchworker.MaxInlineBody+1), nil)
		w.Break("DIRECT.GET.FETCH_BODIES", brokertest.RequestLost, 1<<20, 0)
		for how, do := range map[string]func(context.Context) error{
			"Wait":     func(ctx context.Context) error { _, err := w.Wait(ctx, identity("q-0")); return err },
			"Fetch":    func(ctx context.Context) error { _, err := w.Fetch(ctx, quote("q-0")); return err },
			"FetchAll": func(ctx context.Context) error { return all(w.FetchAll(ctx, quotes(1))) },
			"Updates":  func(ctx context.Context) error { return all(w.Updates(ctx, identity("q-0"))) },
		} {
			err := do(until(t, 15*time.Second))
			var pending *fetchworker.PendingError
			if !errors.As(err, &pending) || pending.Last == nil || !pending.Last.Final || pending.Last.Claim == nil || pending.Trouble == nil || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v: %+v", how, err, pending)
			}
			if got := w.Held(); got != fetchworker.HeldNothing {
				t.Errorf("%s: %s", how, got)
			}
		}
	})
}

// A client whose connection is closed looks for no body any more.
func TestALargeBodyOfAClosedClient(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.service().storeLarge(identity("q-1"), make([]byte, fetchworker.MaxInlineBody+1), nil)
		w.Break("DIRECT.GET.FETCH_BODIES", brokertest.RequestLost, 1<<20, 0)
		time.AfterFunc(2*time.Second, w.nc.Close)
		if got := <-w.waits(until(t, time.Minute), "q-1"); !errors.Is(got.err, fetchworker.ErrClosed) || got.took > 2100*time.Millisecond {
			t.Errorf("%v after %v", got.err, got.took)
		}
	})
}

// One who follows remembers what was told for as long as it might come again.
func TestWhatAFollowerRemembers(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		ctx, stop := context.WithCancel(t.Context())
		told := make(chan int)
		go func() {
			n := 0
			for range w.Answers(ctx, 0) { //nolint:errcheck // they are counted
				n++
			}
			told <- n
		}()
		time.Sleep(time.Second)
		for i := range 30 { // each replaced by the next, but for the last of each
			id := identity(fmt.Sprint("q-", i%3))
			w.service().store(waiting(id))
			w.service().store(ok(id, `[1]`))
			time.Sleep(10 * time.Millisecond)
		}
		if n := w.Remembered(); n != 60 {
			t.Errorf("%d of 60 are remembered", n)
		}
		time.Sleep(rereadAfter)
		if n := w.Remembered(); n != 0 {
			t.Errorf("%d are remembered for ever", n)
		}
		stop()
		if n := <-told; n != 60 {
			t.Errorf("told of %d", n)
		}
	})
}

// Whichever way an answer is waited for, the last that was seen is told when the
// time is over.
func TestWhatIsKnownWhenTheTimeIsOver(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.service().store(waiting(identity("q-0")))
		for how, do := range map[string]func(context.Context) error{
			"Wait":     func(ctx context.Context) error { _, err := w.Wait(ctx, identity("q-0")); return err },
			"Fetch":    func(ctx context.Context) error { _, err := w.Fetch(ctx, quote("q-0")); return err },
			"FetchAll": func(ctx context.Context) error { return all(w.FetchAll(ctx, quotes(1))) },
			"Updates":  func(ctx context.Context) error { return all(w.Updates(ctx, identity("q-0"))) },
			"Ask, and ask again": func(ctx context.Context) error {
				asked, err := w.Ask(ctx, quote("q-0"))
				if err != nil {
					return err
				}
				defer asked.Leave()
				soon, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				_, err = asked.Final(soon)
				return err
			},
		} {
			err := do(until(t, 15*time.Second))
			var pending *fetchworker.PendingError
			var why *fetchworker.Problem
			if !errors.As(err, &pending) || pending.Identity != identity("q-0") || pending.Last == nil || !errors.As(err, &why) || why.Reason() != fetchworker.ReasonCircuitOpen {
				t.Errorf("%s: %v: %+v", how, err, pending)
			}
		}
	})
}

// After a flood all that is waited for is looked up once, and then as seldom as before.
func TestWhatAFloodCosts(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		long := w.waits(until(t, time.Hour), "long")
		time.Sleep(time.Minute)
		w.Flooded(t, func(context.Context) {
			for i := range 5 {
				w.service().store(ok(identity(fmt.Sprint("other-", i)), `[1]`))
			}
		})
		time.Sleep(30 * time.Second)
		before := w.nc.Stats().OutMsgs
		time.Sleep(time.Minute)
		if n := w.nc.Stats().OutMsgs - before; n < 5 || n > 8 {
			t.Errorf("%d looks in a minute", n)
		}
		w.Close()
		<-long
	})
}
