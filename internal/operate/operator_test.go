package operate_test

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// desk is an operator in front of a real server.
type desk struct {
	*brokertest.Broker
	t       *testing.T
	log     *record.Log
	browser *browse.Browser
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	b := brokertest.Start(t)
	return &desk{Broker: b, t: t, log: record.New(b.JS, nil), browser: browse.New(b.NC)}
}

// open opens the desk as a program does.
func (d *desk) open() *operate.Desk {
	d.t.Helper()
	desk, err := operate.Open(d.t.Context(), d.NC)
	if err != nil {
		d.t.Fatal(err)
	}
	return desk
}

// fleet is the fleet as a desk sees it, until Close.
func (d *desk) fleet(desk *operate.Desk) *operate.Fleet {
	d.t.Helper()
	f, err := desk.Fleet(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return f
}

func (d *desk) operator(hook record.Hook) *operate.Operator {
	return operate.NewOperator(d.JS, record.New(d.JS, hook), operate.Signature{By: "ann", Reason: "because", Run: "r1"})
}

func (d *desk) operatorWhy(reason string) *operate.Operator {
	return operate.NewOperator(d.JS, record.New(d.JS, nil), operate.Signature{By: "ann", Reason: reason, Run: "r1"})
}

func letter(id string) dlq.Letter {
	now := time.Now().UTC()
	return dlq.Letter{
		Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: id},
		Lane:     fetchworker.LaneBatch, Body: []byte(`{"id":"` + id + `","params":{"symbol":"AAPL"}}`),
		Generation: 1, Calls: 4, Failures: 4, Class: wire.ClassTransient, Error: "timeout after 5s",
		RequestedAt: now.Add(-time.Hour), Deadline: now.Add(time.Hour), FailedAt: now.Add(-time.Minute),
		FirstFailedAt: now.Add(-time.Hour), NotBefore: now.Add(time.Hour),
	}
}

func (d *desk) put(l dlq.Letter) {
	d.t.Helper()
	if err := dlq.Put(d.t.Context(), d.log, l); err != nil {
		d.t.Fatal(err)
	}
}

// bury puts what a replayer leaves of an exhausted letter: item and answer.
func (d *desk) bury(l dlq.Letter) {
	d.t.Helper()
	if _, err := d.JS.PublishMsg(d.t.Context(), l.ReviewItem()); err != nil {
		d.t.Fatal(err)
	}
	d.answer(fetchworker.Answer{
		Identity: l.Identity, Status: fetchworker.StatusFailed, Final: true, Review: true, Generation: l.Generation,
		Problem: new(fetchworker.Failure(l.Identity, fetchworker.CodeRetriesExhausted, l.Error)),
	})
}

func (d *desk) answer(a fetchworker.Answer) {
	d.t.Helper()
	if _, _, err := answer.New(d.log).Put(d.t.Context(), a, ""); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) walk(stream string, f browse.Filter) []browse.Found {
	d.t.Helper()
	edge, err := d.browser.Edge(d.t.Context(), stream)
	if err != nil {
		d.t.Fatal(err)
	}
	var all []browse.Found
	for found, err := range d.browser.Walk(d.t.Context(), stream, f, edge) {
		if err != nil {
			d.t.Fatal(err)
		}
		all = append(all, found)
	}
	return all
}

func (d *desk) only(stream string) browse.Found {
	d.t.Helper()
	all := d.walk(stream, browse.Filter{})
	if len(all) != 1 {
		d.t.Fatalf("%s holds %d, want 1", stream, len(all))
	}
	return all[0]
}

func (d *desk) count(stream string) int {
	d.t.Helper()
	return len(d.walk(stream, browse.Filter{}))
}

func (d *desk) acts() (acts []operate.Act) {
	d.t.Helper()
	for a, err := range operate.Acts(d.t.Context(), d.browser, operate.ActFilter{}) {
		if err != nil {
			d.t.Fatal(err)
		}
		acts = append(acts, a)
	}
	return acts
}

