package cancel

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go.uber.org/zap"
)

// office is a desk and one worker that may call, in a bubble.
type office struct {
	t     *testing.T
	b     *brokertest.Broker
	desk  *Desk
	guard *Guard
}

func inOffice(t *testing.T, test func(t *testing.T, o *office)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		view := func() *View {
			v, err := Watch(t.Context(), b.JS, b.KV)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		worker, takes := view(), view()
		defer worker.Close()
		defer takes.Close()
		o := &office{t: t, b: b, guard: NewGuard(worker, "w1")}
		o.desk = NewDesk(takes, record.New(b.JS, nil), func(string) bool { return true }, 24*time.Hour, zap.NewNop())
		defer o.desk.Close()
		test(t, o)
		if err := o.guard.Leave(context.Background()); err != nil { //nolint:usetesting // it may be over
			t.Error(err)
		}
	})
}

func request(id string) Request {
	return Request{
		Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: id},
		Lane:     fetchworker.LaneBatch, Stored: time.Now().Add(-time.Minute),
	}
}

// order takes an order, and says how long that took.
func (o *office) order(body string) (reply *Reply, took time.Duration) {
	o.t.Helper()
	began := time.Now()
	reply, err := o.desk.Take(o.t.Context(), "fetch.cancel.fmp.alice", []byte(body))
	if err != nil {
		o.t.Error(err)
	}
	return reply, time.Since(began)
}

// Nobody is told that all is cancelled while a call is on its way to the wire
// that was judged before; and who was refused is waited for by nobody.
func TestAnOrderWaitsForTheCallsThatWereJudgedBefore(t *testing.T) {
	inOffice(t, func(t *testing.T, o *office) {
		call, err := o.guard.MayCall(t.Context(), request("q-1"))
		if err != nil {
			t.Fatal(err)
		}
		replied := make(chan time.Time, 1)
		go func() {
			o.order(`{"all":true}`)
			replied <- time.Now()
		}()
		time.Sleep(500 * time.Millisecond)
		if len(replied) > 0 {
			t.Error("replied while a call of before may yet begin")
		}
		written := time.Now()
		call.Written()
		if d := (<-replied).Sub(written); d > 200*time.Millisecond {
			t.Errorf("replied %v after the last call began", d)
		}
		if _, err := o.guard.MayCall(t.Context(), request("q-2")); !errors.Is(err, ErrCancelled) {
			t.Errorf("a call after the reply: %v", err)
		}
		if _, took := o.order(`{"all":true}`); took > 200*time.Millisecond {
			t.Errorf("the next order took %v, and nobody calls", took)
		}
	})
}

// A worker that does not say that it has seen the order may call until its
// lease is over, and no longer is waited for.
func TestAnOrderWaitsForALeaseAtTheMost(t *testing.T) {
	inOffice(t, func(t *testing.T, o *office) {
		if _, err := o.guard.MayCall(t.Context(), request("q-1")); err != nil {
			t.Fatal(err)
		}
		if _, took := o.order(`{"all":true}`); took < leaseLasts || took > leaseLasts+skew+time.Second {
			t.Errorf("replied after %v", took)
		}
	})
}

// A lease begins when its beat is sent, not when that is answered: whoever
// waits for it counts from when it was stored.
func TestALeaseBeginsWithItsBeat(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		var cable brokertest.Wire
		g, _, end := guardThrough(t, b, &cable)
		defer end()
		cable.Break(beatPrefix, brokertest.ReplyLate, 1, 1500*time.Millisecond)
		began := time.Now()
		if err := g.sure(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.mu.Lock()
		left := g.left(time.Now())
		g.mu.Unlock()
		if over := time.Since(began) + left; over > leaseLasts {
			t.Errorf("the lease of a beat is over %v after it", over)
		}
		if err := g.Leave(context.Background()); err != nil { //nolint:usetesting // it may be over
			t.Error(err)
		}
	})
}

