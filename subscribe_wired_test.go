package fetchworker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// handled is when a subscriber's handler was called, and with what.
type handled struct {
	at time.Duration
	fetchworker.Answer
}

// subscribed runs a subscriber for so long, with a handler, and tells what it was
// called with.
func (w *wiredClient) subscribed(parallel int, d time.Duration, handle func(context.Context, fetchworker.Answer) error) []handled {
	w.t.Helper()
	sub, err := fetchworker.NewSubscriber(w.nc, fetchworker.SubscriberOptions{Durable: "files", Parallel: parallel})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	defer cancel()
	var mu sync.Mutex
	var all []handled
	began := time.Now()
	if err := sub.Subscribe(ctx, fetchworker.ResultFilter{}, func(ctx context.Context, a fetchworker.Answer) error {
		mu.Lock()
		if all = append(all, handled{time.Since(began), a}); len(all) > 100 {
			cancel()
		}
		mu.Unlock()
		return handle(ctx, a)
	}); err != nil {
		w.t.Error(err)
	}
	return all
}

// pendingAcks is how many messages the server has given out and heard nothing of.
func (w *wiredClient) pendingAcks() int {
	w.t.Helper()
	consumer, err := w.JS.Consumer(context.WithoutCancel(w.t.Context()), fetchworker.StreamResults, "files")
	if err != nil {
		w.t.Fatal(err)
	}
	return consumer.CachedInfo().NumAckPending
}

func (w *wiredClient) service() *service { return &service{w.Broker, w.t} }

// A handler has all the time that it needs: what it has is given to nobody else
// meanwhile.
func TestAHandlerMayTakeLong(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.service().store(ok(identity("q-1"), `[1]`))
		got := w.subscribed(16, 10*time.Minute, func(context.Context, fetchworker.Answer) error {
			time.Sleep(5 * time.Minute)
			return nil
		})
		if len(got) != 1 || w.pendingAcks() != 0 {
			t.Errorf("it was handled %d times, and %d wait for their acknowledgement", len(got), w.pendingAcks())
		}
	})
}

// A handler that is at work when its subscriber stops ends what it has begun, and
// what it has is given to nobody else meanwhile.
func TestAHandlerAtWorkWhenItsSubscriberStops(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.service().store(ok(identity("q-1"), `[1]`))
		var first []handled
		var stopping sync.WaitGroup
		stopping.Go(func() {
			first = w.subscribed(1, 10*time.Second, func(context.Context, fetchworker.Answer) error {
				time.Sleep(5 * time.Minute)
				return nil
			})
		})
		time.Sleep(20 * time.Second)
		second := w.subscribed(1, 10*time.Minute, func(context.Context, fetchworker.Answer) error { return nil })
		stopping.Wait()
		if len(first) != 1 || len(second) != 0 || w.pendingAcks() != 0 {
			t.Errorf("handled %d times, and by another %d times; %d wait for their acknowledgement", len(first), len(second), w.pendingAcks())
		}
	})
}

// A handler that fails is called again after a second, and then after twice as
// long each time, up to a minute; it stands in nobody's way.
func TestAHandlerThatFailsIsCalledAgain(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.service().store(ok(identity("bad"), `[1]`))
		w.service().store(ok(identity("good"), `[1]`))
		got := w.subscribed(1, 5*time.Minute, func(_ context.Context, a fetchworker.Answer) error {
			if a.Identity.ID == "bad" {
				return errors.New("the disk is full")
			}
			return nil
		})
		var after []int
		last, good := time.Duration(0), 0
		for _, h := range got {
			if h.Identity.ID == "good" {
				good++
				continue
			}
			after = append(after, int((h.at - last + 400*time.Millisecond).Seconds()))
			last = h.at
		}
		if want := []int{0, 1, 2, 4, 8, 16, 32, 60, 60, 60}; !slices.Equal(after, want) || good != 1 {
			t.Errorf("called again after %v seconds, want %v; the other one was handled %d times", after, want, good)
		}
	})
}