func (d *desk) stored(i fetchworker.Identity) fetchworker.Answer {
	d.t.Helper()
	m, err := d.log.Get(d.t.Context(), answer.Slot(i))
	if err != nil {
		d.t.Fatal(err)
	}
	a, err := fetchworker.DecodeAnswer(fetchworker.ResultSubject(i), m.Header, m.Data)
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

func TestWalkPagesThroughEverythingAndFilters(t *testing.T) {
	d := newDesk(t)
	const n = 2500 // more than two pages
	for i := range n {
		l := letter("q-" + strconv.Itoa(i))
		if i%5 == 0 {
			l.Provider, l.Class = "fred", wire.ClassThrottled
		}
		if i%100 == 0 {
			l.Agent, l.FailedAt = "bob", time.Now().Add(-48*time.Hour)
		}
		if _, err := d.JS.PublishMsgAsync(l.DeadLetter(), jetstream.WithStallWait(10*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	<-d.JS.PublishAsyncComplete()
	yesterday := time.Now().Add(-24 * time.Hour)
	for name, c := range map[string]struct {
		filter browse.Filter
		want   int
	}{
		"all":       {browse.Filter{}, n},
		"provider":  {browse.Filter{Provider: "fred"}, n / 5},
		"class":     {browse.Filter{Class: wire.ClassTransient}, n - n/5},
		"agent":     {browse.Filter{Agent: "bob"}, n / 100},
		"operation": {browse.Filter{Operation: "quote"}, n},
		"id":        {browse.Filter{ID: "q-77"}, 1},
		"since":     {browse.Filter{Since: yesterday}, n - n/100},
		"until":     {browse.Filter{Until: yesterday}, n / 100},
		"nothing":   {browse.Filter{Provider: "none"}, 0},
	} {
		if got := len(d.walk(wire.StreamDLQ, c.filter)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	count, first, err := d.browser.Count(t.Context(), wire.StreamDLQ, "fetch.dlq.fred.>")
	if err != nil || count != n/5 || first.Sequence != 1 {
		t.Errorf("count %d, first %d, %v", count, first.Sequence, err)
	}
	if count, _, err = d.browser.Count(t.Context(), wire.StreamDLQ, "fetch.dlq.none.>"); err != nil || count != 0 {
		t.Errorf("count of nothing %d, %v", count, err)
	}
}

func TestWalkEndsAtTheEdgeThoughItWritesItself(t *testing.T) {
	d := newDesk(t)
	for i := range 30 {
		d.put(letter("q-" + strconv.Itoa(i)))
	}
	edge, err := d.browser.Edge(t.Context(), wire.StreamDLQ)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for found, err := range d.browser.Walk(t.Context(), wire.StreamDLQ, browse.Filter{}, edge) {
		if err != nil {
			t.Fatal(err)
		}
		seen++
		if fate, err := d.operator(nil).ReplayNow(t.Context(), found, edge.At); fate != operate.FateDone || err != nil {
			t.Fatal(fate, err)
		}
	}
	if seen != 30 || d.count(wire.StreamDLQ) != 30 {
		t.Errorf("saw %d, left %d", seen, d.count(wire.StreamDLQ))
	}
}

func TestWhatCannotBeReadIsShownAndNeverTouched(t *testing.T) {
	d := newDesk(t)
	m := letter("q-1").ReviewItem()
	m.Header.Set(wire.HeaderFailures, "many")
	if _, err := d.JS.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	item := d.only(wire.StreamReview)
	if item.Fault == nil || item.ID != "q-1" {
		t.Fatalf("fault %v of %s", item.Fault, item.ID)
	}
	if fate, err := d.operator(nil).Requeue(t.Context(), item, operate.RequeueOptions{}); fate != operate.FateUnreadable || err != nil {
		t.Errorf("requeue: %s, %v", fate, err)
	}
	if d.count(wire.StreamReview) != 1 || len(d.acts()) != 0 {
		t.Error("it was touched")
	}
}

func TestReplayNow(t *testing.T) {
	d := newDesk(t)
	d.put(letter("q-1"))
	seen := d.only(wire.StreamDLQ)
	now := time.Now()
	fate, err := d.operator(nil).ReplayNow(t.Context(), seen, now)
	if fate != operate.FateDone || err != nil {
		t.Fatal(fate, err)
	}
	after := d.only(wire.StreamDLQ)
	if after.Sequence == seen.Sequence || !after.NotBefore.Equal(now) {
		t.Errorf("at %d, not before %v", after.Sequence, after.NotBefore)
	}
	after.Sequence, after.StoredAt, after.NotBefore = seen.Sequence, seen.StoredAt, seen.NotBefore
	if fmt.Sprint(after) != fmt.Sprint(seen) {
		t.Errorf("more than its time has changed:\n%v\n%v", seen, after)
	}
	if acts := d.acts(); len(acts) != 1 || acts[0].Action != "replay" || acts[0].By != "ann" || acts[0].ID != "q-1" {
		t.Errorf("audit: %+v", acts)
	}

	t.Run("one that a colleague was faster with", func(t *testing.T) {
		if fate, err := d.operator(nil).ReplayNow(t.Context(), seen, now); fate != operate.FateTaken || err != nil {
			t.Error(fate, err)
		}
	})
	t.Run("one that is due already", func(t *testing.T) {
		if fate, err := d.operator(nil).ReplayNow(t.Context(), d.only(wire.StreamDLQ), now); fate != operate.FateDue || err != nil {
			t.Error(fate, err)
		}
	})
	t.Run("one that was released meanwhile is not put back", func(t *testing.T) {
		if err := d.log.Delete(t.Context(), "", wire.StreamDLQ, d.only(wire.StreamDLQ).Sequence); err != nil {
			t.Fatal(err)
		}
		if fate, err := d.operator(nil).ReplayNow(t.Context(), seen, now); fate != operate.FateTaken || err != nil {
			t.Error(fate, err)
		}
		if n := d.count(wire.StreamDLQ); n != 0 {
			t.Errorf("%d letters came back", n)
		}
	})
}

func TestRequeueStartsANewLife(t *testing.T) {
	d := newDesk(t)
	l := letter("q-1")
	l.Code, l.HTTPStatus, l.Class = fetchworker.CodeRejected, 422, wire.ClassPermanent
	l.Allowed, l.MaxLife = 4, 2*time.Hour // as its worker was configured then
	l.Record(dlq.Attempt{At: l.FailedAt, Class: l.Class, Error: l.Error})
	d.bury(l)
	before := time.Now()
	fate, err := d.operator(nil).Requeue(t.Context(), d.only(wire.StreamReview), operate.RequeueOptions{})
	if fate != operate.FateDone || err != nil {
		t.Fatal(fate, err)
	}
	if n := d.count(wire.StreamReview); n != 0 {
		t.Errorf("%d items left", n)
	}
	next := d.only(wire.StreamDLQ)
	if next.Generation != 2 || next.Failures != 0 || next.Calls != 4 || next.Class != wire.ClassTransient || next.Code != "" ||
		next.Lane != fetchworker.LaneBatch || !next.Deadline.IsZero() || next.RequestedAt.Before(before) || next.NotBefore.After(time.Now()) ||
		!next.FirstFailedAt.IsZero() || next.Allowed != 0 || next.MaxLife != 0 || string(next.Body) != string(l.Body) || len(next.History) != 1 {
		t.Errorf("%+v", next)
	}
	if acts := d.acts(); len(acts) != 1 || acts[0].Action != "requeue" || acts[0].Reason != "because" || acts[0].Original != "" {
		t.Errorf("audit: %+v", acts)
	}
}

func TestRequeueKeepsWhatItIsTold(t *testing.T) {
	d := newDesk(t)
	l := letter("q-1")
	d.bury(l)
	options := operate.RequeueOptions{KeepDeadline: true, Body: []byte(`{"params":{"symbol":"MSFT"}}`)}
	if fate, err := d.operator(nil).Requeue(t.Context(), d.only(wire.StreamReview), options); fate != operate.FateDone || err != nil {
		t.Fatal(fate, err)
	}
	next := d.only(wire.StreamDLQ)
	if !next.Deadline.Equal(l.Deadline) || string(next.Body) != string(options.Body) {
		t.Errorf("%+v", next)
	}
	if acts := d.acts(); len(acts) != 1 || acts[0].Original != string(l.Body) {
		t.Errorf("audit: %+v", acts)
	}
}

func TestDiscardIsFinalForGood(t *testing.T) {
	d := newDesk(t)
	l := letter("q-1")
	l.Body = []byte(`{"reply_to":"fetch.reply.alice.q"}`)
	d.bury(l)
	copies, err := d.NC.SubscribeSync("fetch.reply.alice.q")
	if err != nil {
		t.Fatal(err)
	}
	const reason = "Société Générale’s feed – closed; see „Störung“ 1 and \"2\" of the quite long list of everything that was closed"
	if fate, err := d.operatorWhy(reason).Discard(t.Context(), d.only(wire.StreamReview)); fate != operate.FateDone || err != nil {
		t.Fatal(fate, err)
	}
	a := d.stored(l.Identity)
	if a.Problem.Detail != reason || a.Problem.Code() != fetchworker.CodeDiscarded || !a.Final || a.Review || a.Generation != 2 || a.Calls != 4 {
		t.Errorf("%+v", a)
	}
	if m, err := copies.NextMsg(5 * time.Second); err != nil || m.Header.Get(wire.HeaderStatus) != "failed" {
		t.Errorf("live copy: %v", err)
	}
	if d.count(wire.StreamReview) != 0 || d.count(wire.StreamDLQ) != 0 {
		t.Error("something is left")
	}
}

// What has moved on is only deleted, whichever way it went.
func TestAnItemOfAnEarlierGenerationIsOnlyDeleted(t *testing.T) {
	later := letter("q-1")
	later.Generation = 2
	places := map[string]func(*desk){
		"later letter":   func(d *desk) { d.put(later) },
		"later replayed": func(d *desk) { _, _ = d.JS.PublishMsg(d.t.Context(), later.Replayed()) },
		"later answer": func(d *desk) {
			d.answer(fetchworker.Answer{Identity: later.Identity, Status: fetchworker.StatusOK, Final: true, Generation: 2})
		},
		"later failed answer":  func(d *desk) { d.answer(failed(later, true)) },
		"answer that is final": func(d *desk) { d.answer(failed(later, false)) },
	}
	for name, place := range places {
		for _, act := range []string{"requeue", "discard"} {
			t.Run(name+" "+act, func(t *testing.T) {
				d := newDesk(t)
				d.bury(letter("q-1"))
				place(d)
				before, beforeDLQ := d.stored(later.Identity), d.count(wire.StreamDLQ)
				item := d.only(wire.StreamReview)
				var fate operate.Fate
				var err error
				if act == "requeue" {
					fate, err = d.operator(nil).Requeue(t.Context(), item, operate.RequeueOptions{})
				} else {
					fate, err = d.operator(nil).Discard(t.Context(), item)
				}
				if fate != operate.FateSuperseded || err != nil {
					t.Fatal(fate, err)
				}
				if d.count(wire.StreamReview) != 0 || d.count(wire.StreamDLQ) != beforeDLQ {
					t.Error("the item stayed, or a letter came")
				}
				if after := d.stored(later.Identity); after.Generation != before.Generation || after.Status != before.Status {
					t.Errorf("the answer became %+v", after)
				}
				if acts := d.acts(); len(acts) != 1 || !acts[0].Superseded {
					t.Errorf("audit: %+v", acts)
				}
			})
		}
	}
}

func failed(l dlq.Letter, review bool) fetchworker.Answer {
	return fetchworker.Answer{
		Identity: l.Identity, Status: fetchworker.StatusFailed, Final: true, Review: review, Generation: l.Generation,
		Problem: new(fetchworker.Failure(l.Identity, fetchworker.CodeRejected, "")),
	}
}

var errCrash = errors.New("crash")

// Killed before or after any durable step and run again, each act is done
// once, and is audited before it.
func TestACrashAtAnyPointLosesAndDoublesNothing(t *testing.T) {
	acts := map[string]struct {
		points []string
		run    func(*desk, *operate.Operator, browse.Found) error
	}{
		"requeue": {[]string{"audit", "claim", "letter", "delete-item"}, func(d *desk, o *operate.Operator, item browse.Found) error {
			_, err := o.Requeue(d.t.Context(), item, operate.RequeueOptions{})
			return err
		}},
		"discard": {[]string{"audit", "claim", "answer", "delete-item"}, func(d *desk, o *operate.Operator, item browse.Found) error {
			_, err := o.Discard(d.t.Context(), item)
			return err
		}},
	}
	for name, act := range acts {
		for _, point := range act.points {
			for _, persisted := range []bool{false, true} {
				for _, releasedMeanwhile := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s %s %v %v", name, point, persisted, releasedMeanwhile), func(t *testing.T) {
						d := newDesk(t)
						d.bury(letter("q-1"))
						crash := func(at string, after bool) error {
							if at == point && after == persisted {
								return errCrash
							}
							return nil
						}
						if err := act.run(d, d.operator(crash), d.only(wire.StreamReview)); !errors.Is(err, errCrash) {
							t.Fatalf("it did not crash: %v", err)
						}
						released := 0
						if releasedMeanwhile {
							for _, l := range d.walk(wire.StreamDLQ, browse.Filter{}) {
								released++
								if _, err := d.JS.PublishMsg(t.Context(), l.Replayed()); err != nil {
									t.Fatal(err)
								}
								if err := d.log.Delete(t.Context(), "", wire.StreamDLQ, l.Sequence); err != nil {
									t.Fatal(err)
								}
							}
						}
						for _, item := range d.walk(wire.StreamReview, browse.Filter{}) {
							if err := act.run(d, d.operator(nil), item); err != nil {
								t.Fatal(err)
							}
						}
						if n := d.count(wire.StreamReview); n != 0 {
							t.Errorf("%d items left", n)
						}
						if letters := released + d.count(wire.StreamDLQ); name == "requeue" && letters != 1 {
							t.Errorf("%d letters, want 1", letters)
						}
						if name == "discard" && d.stored(letter("q-1").Identity).Problem.Code() != fetchworker.CodeDiscarded {
							t.Error("not discarded")
						}
						if len(d.acts()) == 0 {
							t.Error("no audit")
						}
					})
				}
			}
		}
	}
}

// A replay that is killed leaves one letter, due at its time or now, and can
// be done again.
func TestACrashInAReplayLeavesOneLetter(t *testing.T) {
	for _, point := range []string{"audit", "replay-now"} {
		for _, persisted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %v", point, persisted), func(t *testing.T) {
				d := newDesk(t)
				d.put(letter("q-1"))
				now := time.Now()
				crash := d.operator(func(at string, after bool) error {
					if at == point && after == persisted {
						return errCrash
					}
					return nil
				})
				if _, err := crash.ReplayNow(t.Context(), d.only(wire.StreamDLQ), now); !errors.Is(err, errCrash) {
					t.Fatalf("it did not crash: %v", err)
				}
				fate, err := d.operator(nil).ReplayNow(t.Context(), d.only(wire.StreamDLQ), now)
				done := point == "replay-now" && persisted
				if err != nil || done && fate != operate.FateDue || !done && fate != operate.FateDone {
					t.Errorf("again: %s, %v", fate, err)
				}
				if d.only(wire.StreamDLQ).NotBefore.After(now) {
					t.Error("it is not due")
				}
			})
		}
	}
}