// What has passed by either clock has passed.
func TestWhatIsLeftOfALease(t *testing.T) {
	for _, c := range []struct{ passed, wall, left time.Duration }{
		{0, 0, leaseLasts},
		{time.Second, time.Second, time.Second},
		{time.Millisecond, time.Hour, leaseLasts - time.Hour}, // the machine slept
		{time.Hour, time.Millisecond, leaseLasts - time.Hour}, // its clock was set back
		{time.Millisecond, -time.Hour, 0},
	} {
		if got := leaseLeft(c.passed, c.wall); got != c.left {
			t.Errorf("%v and %v by the wall clock: %v left, want %v", c.passed, c.wall, got, c.left)
		}
	}
}

// Orders of one agent at once are all in its mark.
func TestOrdersAtOnce(t *testing.T) {
	b := brokertest.Start(t)
	var all sync.WaitGroup
	now := time.Now()
	for i := range 8 {
		all.Go(func() {
			order := Order{All: true, Operation: fmt.Sprint("o", i)}
			if _, err := store(t.Context(), b.JS, record.New(b.JS, nil), "fmp", "alice", order, now, time.Hour, ""); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if m, _, err := read(t.Context(), record.New(b.JS, nil), "fmp", "alice"); err != nil || len(m.All) != 8 {
		t.Errorf("%d of 8 orders are in the mark, %v", len(m.All), err)
	}
}

// An order that read the mark before another was stored takes nothing of that
// back.
func TestAnOrderOverAnother(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		var cable brokertest.Wire
		js, end := b.Through(t, &cable)
		defer end()
		now := time.Now()
		cable.Break(markPrefix+"fmp.alice", brokertest.ReplyLate, 1, time.Second)
		var slow sync.WaitGroup
		slow.Go(func() {
			if _, err := store(t.Context(), js, record.New(js, nil), "fmp", "alice", Order{All: true, Operation: "slow"}, now, time.Hour, ""); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(500 * time.Millisecond)
		if _, err := store(t.Context(), b.JS, record.New(b.JS, nil), "fmp", "alice", Order{All: true, Operation: "quick"}, now, time.Hour, ""); err != nil {
			t.Error(err)
		}
		slow.Wait()
		if cable.Met() != 1 {
			t.Error("it did not read what was there before")
		}
		if m, _, err := read(t.Context(), record.New(b.JS, nil), "fmp", "alice"); err != nil || len(m.All) != 2 {
			t.Errorf("%d of 2 orders are in the mark, %v", len(m.All), err)
		}
	})
}

// What an order by ids does: a request that a person has sent back to work is
// cancelled in its new life, what is final stays, and where nothing was
// cancelled nobody need look anything up.
func TestWhatAnOrderByIDsDoes(t *testing.T) {
	inOffice(t, func(t *testing.T, o *office) {
		answers := answer.New(record.New(o.b.JS, nil))
		put := func(id string, a fetchworker.Answer) fetchworker.Identity {
			a.Identity = request(id).Identity
			if _, stored, err := answers.Put(t.Context(), a, ""); err != nil || !stored {
				t.Fatal(stored, err)
			}
			return a.Identity
		}
		waits := fetchworker.Waiting(request("again").Identity, fetchworker.ReasonPaused, "", time.Time{})
		again := put("again", fetchworker.Answer{Status: fetchworker.StatusWaiting, Generation: 2, Problem: &waits})
		done := put("done", fetchworker.Answer{Status: fetchworker.StatusOK, Final: true, Generation: 1, Body: []byte("{}")})

		if ended, err := o.guard.Ended(t.Context(), again); ended || err != nil {
			t.Errorf("one that waits has ended: %v", err)
		}
		if ended, err := o.guard.Ended(t.Context(), request("none").Identity); ended || err != nil {
			t.Errorf("one without an answer has ended: %v", err)
		}
		if ended, err := o.guard.Ended(t.Context(), done); !ended || err != nil {
			t.Errorf("one that is final has not ended: %v", err)
		}

		reply, _ := o.order(`{"operation":"quote","ids":["done"]}`)
		if *reply.Cancelled != 0 || *reply.Final != 1 {
			t.Errorf("%d cancelled, %d final", *reply.Cancelled, *reply.Final)
		}
		if m, revision, err := read(t.Context(), o.desk.log, "fmp", "alice"); err != nil || revision != 0 {
			t.Errorf("a mark for nothing: %+v, %v", m, err)
		}
		reply, _ = o.order(`{"operation":"quote","ids":["again","done"]}`)
		if *reply.Cancelled != 1 || *reply.Final != 1 {
			t.Errorf("%d cancelled, %d final", *reply.Cancelled, *reply.Final)
		}
		if stands, err := answers.Read(t.Context(), again); err != nil || !stands.Final || stands.Generation != 2 || stands.Problem.Code() != fetchworker.CodeCancelled {
			t.Errorf("%+v, %v", stands.Answer, err)
		}
		if _, err := o.guard.MayCall(t.Context(), request("again")); !errors.Is(err, ErrCancelled) {
			t.Errorf("a call of what was cancelled: %v", err)
		}
	})
}

// A mark does not grow without end, and what cancels one operation takes
// nothing back of another.
func TestAMarkIsBounded(t *testing.T) {
	now := time.Now()
	m := Mark{}
	for i := range mostBefores {
		var err error
		if m, err = m.with(Order{All: true, Operation: fmt.Sprint("o", i)}, now, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for i := range mostBefores {
		r := Request{Identity: fetchworker.Identity{Operation: fmt.Sprint("o", i)}, Stored: now.Add(-time.Second)}
		if m.judge(r) != Cancelled {
			t.Errorf("what cancels the others took back that of %s", r.Operation)
		}
	}
	var refusal *Refusal
	if _, err := m.with(Order{All: true, Operation: "one-more"}, now, time.Hour); !errors.As(err, &refusal) || refusal.Status != 429 {
		t.Errorf("one more: %v", err)
	}
	if m, err := m.with(Order{All: true}, now, time.Hour); err != nil || len(m.All) != 1 {
		t.Errorf("all together: %+v, %v", m, err)
	}
	if m, err := m.with(Order{All: true, Operation: "one-more"}, now.Add(time.Hour), time.Hour); err != nil || len(m.All) != 1 {
		t.Errorf("when no request can be so old any more: %d, %v", len(m.All), err)
	}
}

// A mark that has run out, or that was taken away, leaves word of that in its
// place for some minutes: the next order is carried out all the same, and at once.
func TestAnOrderAfterAMarkIsGone(t *testing.T) {
	inOffice(t, func(t *testing.T, o *office) {
		for name, gone := range map[string]func() error{
			"it has run out": func() error {
				m := nats.NewMsg(markSubject("fmp", "alice"))
				m.Data = Mark{Named: time.Now()}.encode()
				_, err := o.b.JS.PublishMsg(t.Context(), m, jetstream.WithMsgTTL(time.Second))
				time.Sleep(3 * time.Second)
				return err
			},
			"it was deleted": func() error { return o.b.KV.Delete(t.Context(), markKey("fmp", "alice")) },
			"it was purged":  func() error { return o.b.KV.Purge(t.Context(), markKey("fmp", "alice")) },
		} {
			o.order(`{"all":true}`)
			if err := gone(); err != nil {
				t.Fatal(err)
			}
			if _, err := o.b.KV.Get(t.Context(), markKey("fmp", "alice")); !errors.Is(err, jetstream.ErrKeyNotFound) {
				t.Fatalf("%s: a mark stands: %v", name, err)
			}
			if m, last, err := read(t.Context(), o.desk.log, "fmp", "alice"); err != nil || last == 0 || len(m.All) > 0 || !m.Named.IsZero() {
				t.Fatalf("%s: %+v of %d, %v", name, m, last, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), orderLasts)
			if _, err := o.desk.Take(ctx, "fetch.cancel.fmp.alice", []byte(`{"all":true}`)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
		}
	})
}
