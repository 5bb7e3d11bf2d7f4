package cancel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/zap"
)

// deskThrough is a desk whose connection runs through a wire, until end.
func deskThrough(t *testing.T, b *brokertest.Broker, w *brokertest.Wire) (d *Desk, end func()) {
	t.Helper()
	g, _, closed := guardThrough(t, b, w)
	d = NewDesk(g.View, record.New(g.js, nil), func(p string) bool { return p == "fmp" }, 24*time.Hour, zap.NewNop())
	return d, func() { d.Close(); closed() }
}

const (
	byIDs = `{"operation":"quote","ids":["q-1","q-2","q-2"]}`
	byAll = `{"all":true}`
)

// An order that could not be carried out to its end is not said to be, whatever
// step it was lost at; and it may be given again.
func TestAnOrderThatIsLostAtAnyStepIsNone(t *testing.T) {
	const get, put = "DIRECT.GET.KV_" + wire.BucketProviders, "$KV." + wire.BucketProviders + "." + markPrefix
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		b.Ageless(t)
		var cable brokertest.Wire
		d, end := deskThrough(t, b, &cable)
		defer end()
		for n, c := range []struct {
			name string
			lose func()
		}{
			{"the time of the requests' stream", func() { cable.Break("STREAM.INFO."+fetchworker.StreamRequests, brokertest.RequestLost, 1<<20, 0) }},
			{"the answers", func() { cable.Break(".lost-", brokertest.RequestLost, 1<<20, 0) }},
			{"the mark's read", func() { cable.Break(get, brokertest.RequestLost, 1<<20, 0) }},
			{"the mark's write", func() {
				cable.Break(get, brokertest.ReplyLate, 1<<20, 0)
				cable.Break(put, brokertest.RequestLost, 1<<20, 0)
			}},
			{"the watch", func() { cable.BreakSaid(put, brokertest.Lost, 1<<20, 0) }},
		} {
			name := c.name
			ids := fmt.Sprintf(`{"operation":"quote","ids":["q-%d","lost-%d"]}`, n, n) // which nobody has cancelled before
			for _, body := range []string{ids, byAll} {
				if name == "the answers" && body == byAll {
					continue // it has none
				}
				c.lose()
				ctx, cancel := context.WithTimeout(t.Context(), orderLasts)
				began := time.Now()
				_, err := d.Take(ctx, "fetch.cancel.fmp.alice", []byte(body))
				took := time.Since(began)
				cancel()
				cable.Mend()
				var refusal *Refusal
				if err == nil || errors.As(err, &refusal) || took > orderLasts {
					t.Errorf("%s of %s is lost: %v, after %v", name, body, err, took)
				}
				time.Sleep(time.Minute) // what was lost is missed
				if _, err := d.Take(t.Context(), "fetch.cancel.fmp.alice", []byte(body)); err != nil {
					t.Errorf("%s of %s was lost, and it is given again: %v", name, body, err)
				}
			}
		}
	})
}

// Without the requests' stream there is no moment before which all is cancelled.
func TestNoOrderWithoutTheRequestsStream(t *testing.T) {
	inOffice(t, func(t *testing.T, o *office) {
		if err := o.b.JS.DeleteStream(t.Context(), fetchworker.StreamRequests); err != nil {
			t.Fatal(err)
		}
		for _, body := range []string{byIDs, byAll} {
			if reply, err := o.desk.Take(t.Context(), "fetch.cancel.fmp.alice", []byte(body)); err == nil || !strings.Contains(err.Error(), fetchworker.StreamRequests) {
				t.Errorf("%s: %+v, %v", body, reply, err)
			}
		}
	})
}

