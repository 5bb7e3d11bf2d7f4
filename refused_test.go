package fetchworker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go"
)

// until is a context that ends so much later.
func until(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// replies has every message on a subject be answered with a text.
func replies(t *testing.T, nc *nats.Conn, subject, text string) {
	t.Helper()
	if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
		if err := m.Respond([]byte(text)); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// whatIsAsked is everything that a program may ask for, each with a part of the
// subject on which the server first hears of it. All of it succeeds.
func whatIsAsked(t *testing.T, w *wiredClient) map[string]asked {
	t.Helper()
	s := &service{w.Broker, t}
	s.onRequest(func(r fetchworker.Request) { s.store(ok(r.Identity(), `[1]`)) })
	s.store(ok(identity("stored"), `[1]`))
	s.storeLarge(identity("large"), make([]byte, fetchworker.MaxInlineBody+1), nil)
	replies(t, w.NC, "fetch.cancel.fmp.alice", `{"cancelled":1,"before":"2000-01-01T00:00:00Z"}`)
	replies(t, w.NC, "fetch.catalog.*", `{"provider":"fmp","providers":["fmp"]}`)
	const read, part = "DIRECT.GET.FETCH_RESULTS", "DIRECT.GET.FETCH_BODIES"
	n := 0
	durable := func() string { n++; return fmt.Sprint("files-", n) }
	return map[string]asked{
		"Submit": {"fetch.request.", func(ctx context.Context) error { _, err := w.Submit(ctx, quote("")); return err }},
		"Fetch":  {"fetch.request.", func(ctx context.Context) error { _, err := w.Fetch(ctx, quote("")); return err }},
		"SubmitAll": {"fetch.request.", func(ctx context.Context) error {
			return all(w.SubmitAll(ctx, slices.Values([]fetchworker.Request{quote("")})))
		}},
		"FetchAll": {"fetch.request.", func(ctx context.Context) error {
			return all(w.FetchAll(ctx, slices.Values([]fetchworker.Request{quote("")})))
		}},
		"Fetch of an id":        {read, func(ctx context.Context) error { _, err := w.Fetch(ctx, quote("stored")); return err }},
		"Wait":                  {read, func(ctx context.Context) error { _, err := w.Wait(ctx, identity("stored")); return err }},
		"Updates":               {read, func(ctx context.Context) error { return all(w.Updates(ctx, identity("stored"))) }},
		"Result":                {read, func(ctx context.Context) error { _, err := w.Result(ctx, identity("stored")); return err }},
		"Result of a large one": {part, func(ctx context.Context) error { _, err := w.Result(ctx, identity("large")); return err }},
		"Wait for a large one":  {part, func(ctx context.Context) error { _, err := w.Wait(ctx, identity("large")); return err }},
		"Cancel":                {"fetch.cancel.", func(ctx context.Context) error { _, err := w.Cancel(ctx, identity("stored")); return err }},
		"CancelAll": {"fetch.cancel.", func(ctx context.Context) error {
			_, err := w.CancelAll(ctx, fetchworker.CancelFilter{Provider: "fmp"})
			return err
		}},
		"Catalogue":    {"fetch.catalog.", func(ctx context.Context) error { _, err := w.Catalogue(ctx, "fmp"); return err }},
		"Providers":    {"fetch.catalog.", func(ctx context.Context) error { _, err := w.Providers(ctx); return err }},
		"LastAnswer":   {read, func(ctx context.Context) error { _, err := w.LastAnswer(ctx); return err }},
		"AnswersAfter": {read, func(ctx context.Context) error { _, _, err := w.AnswersAfter(ctx, 0); return err }},
		"Answers": {read, func(ctx context.Context) error {
			for _, err := range w.Answers(ctx, 0) {
				return err
			}
			return errors.New("nothing came")
		}},
		"Subscribe": {"CONSUMER.CREATE", func(ctx context.Context) error {
			sub, err := fetchworker.NewSubscriber(w.nc, fetchworker.SubscriberOptions{Durable: durable()})
			if err != nil {
				return err
			}
			ctx, done := context.WithCancel(ctx)
			defer done()
			return sub.Subscribe(ctx, fetchworker.ResultFilter{}, func(context.Context, fetchworker.Answer) error { done(); return nil })
		}},
	}
}

type asked struct {
	on string
	do func(context.Context) error
}

// all is the error that the last of a sequence came with.
func all[T any](seq func(func(T, error) bool)) (err error) {
	seq(func(_ T, e error) bool { err = e; return true })
	return err
}

// What the server refuses is told as that, by whatever way it was asked, soon after
// its word has come; one that was refused before is no reason to refuse one that
// only takes long. Nothing is left behind.
func TestWhatIsRefusedIsToldSoon(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.nc.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}) // they are told all the same
		for name, a := range whatIsAsked(t, w) {
			for _, late := range []time.Duration{0, 150 * time.Millisecond, 450 * time.Millisecond} {
				w.Break(a.on, brokertest.Refused, 10, late)
				began := time.Now()
				err := a.do(until(t, time.Minute))
				if took := time.Since(began); !errors.Is(err, fetchworker.ErrNotPermitted) || took > late+250*time.Millisecond {
					t.Errorf("%s, refused after %v: %v after %v", name, late, err, took)
				}
				w.Mend()
				time.Sleep(time.Second) // a connection remembers its last refusal only: the next would hide this one's
			}
			if got := w.Held(); got != fetchworker.HeldNothing {
				t.Errorf("%s, refused: %s", name, got)
			}
			w.Break(a.on, brokertest.ReplyLate, 1, 450*time.Millisecond)
			if err := a.do(until(t, time.Minute)); err != nil {
				t.Errorf("%s, which takes long after it was refused before: %v", name, err)
			}
			w.Mend()
			if got := w.Held(); got != fetchworker.HeldNothing {
				t.Errorf("%s: %s", name, got)
			}
		}
	})
}

