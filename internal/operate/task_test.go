package operate_test

import (
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/browse"
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
	nc, err := broker.Connect(t.Context(), broker.Address{URL: "nats://" + listen}, zap.NewNop(), func(error) {})
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