// Who asks for nothing that there is, or in other words, is told so, and nothing
// is cancelled; each id counts once.
func TestWhatAnOrderMustBe(t *testing.T) {
	ids := func(n int) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprint("q-", i)
		}
		text, _ := json.Marshal(all) // texts: it cannot fail
		return fmt.Sprintf(`{"operation":"quote","ids":%s}`, text)
	}
	inOffice(t, func(t *testing.T, o *office) {
		o.desk.known = func(p string) bool { return p == "fmp" }
		for _, c := range []struct {
			subject, body string
			status        int
			why           string
		}{
			{"fetch.cancel.fmp", byAll, 400, "the subject is"},
			{"fetch.cancel.fmp.alice.x", byAll, 400, "the subject is"},
			{"fetch.cancel.FMP.alice", byAll, 400, "the subject is"},
			{"fetch.cancel.fmp.al/ce", byAll, 400, "the subject is"},
			{"fetch.cancel.nobody.alice", byAll, 404, "nobody"},
			{"fetch.cancel.fmp.alice", `{"all":true,"operation":"a b"}`, 400, "operation:"},
			{"fetch.cancel.fmp.alice", `{"all":true,"lane":"slow"}`, 400, "lane: interactive or batch"},
			{"fetch.cancel.fmp.alice", `{"all":true,"operation":"quote","ids":["a"]}`, 400, "one of them"},
			{"fetch.cancel.fmp.alice", `{"operation":"quote"}`, 400, "one of them"},
			{"fetch.cancel.fmp.alice", `{"ids":["a"]}`, 400, "operation:"},
			{"fetch.cancel.fmp.alice", `{"operation":"quote","ids":["a"],"lane":"batch"}`, 400, "only with all"},
			{"fetch.cancel.fmp.alice", `{"operation":"quote","ids":["a","b c"]}`, 400, "ids:"},
			{"fetch.cancel.fmp.alice", ids(mostIDs + 1), 400, "at most"},
			{"fetch.cancel.fmp.alice", `{1:2}`, 400, "no JSON object"},
		} {
			_, err := o.desk.Take(t.Context(), c.subject, []byte(c.body))
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal.Status != c.status || !strings.Contains(refusal.Why, c.why) {
				t.Errorf("%s %.60s: %v", c.subject, c.body, err)
			}
		}
		if m, revision, err := read(t.Context(), o.desk.log, "fmp", "alice"); err != nil || revision != 0 {
			t.Errorf("a mark of what was refused: %+v, %v", m, err)
		}
		if reply, _ := o.order(byIDs); *reply.Cancelled != 2 || *reply.Final != 0 {
			t.Errorf("%d of two ids, one of them twice, are cancelled", *reply.Cancelled)
		}
		if reply, _ := o.order(ids(mostIDs)); *reply.Cancelled != mostIDs {
			t.Errorf("%d of %d ids are cancelled", *reply.Cancelled, mostIDs)
		}
	})
}

