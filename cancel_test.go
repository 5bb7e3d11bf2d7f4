package fetchworker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go"
)

// An order to cancel is given again where it is not sure that it was carried
// out, and its refusal is told at once.
func TestAnOrderIsGivenAgain(t *testing.T) {
	s := startService(t)
	alice := s.client("alice")
	orders := 0
	sub, err := s.NC.Subscribe("fetch.cancel.fmp.alice", func(m *nats.Msg) {
		reply := nats.NewMsg(m.Reply)
		switch orders++; orders {
		case 1, 2:
			reply.Header.Set("Nats-Service-Error-Code", "503")
			reply.Header.Set("Nats-Service-Error", "too many orders at once; try again")
		case 3:
			reply.Data = []byte(`{"cancelled":1,"final":0}`)
		default:
			reply.Header.Set("Nats-Service-Error-Code", "404")
			reply.Header.Set("Nats-Service-Error", "no provider named fmp is known")
		}
		if err := m.RespondMsg(reply); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := s.NC.Flush(); err != nil {
		t.Fatal(err)
	}
	if c, err := alice.Cancel(soon(t), identity("q-1")); err != nil || c.Cancelled != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	var wrong *fetchworker.RequestError
	if _, err := alice.Cancel(soon(t), identity("q-1")); !errors.As(err, &wrong) || orders != 4 {
		t.Errorf("%d orders, %v", orders, err)
	}
	others := identity("q-1")
	others.Agent = "bob"
	if _, err := alice.Cancel(soon(t), others); !errors.As(err, &wrong) || wrong.Field != "agent" || orders != 4 {
		t.Errorf("%d orders, %v", orders, err)
	}
}

// How soon an order is carried out, whatever becomes of its first tries, and what
// is told where nobody takes it. What is only asked is not asked again.
func TestHowSoonAnOrderIsTaken(t *testing.T) {
	const order, question = "fetch.cancel.", "fetch.catalog."
	for name, c := range map[string]struct {
		on    string
		meet  func(*wiredClient)
		serve time.Duration // when a worker is there; negative: never
		want  error
		most  time.Duration
	}{
		"an order":             {order, func(*wiredClient) {}, 0, nil, 0},
		"lost":                 {order, func(w *wiredClient) { w.Break(order, brokertest.RequestLost, 1, 0) }, 0, nil, 3 * time.Second},
		"lost twice":           {order, func(w *wiredClient) { w.Break(order, brokertest.RequestLost, 2, 0) }, 0, nil, 6 * time.Second},
		"lost ten times":       {order, func(w *wiredClient) { w.Break(order, brokertest.RequestLost, 10, 0) }, 0, nil, 30 * time.Second},
		"its reply lost":       {order, func(w *wiredClient) { w.Break(order, brokertest.ReplyLost, 1, 0) }, 0, nil, 3 * time.Second},
		"every reply late":     {order, func(w *wiredClient) { w.Break(order, brokertest.ReplyLate, 100, 11*time.Second) }, 0, nil, 11 * time.Second},
		"its reply late":       {order, func(w *wiredClient) { w.Break(order, brokertest.ReplyLate, 1, 2*time.Second) }, 0, nil, 2100 * time.Millisecond},
		"a worker just starts": {order, func(*wiredClient) {}, 500 * time.Millisecond, nil, 700 * time.Millisecond},
		"no worker":            {order, func(*wiredClient) {}, -1, fetchworker.ErrNobodyServes, 700 * time.Millisecond},
		"a question":           {question, func(*wiredClient) {}, 0, nil, 0},
		"its answer late":      {question, func(w *wiredClient) { w.Break(question, brokertest.ReplyLate, 1, 2*time.Second) }, 0, nil, 2100 * time.Millisecond},
		"its answer lost":      {question, func(w *wiredClient) { w.Break(question, brokertest.ReplyLost, 1, 0) }, 0, fetchworker.ErrNobodyServes, 3100 * time.Millisecond},
		"nobody to ask":        {question, func(*wiredClient) {}, -1, fetchworker.ErrNobodyServes, 0},
	} {
		t.Run(name, func(t *testing.T) {
			wired(t, func(t *testing.T, w *wiredClient) {
				serve := func() {
					replies(t, w.NC, "fetch.cancel.fmp.alice", `{"cancelled":1}`)
					replies(t, w.NC, "fetch.catalog.*", `{"provider":"fmp"}`)
				}
				if c.serve == 0 {
					serve()
				} else if c.serve > 0 {
					time.AfterFunc(c.serve, serve)
				}
				time.Sleep(time.Millisecond) // the server knows who serves
				c.meet(w)
				began := time.Now()
				var err error
				var done fetchworker.Cancelled
				if c.on == question {
					_, err = w.Catalogue(until(t, time.Minute), "fmp")
				} else if done, err = w.Cancel(until(t, time.Minute), identity("q-1"), identity("q-1")); err == nil && done.Cancelled != 1 {
					t.Errorf("%+v", done)
				}
				if took := time.Since(began); !errors.Is(err, c.want) || took > c.most+20*time.Millisecond {
					t.Errorf("%v after %v", err, took)
				}
				if got := w.Held(); got != fetchworker.HeldNothing {
					t.Error(got)
				}
			})
		})
	}
}

// Any number of ids is ordered in pieces, each once, and what became of them is the
// sum.
func TestManyAreCancelledInPieces(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		seen := map[string]int{}
		orders := 0
		if _, err := w.NC.Subscribe("fetch.cancel.*.alice", func(m *nats.Msg) {
			var order struct {
				Operation string   `json:"operation"`
				IDs       []string `json:"ids"`
			}
			if err := json.Unmarshal(m.Data, &order); err != nil || len(order.IDs) > 1000 {
				t.Errorf("an order of %d ids, %v", len(order.IDs), err)
			}
			orders++
			for _, id := range order.IDs {
				seen[m.Subject+" "+order.Operation+" "+id]++
			}
			if err := m.Respond(fmt.Appendf(nil, `{"cancelled":%d,"final":1}`, len(order.IDs)-1)); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		var ids []fetchworker.Identity
		for i := range 2500 {
			ids = append(ids, identity(fmt.Sprint("q-", i)), identity(fmt.Sprint("q-", i)))
		}
		other, others := identity("q-1"), identity("q-1")
		other.Operation, others.Provider = "profile", "fred"
		done, err := w.Cancel(t.Context(), append(ids, other, others)...)
		if err != nil || done.Cancelled != 2500+2-5 || done.Final != 5 || orders != 5 || len(seen) != 2502 {
			t.Errorf("%+v, %v: %d orders for %d requests", done, err, orders, len(seen))
		}
		for what, n := range seen {
			if n != 1 {
				t.Errorf("%s was ordered %d times", what, n)
			}
		}
		ended, end := context.WithCancel(t.Context())
		end()
		if _, err := w.Cancel(ended, identity("q-1")); !errors.Is(err, context.Canceled) {
			t.Errorf("an order whose time is over: %v", err)
		}
	})
}

// What an order says is what was asked for, letter for letter.
func TestWhatAnOrderSays(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		orders := make(chan string, 1)
		if _, err := w.NC.Subscribe("fetch.cancel.*.*", func(m *nats.Msg) {
			orders <- m.Subject + " " + string(m.Data)
			if err := m.Respond([]byte(`{}`)); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		for want, f := range map[string]fetchworker.CancelFilter{
			`{"all":true}`:                                          {Provider: "fmp"},
			`{"operation":"quote","all":true}`:                      {Provider: "fmp", Operation: "quote"},
			`{"all":true,"lane":"batch"}`:                           {Provider: "fmp", Lane: fetchworker.LaneBatch},
			`{"operation":"quote","all":true,"lane":"interactive"}`: {Provider: "fmp", Operation: "quote", Lane: fetchworker.LaneInteractive},
		} {
			if _, err := w.CancelAll(until(t, time.Minute), f); err != nil {
				t.Error(err)
			}
			if got := <-orders; got != "fetch.cancel.fmp.alice "+want {
				t.Errorf("%+v: %s", f, got)
			}
		}
		if _, err := w.Cancel(until(t, time.Minute), identity("q-2"), identity("q-1")); err != nil {
			t.Error(err)
		}
		if got := <-orders; got != `fetch.cancel.fmp.alice {"operation":"quote","ids":["q-1","q-2"]}` {
			t.Error(got)
		}
	})
}

// A question whose asker has no more time is not told as one that nobody answers.
func TestAQuestionWhoseTimeIsOver(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		replies(t, w.NC, "fetch.catalog.*", `{"provider":"fmp","providers":["fmp"]}`)
		time.Sleep(time.Millisecond)
		for within, want := range map[time.Duration]error{time.Second: context.DeadlineExceeded, time.Minute: fetchworker.ErrNobodyServes} {
			w.Break("fetch.catalog.", brokertest.ReplyLost, 2, 0)
			for _, ask := range []func(context.Context) error{
				func(ctx context.Context) error { _, err := w.Catalogue(ctx, "fmp"); return err },
				func(ctx context.Context) error { _, err := w.Providers(ctx); return err },
			} {
				if err := ask(until(t, within)); errors.Is(err, fetchworker.ErrNobodyServes) != (want == fetchworker.ErrNobodyServes) || !errors.Is(err, want) { //nolint:errorlint // one of two
					t.Errorf("within %v: %v", within, err)
				}
			}
		}
	})
}

// An order that a worker refuses for now is given again soon.
func TestAnOrderThatIsRefusedForNow(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		orders := 0
		if _, err := w.NC.Subscribe("fetch.cancel.*.*", func(m *nats.Msg) {
			reply := nats.NewMsg(m.Reply)
			if orders++; orders < 4 {
				reply.Header.Set("Nats-Service-Error-Code", "503")
			} else {
				reply.Data = []byte(`{"cancelled":1}`)
			}
			if err := m.RespondMsg(reply); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		began := time.Now()
		if c, err := w.Cancel(until(t, time.Minute), identity("q-1")); err != nil || c.Cancelled != 1 || time.Since(began) != 1200*time.Millisecond {
			t.Errorf("%+v, %v after %v", c, err, time.Since(began))
		}
	})
}