func TestTwoOperatorsRequeueOnce(t *testing.T) {
	d := newDesk(t)
	const n = 50
	for i := range n {
		d.bury(letter("q-" + strconv.Itoa(i)))
	}
	items := d.walk(wire.StreamReview, browse.Filter{})
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			o := d.operator(nil)
			for _, item := range items {
				if _, err := o.Requeue(t.Context(), item, operate.RequeueOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	stream, err := d.JS.Stream(t.Context(), wire.StreamDLQ)
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context())
	if err != nil || info.State.Msgs != n || info.State.LastSeq != n || d.count(wire.StreamReview) != 0 {
		t.Errorf("letters %d, writes %d, %v", info.State.Msgs, info.State.LastSeq, err)
	}
}

func TestPlanGroupsByKindAndStaysSmall(t *testing.T) {
	var p operate.Histogram
	for i := range 5000 {
		l := letter("q")
		l.Error = "timeout after " + strconv.Itoa(i) + "ms"
		if i >= 3000 {
			l.Error = "weird " + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676%26))
		}
		p.Add(browse.Found{Letter: l})
	}
	p.Add(browse.Found{Fault: errCrash})
	bars := p.Bars()
	sum := 0
	for _, b := range bars {
		sum += b.Count
	}
	if p.Count != 5000 || sum != 5000 || p.Unreadable != 1 || len(bars) > 1001 || bars[0].Error != "timeout after #ms" || bars[0].Count != 3000 || bars[1].Error != operate.OtherErrors {
		t.Errorf("count %d, sum %d, %d bars, first %+v, second %+v", p.Count, sum, len(bars), bars[0], bars[1])
	}
}