// So many orders are under way at a time and no more: who comes beyond is told
// so at once, and those that cannot be carried out are told so in time, and make
// room again. A desk that closes has replied to all.
func TestADeskReplies(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		b.Ageless(t)
		var cable brokertest.Wire
		d, end := deskThrough(t, b, &cable)
		defer end()
		service, err := micro.AddService(b.NC, micro.Config{Name: "desk", Version: "1.0.0"})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = service.Stop() }()
		if err := service.AddEndpoint("cancel", micro.HandlerFunc(d.Handle), micro.WithEndpointSubject(Subject)); err != nil {
			t.Fatal(err)
		}
		agent := b.Connect(t)
		defer agent.Close()
		replies, err := agent.SubscribeSync("replies")
		if err != nil {
			t.Fatal(err)
		}
		// The next so many replies, by their code; "": carried out.
		next := func(n int) (codes map[string]int, texts map[string]bool) {
			codes, texts = map[string]int{}, map[string]bool{}
			for range n {
				m, err := replies.NextMsg(time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				codes[m.Header.Get(micro.ErrorCodeHeader)]++
				texts[m.Header.Get(micro.ErrorHeader)+string(m.Data)] = true
			}
			return codes, texts
		}
		asks := func(n int, body string) {
			for range n {
				if err := agent.PublishMsg(&nats.Msg{Subject: "fetch.cancel.fmp.alice", Reply: "replies", Data: []byte(body)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		cable.Break("STREAM.INFO."+fetchworker.StreamRequests, brokertest.RequestLost, 1<<20, 0)
		began := time.Now()
		asks(ordersAtOnce+2, byIDs)
		if codes, texts := next(2); codes["503"] != 2 || time.Since(began) > time.Second || !texts["too many orders at once; try again"] {
			t.Errorf("beyond what is taken at once: %v %v after %v", codes, texts, time.Since(began))
		}
		if codes, texts := next(ordersAtOnce); codes["500"] != ordersAtOnce || time.Since(began) > orderLasts+time.Second || len(texts) != 1 || !texts["the order could not be carried out; try again"] {
			t.Errorf("not carried out: %v %v after %v", codes, texts, time.Since(began))
		}
		cable.Mend()
		asks(1, `{"operation":"quote","ids":["a b"]}`)
		if codes, texts := next(1); codes["400"] != 1 || !texts["ids: 1 to 64 of A-Z a-z 0-9 _ - each"] {
			t.Errorf("refused: %v %v", codes, texts)
		}
		asks(1, byIDs)
		if codes, texts := next(1); codes[""] != 1 || !texts[`{"cancelled":2,"final":0}`] {
			t.Errorf("carried out: %v %v", codes, texts)
		}
		ears := d.view.js.Conn().NumSubscriptions()
		asks(3, byAll)
		if codes, _ := next(3); codes[""] != 3 || d.view.js.Conn().NumSubscriptions() != ears {
			t.Errorf("carried out: %v; %d subscriptions more", codes, d.view.js.Conn().NumSubscriptions()-ears)
		}
		cable.Break("STREAM.INFO."+fetchworker.StreamRequests, brokertest.ReplyLate, 1, 3*time.Second)
		began = time.Now()
		asks(1, byIDs)
		time.Sleep(time.Second) // it is under way
		synctest.Wait()
		d.Close()
		if took := time.Since(began); took < 3*time.Second {
			t.Errorf("the desk is closed after %v, with an order under way", took)
		}
		if codes, _ := next(1); codes[""] != 1 {
			t.Errorf("as it closed: %v", codes)
		}
	})
}

// An order waits for the calls that it is about and for no others, and whoever
// orders at the same time waits for the same.
func TestAnOrderWaitsForItsOwnCalls(t *testing.T) {
	inOffice(t, func(t *testing.T, o *office) {
		hers := request("q-1")
		other, elsewhere := request("q-2"), request("q-3")
		other.Agent, elsewhere.Provider = "bob", "tiingo"
		var calls []*Call
		for _, r := range []Request{other, elsewhere, hers} {
			c, err := o.guard.MayCall(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			calls = append(calls, c)
		}
		replied := make(chan time.Time, 2)
		for range cap(replied) {
			go func() {
				o.order(byAll)
				replied <- time.Now()
			}()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if len(replied) > 0 {
			t.Error("replied while her call may yet begin")
		}
		written := time.Now()
		calls[2].Written()
		calls[2].Written() // it may be said again
		for range cap(replied) {
			if d := (<-replied).Sub(written); d > 100*time.Millisecond {
				t.Errorf("replied %v after her call had begun", d)
			}
		}
		calls[0].Written()
		calls[1].Written()
	})
}

// Whoever gave an order and goes is told that nobody knows what became of it.
func TestAnOrderThatIsGivenUpIsNone(t *testing.T) {
	inOffice(t, func(t *testing.T, o *office) {
		call, err := o.guard.MayCall(t.Context(), request("q-1"))
		if err != nil {
			t.Fatal(err)
		}
		defer call.Written()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := o.desk.Take(ctx, "fetch.cancel.fmp.alice", []byte(byAll)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call of before may yet begin: %v", err)
		}
		synctest.Wait() // the worker waits for the call to tell of it
	})
}

// An order of an agent whose mark is never as it was read, as at a copy that
// lags, reads it again after a moment, each time, and ends with whoever gave it.
func TestAnOrderDoesNotCrowdACopyThatLags(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		var cable brokertest.Wire
		js, end := b.Through(t, &cable)
		defer end()
		// While the answer is on its way another order is carried out.
		const get = "DIRECT.GET.KV_" + wire.BucketProviders
		cable.Break(get, brokertest.ReplyLate, 1<<20, 5*time.Millisecond)
		var reads atomic.Int32
		sub, err := b.NC.Subscribe("$JS.API."+get+".>", func(*nats.Msg) {
			reads.Add(1)
			if _, err := b.KV.PutString(t.Context(), markKey("fmp", "alice"), `{}`); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		if err := b.NC.Flush(); err != nil {
			t.Fatal(err)
		}
		why := errors.New("no longer")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second+time.Millisecond, why)
		defer cancel()
		began := time.Now()
		_, err = store(ctx, js, record.New(js, nil), "fmp", "alice", Order{All: true}, began, time.Hour, "")
		if took := time.Since(began); err == nil || took > time.Second+10*time.Millisecond {
			t.Errorf("%v, after %v", err, took)
		}
		if n := reads.Load(); n < 10 || n > 100 {
			t.Errorf("the mark was read %d times in a second", n)
		}
	})
}

// A desk that is closed takes no order, and says so: nobody would carry it out to
// its end.
func TestADeskThatIsClosedTakesNoOrder(t *testing.T) {
	inOffice(t, func(t *testing.T, o *office) {
		o.desk.Close()
		service, err := micro.AddService(o.b.NC, micro.Config{Name: "desk", Version: "1.0.0"})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = service.Stop() }()
		if err := service.AddEndpoint("cancel", micro.HandlerFunc(o.desk.Handle), micro.WithEndpointSubject(Subject)); err != nil {
			t.Fatal(err)
		}
		m, err := o.b.NC.Request("fetch.cancel.fmp.alice", []byte(byAll), time.Second)
		if err != nil || m.Header.Get(micro.ErrorCodeHeader) != "503" || m.Header.Get(micro.ErrorHeader) != "the worker is stopping; try again" {
			t.Errorf("%v, %v", m, err)
		}
		o.desk.Close()
		if m, revision, err := read(t.Context(), o.desk.log, "fmp", "alice"); err != nil || revision != 0 {
			t.Errorf("a mark of what was refused: %+v, %v", m, err)
		}
	})
}

// Where an answer, or the mark, cannot be stored or read an order is none, and
// that is told at once.
func TestAnOrderThatHasNoRoomIsNone(t *testing.T) {
	const bucket = "KV_" + wire.BucketProviders
	for name, c := range map[string]struct {
		stream string
		spoil  func(*jetstream.StreamConfig)
		all    bool // of all as well
	}{
		"the answers are full":     {fetchworker.StreamResults, full, false},
		"the marks are full":       {bucket, full, true},
		"the marks cannot be read": {bucket, func(c *jetstream.StreamConfig) { c.AllowDirect = false }, true},
	} {
		inOffice(t, func(t *testing.T, o *office) {
			stream, err := o.b.JS.Stream(t.Context(), c.stream)
			if err != nil {
				t.Fatal(err)
			}
			config := stream.CachedInfo().Config
			if c.spoil(&config); config.MaxBytes == 1 {
				defer func() { // who leaves says so
					config.MaxBytes = -1
					if _, err := o.b.JS.UpdateStream(t.Context(), config); err != nil {
						t.Error(err)
					}
				}()
			}
			if _, err := o.b.JS.UpdateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			for _, body := range []string{byIDs, byAll} {
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), orderLasts)
				_, err := o.desk.Take(ctx, "fetch.cancel.fmp.alice", []byte(body))
				cancel()
				if fails := c.all || body == byIDs; fails != (err != nil) || errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 5*time.Second {
					t.Errorf("%s: %s: %v after %v", name, body, err, time.Since(began))
				}
			}
			if err := Note(t.Context(), o.b.JS, o.desk.log, "fmp", "alice", time.Now()); c.all != (err != nil) {
				t.Errorf("%s: an operator's: %v", name, err)
			}
		})
	}
}