// A body that is not there takes the room for large bodies for as long as it is
// looked for, and the next have it then; so does one whose handler fails.
func TestALargeBodyThatIsMissingLeavesItsRoom(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		missing := ok(identity("missing"), "")
		missing.Body, missing.Claim = nil, &fetchworker.Claim{
			Prefix: "fetch.body.alice.x", Parts: 4096, Bytes: 4096 * fetchworker.MaxInlineBody, SHA256: strings.Repeat("0", 64),
		}
		for i := range 3 {
			missing.Identity.ID = fmt.Sprint("missing-", i)
			w.service().store(missing)
		}
		w.service().storeLarge(identity("large"), make([]byte, 3*fetchworker.MaxInlineBody), nil)
		failed := false
		damaged, whole := 0, 0
		w.subscribed(1, time.Minute, func(_ context.Context, a fetchworker.Answer) error {
			switch {
			case a.Damaged:
				damaged++
			case !failed:
				failed = true
				return errors.New("the disk is full")
			case len(a.Body) == 3*fetchworker.MaxInlineBody:
				whole++
			}
			return nil
		})
		if damaged != 3 || whole != 1 {
			t.Errorf("%d were damaged and %d whole, of 3 and 1", damaged, whole)
		}
	})
}

// A word of the server's that comes late belongs to its own question: no more is
// asked for than there are handlers, for what waits for one the server gives to
// another in the end.
func TestALateWordEndsNoOtherQuestion(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		sub, err := fetchworker.NewSubscriber(w.nc, fetchworker.SubscriberOptions{Durable: "files", Parallel: 1})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var subscribing sync.WaitGroup
		var handled atomic.Int64
		subscribing.Go(func() {
			if err := sub.Subscribe(ctx, fetchworker.ResultFilter{}, func(context.Context, fetchworker.Answer) error {
				handled.Add(1)
				time.Sleep(20 * time.Second)
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(4 * time.Second)                                           // of the five that the first question lasts
		w.BreakSaid("_INBOX", brokertest.ReplyLate, 1, 2500*time.Millisecond) // and then the next is asked, before
		time.Sleep(4 * time.Second)
		for i := range 3 {
			w.service().store(ok(identity(fmt.Sprint("q-", i)), `[1]`))
		}
		time.Sleep(10 * time.Second)
		if given := w.pendingAcks(); given != 1 {
			t.Errorf("%d were given out to one handler", given)
		}
		time.Sleep(time.Minute)
		if n := handled.Load(); n != 3 {
			t.Errorf("%d were handled", n)
		}
		cancel()
		subscribing.Wait()
	})
}

// What a server says to a question but that its time is over has the subscriber
// look after its consumer, and go on.
func TestASubscriberGoesOn(t *testing.T) {
	for name, meet := range map[string]func(*testing.T, *wiredClient){
		"a question lost":         func(_ *testing.T, w *wiredClient) { w.Break("MSG.NEXT", brokertest.RequestLost, 1, 0) },
		"its words lost":          func(_ *testing.T, w *wiredClient) { w.Break("MSG.NEXT", brokertest.ReplyLost, 1, 0) },
		"an answer lost":          func(_ *testing.T, w *wiredClient) { w.BreakSaid("fetch.result.", brokertest.Lost, 1, 0) },
		"an acknowledgement lost": func(_ *testing.T, w *wiredClient) { w.Break("$JS.ACK", brokertest.Lost, 1, 0) },
		"no connection": func(_ *testing.T, w *wiredClient) {
			w.Cut()
			time.AfterFunc(10*time.Second, w.Join)
		},
	} {
		t.Run(name, func(t *testing.T) {
			wired(t, func(t *testing.T, w *wiredClient) {
				time.AfterFunc(7*time.Second, func() {
					meet(t, w)
				})
				time.AfterFunc(20*time.Second, func() { w.service().store(ok(identity("q-1"), `[1]`)) })
				got := w.subscribed(2, 2*time.Minute, func(context.Context, fetchworker.Answer) error { return nil })
				if len(got) == 0 || got[0].at > time.Minute {
					t.Errorf("handled: %v", got)
				}
				if n := w.pendingAcks(); n != 0 {
					t.Errorf("%d wait for their acknowledgement", n)
				}
			})
		})
	}
}

// A consumer that somebody deletes ends its subscriber, and is told.
func TestADeletedConsumerIsTold(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		sub, err := fetchworker.NewSubscriber(w.nc, fetchworker.SubscriberOptions{Durable: "files"})
		if err != nil {
			t.Fatal(err)
		}
		var deleting sync.WaitGroup
		defer deleting.Wait()
		deleting.Go(func() {
			time.Sleep(time.Minute)
			if err := w.JS.DeleteConsumer(t.Context(), fetchworker.StreamResults, "files"); err != nil {
				t.Error(err)
			}
		})
		began := time.Now()
		err = sub.Subscribe(t.Context(), fetchworker.ResultFilter{}, nil)
		if took := time.Since(began); !errors.Is(err, jetstream.ErrConsumerNotFound) || took > 75*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// A subscriber that stops hands back what it has not handled, whatever of it had
// come: the next has it at once, each answer is handled in the end, and a body that
// could not be read by then is read by the next.
func TestWhatASubscriberLeaves(t *testing.T) {
	for name, c := range map[string]struct {
		parallel int
		store    func(*wiredClient)
	}{
		"few at a time":  {2, nil},
		"many at a time": {16, nil},
		"with a body that cannot be read": {4, func(w *wiredClient) {
			w.service().storeLarge(identity("large"), make([]byte, fetchworker.MaxInlineBody+1), nil)
			w.Break("DIRECT.GET.FETCH_BODIES", brokertest.RequestLost, 1, 0)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			wired(t, func(t *testing.T, w *wiredClient) {
				if c.store != nil {
					c.store(w)
				}
				const n = 50
				for i := range n {
					w.service().store(ok(identity(fmt.Sprint("q-", i)), `[1]`))
				}
				sub, err := fetchworker.NewSubscriber(w.nc, fetchworker.SubscriberOptions{Durable: "files", Parallel: c.parallel})
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithCancel(t.Context())
				var mu sync.Mutex
				handled := map[string]int{}
				handle := func(_ context.Context, a fetchworker.Answer) error {
					mu.Lock()
					defer mu.Unlock()
					if handled[a.Identity.ID]++; len(handled) == 5 {
						stop()
					}
					return nil
				}
				if err := sub.Subscribe(ctx, fetchworker.ResultFilter{}, handle); err != nil {
					t.Error(err)
				}
				w.Mend()
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // a handler that fails is not waited for longer
				defer cancel()
				if err := sub.Subscribe(ctx, fetchworker.ResultFilter{}, handle); err != nil {
					t.Error(err)
				}
				want := n
				if c.store != nil {
					want++
				}
				if len(handled) != want || w.pendingAcks() != 0 {
					t.Errorf("%d of %d were handled, %d wait for their acknowledgement", len(handled), want, w.pendingAcks())
				}
			})
		})
	}
}

// What a filter selects, of each kind of answer.
func TestWhatAFilterSelects(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		s := w.service()
		stale, last := ok(identity("provisional"), `[1]`), ok(identity("stale"), `[1]`)
		stale.Status, stale.Final, stale.Reason = fetchworker.StatusStale, false, fetchworker.ReasonCircuitOpen
		last.Status = fetchworker.StatusStale
		for _, a := range []fetchworker.Answer{stale, last, waiting(identity("waiting")), failed(identity("failed")), ok(identity("ok"), `[1]`)} {
			s.store(a)
			time.Sleep(time.Millisecond)
		}
		for i, c := range []struct {
			f    fetchworker.ResultFilter
			want string
		}{
			{fetchworker.ResultFilter{}, "failed ok provisional stale waiting"},
			{fetchworker.ResultFilter{Final: true}, "failed ok stale"},
			{fetchworker.ResultFilter{Status: []fetchworker.Status{fetchworker.StatusStale}}, "provisional stale"},
			{fetchworker.ResultFilter{Status: []fetchworker.Status{fetchworker.StatusStale, fetchworker.StatusFailed}, Final: true}, "failed stale"},
			{fetchworker.ResultFilter{Status: []fetchworker.Status{fetchworker.StatusWaiting}, Final: true}, ""},
		} {
			sub, err := fetchworker.NewSubscriber(w.nc, fetchworker.SubscriberOptions{Durable: fmt.Sprint("files-", i)})
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var got []string
			if err := sub.Subscribe(until(t, time.Second), c.f, func(_ context.Context, a fetchworker.Answer) error {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, a.Identity.ID)
				return nil
			}); err != nil {
				t.Error(err)
			}
			if slices.Sort(got); strings.Join(got, " ") != c.want {
				t.Errorf("%+v: %v", c.f, got)
			}
		}
	})
}

