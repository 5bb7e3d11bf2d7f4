package operate_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/browse"
	"fetchworker/internal/dial"
	"fetchworker/internal/operate"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

func silent() operate.Watch { return operate.Watch{Did: func() {}, Note: func(string) {}} }

// begin plans a task.
func (d *desk) begin(task *operate.Task) operate.Plan { return d.beginOn(d.NC, task) }

// beginOn is begin on a connection of its own.
func (d *desk) beginOn(nc *nats.Conn, task *operate.Task) operate.Plan {
	d.t.Helper()
	o, err := operate.Open(d.t.Context(), nc)
	if err != nil {
		d.t.Fatal(err)
	}
	f, err := o.Fleet(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(f.Close)
	task.Signed = operate.Signature{By: "ann", Reason: "because", Run: "r1"}
	if err := task.Begin(d.t.Context(), o, f); err != nil {
		d.t.Fatal(err)
	}
	plan, err := task.Plan(d.t.Context(), silent())
	if err != nil {
		d.t.Fatal(err)
	}
	return plan
}

// What was not in the plan is not acted on, whatever a colleague takes away
// before it begins and whatever comes.
func TestAnActDoesWhatItsPlanShowed(t *testing.T) {
	d := newDesk(t)
	for i := range 10 {
		d.bury(letter("q-" + strconv.Itoa(i)))
	}
	task := &operate.Task{Action: operate.ActDiscard, Limit: 4}
	plan := d.begin(task)
	if plan.Count != 4 || !plan.More || len(plan.Identities) != 4 || plan.Agents["alice"] != 4 {
		t.Fatalf("%+v", plan)
	}
	for _, item := range d.walk(wire.StreamReview, browse.Filter{})[:2] {
		if _, err := d.operator(nil).Requeue(t.Context(), item, operate.RequeueOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	result, err := task.Do(t.Context(), plan, silent())
	if err != nil || result.Fates[operate.FateDone] != 2 {
		t.Errorf("%+v, %v", result, err)
	}
	var left []string
	for _, item := range d.walk(wire.StreamReview, browse.Filter{}) {
		left = append(left, item.ID)
	}
	if len(left) != 6 || left[0] != "q-4" {
		t.Errorf("left are %v", left)
	}
}

// Of a cancel that goes through several streams no more is done than its plan
// showed, though more of the same lies in those behind its last.
func TestALimitIsOfAllStreamsTogether(t *testing.T) {
	for limit, want := range map[int][2]int{2: {1, 2}, 3: {0, 2}, 4: {0, 1}} {
		d := newDesk(t)
		for i := range 3 {
			if _, err := d.JS.Publish(t.Context(), "fetch.request.fmp.batch.quote.alice", fmt.Appendf(nil, `{"id":"q-%d"}`, i)); err != nil {
				t.Fatal(err)
			}
		}
		d.put(letter("l-0"))
		d.put(letter("l-1"))
		task := &operate.Task{Action: operate.ActCancel, Queued: true, Limit: limit, Filter: browse.Filter{Agent: "alice"}}
		plan := d.begin(task)
		if plan.Count != limit || !plan.More {
			t.Fatalf("%d: %+v", limit, plan)
		}
		result, err := task.Do(t.Context(), plan, silent())
		if left := [2]int{d.count(fetchworker.StreamRequests), d.count(wire.StreamDLQ)}; err != nil || result.Fates[operate.FateDone] != limit || left != want {
			t.Errorf("%d: %+v, %v; left are %v", limit, result, err, left)
		}
	}
}

// An edit is of the one message that was edited.
func TestAnEditIsBoundToItsMessage(t *testing.T) {
	d := newDesk(t)
	d.bury(letter("q-0"))
	d.bury(letter("q-1"))
	task := &operate.Task{Action: operate.ActRequeue, Limit: 1}
	plan := d.begin(task)
	item, err := task.One(t.Context(), plan)
	if err != nil || item.ID != "q-0" {
		t.Fatalf("%s, %v", item.ID, err)
	}
	task.Body = []byte(`{"params":{"symbol":"EDITED"}}`)
	if _, err := d.operator(nil).Discard(t.Context(), item); err != nil { // a colleague, while the editor is open
		t.Fatal(err)
	}
	result, err := task.Do(t.Context(), plan, silent())
	if err != nil || result.Fates[operate.FateTaken] != 1 || result.Fates[operate.FateDone] != 0 {
		t.Errorf("%+v, %v", result, err)
	}
	if left := d.only(wire.StreamReview); left.ID != "q-1" || d.count(wire.StreamDLQ) != 0 {
		t.Errorf("another request was requeued with the edited body")
	}
}

// A lane that is none, and headers that cannot be read, are one item's own
// fault: it stops no other.
func TestOneItemsFaultStopsNoOther(t *testing.T) {
	d := newDesk(t)
	odd := letter("odd")
	odd.Lane = "urgent"
	d.bury(odd)
	m := letter("broken").ReviewItem()
	m.Header.Set(wire.HeaderFailures, "many")
	if _, err := d.JS.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	d.bury(letter("good"))
	task := &operate.Task{Action: operate.ActRequeue}
	plan := d.begin(task)
	result, err := task.Do(t.Context(), plan, silent())
	if err != nil || result.Fates[operate.FateDone] != 2 || plan.Unreadable != 1 {
		t.Errorf("%+v, %v, %+v", result, err, plan)
	}
	for _, l := range d.walk(wire.StreamDLQ, browse.Filter{}) {
		if !l.Lane.Valid() {
			t.Errorf("%s is in the lane %s", l.ID, l.Lane)
		}
	}
}

// A request's new life begins when it is requeued, not when the command was
// started.
func TestALifeBeginsWithTheAct(t *testing.T) {
	d := newDesk(t)
	for i := range 6 {
		d.bury(letter("q-" + strconv.Itoa(i)))
	}
	task := &operate.Task{Action: operate.ActRequeue, PerSecond: 4}
	plan := d.begin(task)
	if _, err := task.Do(t.Context(), plan, silent()); err != nil {
		t.Fatal(err)
	}
	letters := d.walk(wire.StreamDLQ, browse.Filter{})
	if first, last := letters[0].RequestedAt, letters[5].RequestedAt; last.Sub(first) < time.Second {
		t.Errorf("the last begins %v after the first, of 1.25 s", last.Sub(first))
	}
}

// An election, or a server that is away for a while, stops no act: it waits,
// says so, and leaves one line of the audit for each.
func TestAnActOutlastsAServerThatIsAway(t *testing.T) {
	listen := "127.0.0.1:" + strconv.Itoa(brokertest.FreePort(t))
	b := brokertest.StartIn(t, t.TempDir(), listen)
	t.Cleanup(b.Stop)
	d := &desk{Broker: b, t: t, log: record.New(b.JS, nil), browser: browse.New(b.NC)}
	nc, err := broker.Connect(t.Context(), dial.Address{URL: "nats://" + listen}, zap.NewNop(), func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	const n = 60
	for i := range n {
		d.bury(letter("q-" + strconv.Itoa(i)))
	}
	task := &operate.Task{Action: operate.ActRequeue, PerSecond: 30}
	plan := d.beginOn(nc, task)
	var mu sync.Mutex
	var notes []string
	done := 0
	watch := operate.Watch{
		Did: func() {
			mu.Lock()
			defer mu.Unlock()
			done++
		},
		Note: func(text string) {
			mu.Lock()
			defer mu.Unlock()
			notes = append(notes, text)
		},
	}
	away := make(chan struct{})
	go func() {
		defer close(away)
		for {
			mu.Lock()
			half := done > n/3
			mu.Unlock()
			if half {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		b.Stop()
		time.Sleep(6 * time.Second)
		b.Restart(t)
	}()
	result, err := task.Do(t.Context(), plan, watch)
	<-away
	d.log, d.browser = record.New(b.JS, nil), browse.New(b.NC)
	if err != nil || result.Fates[operate.FateDone] != n {
		t.Errorf("%+v, %v", result, err)
	}
	if letters, items := d.count(wire.StreamDLQ), d.count(wire.StreamReview); letters != n || items != 0 {
		t.Errorf("%d letters, %d items", letters, items)
	}
	if acts := d.acts(); len(acts) != n {
		t.Errorf("%d lines of audit", len(acts))
	}
	mu.Lock()
	defer mu.Unlock()
	if len(notes) == 0 {
		t.Error("nobody was told")
	}
}

// A task that is about one message is about the one that its plan showed last.
func TestTheOneIsTheOneThatWasShown(t *testing.T) {
	d := newDesk(t)
	for _, id := range []string{"first", "second"} {
		d.bury(letter(id))
	}
	task := &operate.Task{Action: operate.ActDiscard}
	plan := d.begin(task)
	if one, err := task.One(t.Context(), plan); err != nil || one.ID != "second" {
		t.Fatalf("%s, %v", one.ID, err)
	}
	if result, err := task.Do(t.Context(), plan, silent()); err != nil || result.Fates[operate.FateDone] != 1 {
		t.Errorf("%+v, %v", result, err)
	}
	if left := d.only(wire.StreamReview); left.ID != "first" {
		t.Errorf("%s is left", left.ID)
	}
	task = &operate.Task{Action: operate.ActDiscard}
	plan = d.begin(task)
	d.bury(letter("first")) // anew
	if one, err := task.One(t.Context(), plan); !errors.Is(err, operate.ErrGone) {
		t.Errorf("%s, %v", one.ID, err)
	}
}

// What is asked for after the plan was shown is not cancelled, wherever it is.
func TestACancelIsOfWhatWasThere(t *testing.T) {
	d := newDesk(t)
	d.put(letter("before"))
	task := &operate.Task{Action: operate.ActCancel, Queued: true, Filter: browse.Filter{Agent: "alice"}}
	plan := d.begin(task)
	time.Sleep(2 * time.Millisecond)
	l := letter("after")
	l.RequestedAt = time.Now()
	d.put(l)
	if _, err := d.JS.Publish(t.Context(), "fetch.request.fmp.batch.quote.alice", []byte(`{"id":"queued"}`)); err != nil {
		t.Fatal(err)
	}
	result, err := task.Do(t.Context(), plan, silent())
	if err != nil || result.Fates[operate.FateDone] != 1 || len(result.Fates) != 1 {
		t.Errorf("%+v, %v", result, err)
	}
	if left := d.only(wire.StreamDLQ); left.ID != "after" || d.count(fetchworker.StreamRequests) != 1 {
		t.Errorf("%s is left", left.ID)
	}
}

// Whoever is interrupted has what was begun finished, and nothing else begun; and
// where the connection is closed over an act, that is why it stopped, and no fault
// of the messages.
func TestWhatAnInterruptMeetsIsFinished(t *testing.T) {
	for name, closes := range map[string]bool{"interrupted": false, "its connection is closed": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, d *desk) { interrupted(t, d, closes) })
		})
	}
}

// inBubble runs a test with a desk on a clock of its own.
func inBubble(t *testing.T, test func(t *testing.T, d *desk)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		b.Ageless(t)
		test(t, &desk{Broker: b, t: t, log: record.New(b.JS, nil), browser: browse.New(b.NC)})
	})
}