func full(c *jetstream.StreamConfig) { c.MaxBytes, c.Discard = 1, jetstream.DiscardNew }

// What one worker says takes nothing from, and adds nothing to, the wait for
// another that is dead: until its lease is over.
func TestAWordIsOfOneWorker(t *testing.T) {
	inOffice(t, func(t *testing.T, o *office) {
		dead, err := o.guard.MayCall(t.Context(), request("q-1"))
		if err != nil {
			t.Fatal(err)
		}
		defer dead.Written()
		began := time.Now()
		for i := range 3 {
			v, err := Watch(t.Context(), o.b.JS, o.b.KV)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			g := NewGuard(v, fmt.Sprint("other-", i))
			call, err := g.MayCall(t.Context(), request("q-1"))
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(time.Duration(i+1)*600*time.Millisecond, call.Written)
			defer func() { _ = g.Leave(context.Background()) }() //nolint:usetesting // it may be over
		}
		words, err := o.b.NC.SubscribeSync(seenPrefix + "*")
		if err != nil {
			t.Fatal(err)
		}
		o.order(byAll)
		if took := time.Since(began); took < leaseLasts || took > leaseLasts+skew+50*time.Millisecond {
			t.Errorf("replied after %v", took)
		}
		// Whose call of before is never written says nothing, however late.
		time.Sleep(time.Minute)
		said := map[string]int{}
		for {
			m, err := words.NextMsg(time.Millisecond)
			if err != nil {
				break
			}
			said[string(m.Data)]++
		}
		if len(said) != 3 || said["w1"] != 0 {
			t.Errorf("said by %v", said)
		}
	})
}