// A message that comes in the moment its subscriber stops is not handled, and is
// there for the next at once.
func TestAMessageThatComesAsItsSubscriberStops(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.service().store(ok(identity("q-1"), `[1]`))
		if _, err := w.JS.CreateConsumer(t.Context(), fetchworker.StreamResults, jetstream.ConsumerConfig{Durable: "files", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
			t.Fatal(err)
		}
		sub, err := fetchworker.NewSubscriber(w.nc, fetchworker.SubscriberOptions{Durable: "files"})
		if err != nil {
			t.Fatal(err)
		}
		ended, end := context.WithCancel(t.Context())
		end()
		for range 3 {
			m, err := w.nc.Request("$JS.API.CONSUMER.MSG.NEXT."+fetchworker.StreamResults+".files", []byte(`{"batch":1,"expires":1000000000}`), time.Second)
			if err != nil || m.Header.Get("Fetch-Status") != "ok" {
				t.Fatalf("%+v, %v", m, err)
			}
			sub.Handle(ended, m, func(context.Context, *nats.Msg) error {
				t.Error("it was handled")
				return nil
			})
		}
	})
}

// What nobody can read is handed to no handler, and does not come again.
func TestWhatNoSubscriberCanRead(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		const event = `{"specversion":"1.0","id":"e-1","source":"/fetch/fmp","type":"fetch.circuit","time":"2026-02-13T21:00:00Z"}`
		for _, text := range []string{``, `no JSON`, `{"id":1}`, event} {
			if _, err := w.JS.Publish(t.Context(), "fetch.event.circuit.fmp", []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		bad := ok(identity("bad"), `[1]`).Encode()
		bad.Header.Set("Fetch-Status", "of another version")
		if _, err := w.JS.PublishMsg(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
		w.service().store(ok(identity("good"), `[1]`))
		sub, err := fetchworker.NewSubscriber(w.nc, fetchworker.SubscriberOptions{Durable: "files"})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var told []string
		tell := func(id string) error {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, id)
			return nil
		}
		for stream, do := range map[string]func(context.Context) error{
			fetchworker.StreamEvents: func(ctx context.Context) error {
				return sub.Events(ctx, fetchworker.EventFilter{}, func(_ context.Context, e fetchworker.Event) error {
					return tell(e.Kind + " " + e.Provider + " " + e.ID)
				})
			},
			fetchworker.StreamResults: func(ctx context.Context) error {
				return sub.Subscribe(ctx, fetchworker.ResultFilter{}, func(_ context.Context, a fetchworker.Answer) error { return tell(a.Identity.ID) })
			},
		} {
			if err := do(until(t, 2*time.Minute)); err != nil {
				t.Error(err)
			}
			consumer, err := w.JS.Consumer(t.Context(), stream, "files")
			if err != nil {
				t.Fatal(err)
			}
			if info := consumer.CachedInfo(); info.NumAckPending != 0 || info.NumRedelivered != 0 || info.NumPending != 0 {
				t.Errorf("%s: %d wait for their acknowledgement, %d came again, %d wait", stream, info.NumAckPending, info.NumRedelivered, info.NumPending)
			}
		}
		if slices.Sort(told); !slices.Equal(told, []string{"circuit fmp e-1", "good"}) {
			t.Errorf("told of %q", told)
		}
	})
}