func interrupted(t *testing.T, d *desk, closes bool) {
	t.Helper()
	for i := range 3 {
		d.bury(letter("q-" + strconv.Itoa(i)))
	}
	nc := d.Connect(t)
	defer nc.Close()
	o, err := operate.Open(t.Context(), nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	o.Log = record.New(o.JS, func(point string, persisted bool) error {
		switch {
		case point != "claim" || !persisted:
		case closes:
			nc.Close()
		default:
			interrupt()
		}
		return nil
	})
	f, err := o.Fleet(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	task := &operate.Task{Action: operate.ActDiscard, PerSecond: 10, Signed: operate.Signature{By: "ann", Reason: "because", Run: "r1"}}
	if err := task.Begin(t.Context(), o, f); err != nil {
		t.Fatal(err)
	}
	plan, err := task.Plan(t.Context(), silent())
	if err != nil {
		t.Fatal(err)
	}
	result, err := task.Do(ctx, plan, silent())
	switch {
	case closes && (!errors.Is(err, nats.ErrConnectionClosed) || result.Fates[operate.FateFailed] != 0):
		t.Errorf("%+v, %v", result, err)
	case !closes && (!errors.Is(err, context.Canceled) || result.Fates[operate.FateDone] != 1 || d.count(wire.StreamReview) != 2):
		t.Errorf("%d items are left of 3: %+v, %v", d.count(wire.StreamReview), result, err)
	}
}

// What is cancelled while it becomes a letter ends, letter and all.
func TestACancelFollowsWhatGoesOn(t *testing.T) { inBubble(t, followed) }

func followed(t *testing.T, d *desk) {
	t.Helper()
	const n = 3
	for i := range n {
		if _, err := d.JS.Publish(t.Context(), "fetch.request.fmp.batch.quote.alice", fmt.Appendf(nil, `{"id":"q-%d"}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	o := d.open()
	var once sync.Once
	o.Log = record.New(o.JS, func(string, bool) error {
		once.Do(func() { // a worker has tried the last one
			for _, found := range d.walk(fetchworker.StreamRequests, browse.Filter{}) {
				if found.ID == "q-2" {
					l := found.Letter
					l.Class, l.Calls, l.Failures, l.NotBefore = wire.ClassTransient, 1, 1, time.Now().Add(time.Hour)
					d.put(l)
					if err := d.log.Delete(t.Context(), "", fetchworker.StreamRequests, found.Sequence); err != nil {
						t.Error(err)
					}
				}
			}
		})
		return nil
	})
	f := d.fleet(o)
	defer f.Close()
	task := &operate.Task{Action: operate.ActCancel, Queued: true, PerSecond: 4, Signed: operate.Signature{By: "ann", Reason: "because", Run: "r1"}}
	if err := task.Begin(t.Context(), o, f); err != nil {
		t.Fatal(err)
	}
	plan, err := task.Plan(t.Context(), silent())
	if err != nil || plan.Count != n {
		t.Fatalf("%+v, %v", plan, err)
	}
	if _, err := task.Do(t.Context(), plan, silent()); err != nil {
		t.Fatal(err)
	}
	if requests, letters := d.count(fetchworker.StreamRequests), d.count(wire.StreamDLQ); requests+letters != 0 {
		t.Errorf("%d requests and %d letters are left", requests, letters)
	}
	for i := range n {
		id := letter("q-" + strconv.Itoa(i)).Identity
		if a := d.stored(id); a.Problem.Code() != fetchworker.CodeCancelled {
			t.Errorf("%s: %+v", id, a)
		}
	}
}