// One subject's refusal is nothing to who asks on another at the same time.
func TestARefusalIsOfItsSubject(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.nc.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
		w.service().store(ok(identity("good"), `[1]`))
		w.Break(".alice.bad", brokertest.Refused, 10, 150*time.Millisecond) // when the other has been asked, too
		w.Break(".alice.good", brokertest.ReplyLate, 1, 450*time.Millisecond)
		refused := make(chan error)
		go func() {
			_, err := w.Result(until(t, time.Minute), identity("bad"))
			refused <- err
		}()
		if _, err := w.Result(until(t, time.Minute), identity("good")); err != nil {
			t.Error(err)
		}
		if err := <-refused; !errors.Is(err, fetchworker.ErrNotPermitted) {
			t.Error(err)
		}
	})
}

// Of many that are refused at the same time each is told, whoever of them asks, and
// so is one whose program listens to the connection's errors itself.
func TestManyRefusalsAtOnceAreEachTold(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		var heard atomic.Int64
		w.nc.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) { heard.Add(1) })
		bob, err := fetchworker.NewClient(w.nc, "bob")
		if err != nil {
			t.Fatal(err)
		}
		defer bob.Close()
		w.Break("DIRECT.GET.FETCH_RESULTS", brokertest.Refused, 1<<20, 0)
		w.Break("fetch.request.", brokertest.Refused, 1<<20, 0)
		const each = 10
		var asking sync.WaitGroup
		for _, c := range []*fetchworker.Client{w.Client, bob} {
			for i := range each {
				asking.Go(func() {
					id := identity(fmt.Sprint("q-", i))
					id.Agent = c.Agent()
					if _, err := c.Result(until(t, 5*time.Second), id); !errors.Is(err, fetchworker.ErrNotPermitted) {
						t.Errorf("%s: %v", id, err)
					}
					r := quote("")
					r.Operation = fmt.Sprint("quote-", i)
					if _, err := c.Submit(until(t, 5*time.Second), r); !errors.Is(err, fetchworker.ErrNotPermitted) {
						t.Errorf("%s: %v", r.Identity(), err)
					}
				})
			}
		}
		asking.Wait()
		if n := heard.Load(); n != 4*each {
			t.Errorf("the program heard of %d of %d refusals", n, 4*each)
		}
		// Who listens to the errors from now on hides them from the clients: they look.
		w.nc.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
		for _, late := range []time.Duration{0, 450 * time.Millisecond} {
			w.Mend()
			w.Break("fetch.request.", brokertest.Refused, 1<<20, late)
			began := time.Now()
			if _, err := bob.Submit(until(t, 5*time.Second), quote("")); !errors.Is(err, fetchworker.ErrNotPermitted) || time.Since(began) > late+250*time.Millisecond {
				t.Errorf("refused after %v while somebody else listens: %v after %v", late, err, time.Since(began))
			}
			time.Sleep(time.Second) // what is remembered is the last
		}
		if w.Held() != fetchworker.HeldNothing || bob.Held() != fetchworker.HeldNothing {
			t.Errorf("%s; %s", w.Held(), bob.Held())
		}
	})
}

// A connection is listened to once, however many clients it has had.
func TestAConnectionIsListenedToOnce(t *testing.T) {
	s := startService(t)
	nc := s.Connect(t)
	defer nc.Close()
	deep := 0
	nc.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) { deep = runtime.Callers(0, make([]uintptr, 100)) })
	ask := func(agent string) int {
		c, err := fetchworker.NewClient(nc, agent)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.LastAnswer(soon(t)); err != nil {
			t.Fatal(err)
		}
		nc.ErrorHandler()(nc, nil, nats.ErrSlowConsumer)
		return deep
	}
	first := ask("alice")
	for i := range 5 {
		if now := ask(fmt.Sprint("agent-", i)); now != first {
			t.Errorf("after %d more clients an error is told through %d calls, not %d", i+1, now, first)
		}
	}
}

// Of two who ask on the same subject each is told of its refusal, whichever has left.
func TestOfTwoOnOneSubjectEachIsTold(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.nc.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
		const late = 450 * time.Millisecond // between two looks at what was refused last
		w.Break("DIRECT.GET", brokertest.Refused, 2, late)
		var asking sync.WaitGroup
		asking.Go(func() {
			if _, err := w.Result(until(t, 200*time.Millisecond), identity("q-1")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("who has left: %v", err)
			}
		})
		began := time.Now()
		if _, err := w.Result(until(t, time.Minute), identity("q-1")); !errors.Is(err, fetchworker.ErrNotPermitted) || time.Since(began) > late+20*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		asking.Wait()
	})
}
