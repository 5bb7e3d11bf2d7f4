package dlq_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A request that no consumer takes is answered within two seconds, under the
// identity it would have anywhere else.
func TestWhatNobodyServesIsAnswered(t *testing.T) {
	bubble(t, func(f *fleet) {
		f.serve("fmp")
		f.sweeper(nil)
		time.Sleep(10 * time.Second)
		var copies atomic.Int32
		sub, err := f.NC.Subscribe("fetch.reply.alice.>", func(*nats.Msg) { copies.Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		for _, c := range []struct {
			name, provider string
			lane           fetchworker.Lane
			body, id       string
			msgID          string
			code           fetchworker.Code
			copies         int32
		}{
			{name: "unknown", provider: "nobody", lane: "interactive", body: `{"id":"a","reply_to":"fetch.reply.alice.x"}`, id: "a", code: fetchworker.CodeUnknownProvider, copies: 1},
			{name: "known, without a key", provider: "newsapi", lane: "batch", body: `{"id":"a"}`, id: "a", code: fetchworker.CodeProviderNotConfigured},
			{name: "named by its message", provider: "nobody", lane: "batch", body: `{}`, msgID: "nobody.quote.alice.b", id: "b", code: fetchworker.CodeUnknownProvider},
			{name: "named by its place", provider: "nobody", lane: "batch", body: `{}`, code: fetchworker.CodeUnknownProvider},
			{name: "no JSON", provider: "nobody", lane: "batch", body: `hello`, code: fetchworker.CodeUnknownProvider},
			{name: "unreadable, but for its id", provider: "nobody", lane: "batch", body: `{"params":1,"id":"c","reply_to":"fetch.reply.bob.x"}`, id: "c", code: fetchworker.CodeUnknownProvider},
			{name: "no such lane", provider: "fmp", lane: "urgent", body: `{"id":"a"}`, id: "a", code: fetchworker.CodeInvalidRequest},
			{name: "no such lane, with a copy", provider: "fmp", lane: "urgent", body: `{"id":"a2","reply_to":"fetch.reply.alice.x"}`, id: "a2", code: fetchworker.CodeInvalidRequest, copies: 1},
			{name: "unreadable, with a copy", provider: "newsapi", lane: "batch", body: `{"id":"a3","odd":1,"reply_to":"fetch.reply.alice.x"}`, id: "a3", code: fetchworker.CodeProviderNotConfigured, copies: 1},
			{name: "no such lane of an unknown provider", provider: "nobody", lane: "urgent", body: `{"id":"d"}`, id: "d", code: fetchworker.CodeUnknownProvider},
			{name: "an odd name", provider: "FMP", lane: "batch", body: `{"id":"a"}`, id: "a", code: fetchworker.CodeUnknownProvider},
		} {
			copies.Store(0)
			var options []jetstream.PublishOpt
			if c.msgID != "" {
				options = append(options, jetstream.WithMsgID(c.msgID))
			}
			id := f.request(c.provider, c.lane, c.body, options...)
			if c.id == "" && !strings.HasPrefix(id.ID, "seq-") || c.id != "" && id.ID != c.id {
				t.Errorf("%s: its id is %s", c.name, id.ID)
			}
			f.eventually(2*time.Second, c.name+" is answered", func() bool { a, _ := f.answer(id); return a.Final })
			if a, _ := f.answer(id); a.Problem.Code() != c.code || a.Generation != 1 || a.Review {
				t.Errorf("%s: %s", c.name, dlqtest.Describe(a))
			}
			time.Sleep(time.Second)
			if got := copies.Load(); got != c.copies {
				t.Errorf("%s: %d copies, want %d", c.name, got, c.copies)
			}
		}
		served := f.request("fmp", "batch", `{"id":"stays"}`)
		time.Sleep(20 * time.Second)
		if _, ok := f.answer(served); ok || f.count(fetchworker.StreamRequests, ">") != 1 {
			t.Errorf("a request that a consumer takes was touched")
		}
	})
}

// A subject with a wildcard in it is taken by the letter. It must neither
// stay nor touch the requests that it would match.
func TestASubjectWithAWildcardIsDropped(t *testing.T) {
	bubble(t, func(f *fleet) {
		f.serve("fmp")
		f.sweeper(nil)
		id := f.request("fmp", "batch", `{"id":"a"}`)
		for _, subject := range []string{"fetch.request.*.batch.*.alice", "fetch.request.fmp.batch.*.alice", "fetch.request.nobody.>.quote.alice", "fetch.request.fmp.*.*.>"} {
			if _, err := f.JS.Publish(f.ctx, subject, []byte(`{"id":"a"}`)); err != nil {
				t.Fatal(err)
			}
		}
		f.eventually(2*time.Second, "they are dropped", func() bool { return f.count(fetchworker.StreamRequests, ">") == 1 })
		time.Sleep(10 * time.Second)
		if _, ok := f.answer(id); ok || f.count(fetchworker.StreamRequests, ">") != 1 || f.count(fetchworker.StreamResults, ">") != 0 {
			t.Error("the request that they match was touched")
		}
	})
}

// A flood of one kind keeps no other from being found in time.
func TestAFloodIsSweptInTurns(t *testing.T) {
	bubble(t, func(f *fleet) {
		f.serve("fmp")
		f.sweeper(nil)
		const n = 2500
		for i := range n {
			body := fmt.Appendf(nil, `{"id":"f-%d"}`, i)
			if _, err := f.JS.PublishAsync(fetchworker.RequestSubject("nobody", "batch", "quote", "flood"), body); err != nil {
				t.Fatal(err)
			}
		}
		<-f.JS.PublishAsyncComplete()
		id := f.request("fmp", "urgent", `{"id":"a"}`)
		f.eventually(2*time.Second, "the other is answered", func() bool { a, _ := f.answer(id); return a.Final })
		f.eventually(2*time.Second, "all are answered", func() bool {
			return f.count(fetchworker.StreamRequests, ">") == 0 && f.count(fetchworker.StreamResults, ">") == n+1
		})
		f.accepted = nil
	})
}

// Whoever knows no providers refuses nothing.
func TestASweeperThatKnowsNobodyRefusesNothing(t *testing.T) {
	bubble(t, func(f *fleet) {
		f.start(nil, func(js jetstream.JetStream, log *record.Log) daemon {
			return dlq.NewSweeper(js, log, f.board, dlq.SweeperConfig{Served: broker.ServedProvider, MaxLife: f.maxLife, Logger: f.logger()}).Run
		})
		id := f.request("nobody", "batch", `{"id":"a"}`)
		time.Sleep(time.Minute)
		if _, ok := f.answer(id); ok {
			t.Error("it was answered")
		}
	})
}

// A provider that was served and has no worker now is never refused: its
// agents are told, each once, and the messages stay.
func TestTheAbsenceOfWorkersIsTold(t *testing.T) {
	bubble(t, func(f *fleet) {
		leave := f.serve("fmp")
		for range 2 {
			f.sweeper(nil)
		}
		queued := []fetchworker.Identity{f.request("fmp", "batch", `{"id":"a"}`), f.request("fmp", "interactive", `not json`)}
		released := failedOnce(1)
		if _, err := f.JS.PublishMsg(f.ctx, released.Replayed()); err != nil {
			t.Fatal(err)
		}
		f.accepted = append(f.accepted, released.Identity)
		queued = append(queued, released.Identity)
		leave()
		time.Sleep(29 * time.Second)
		told := func(ids ...fetchworker.Identity) (n int) {
			for _, id := range ids {
				if a, ok := f.answer(id); ok && a.Problem.Reason() == fetchworker.ReasonNoWorker {
					n++
				}
			}
			return n
		}
		if told(queued...) != 0 {
			t.Error("told too soon")
		}
		f.eventually(4*time.Second, "all are told", func() bool { return told(queued...) == len(queued) })
		late := f.request("fmp", "batch", `{"id":"late"}`)
		f.eventually(2*time.Second, "one that came later is told too", func() bool { return told(late) == 1 })
		time.Sleep(10 * time.Minute)
		for _, id := range append(queued, late) {
			if n := len(f.recorder.Answers(id)); n != 1 {
				t.Errorf("%s was told %d times", id, n)
			}
		}
		if f.count(fetchworker.StreamRequests, ">") != 3 || f.count(fetchworker.StreamReplay, ">") != 1 {
			t.Error("a message has gone")
		}
	})
}

// A sweep costs two requests while nothing waits.
func TestAnIdleSweepIsCheap(t *testing.T) {
	bubble(t, func(f *fleet) {
		f.serve("fmp")
		f.sweeper(nil)
		time.Sleep(5 * time.Second)
		var asked atomic.Int32
		sub, err := f.NC.Subscribe("$JS.API.>", func(*nats.Msg) { asked.Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		time.Sleep(time.Minute)
		if n := asked.Load(); n == 0 || n > 2*60 {
			t.Errorf("%d requests a minute", n)
		}
		f.accepted = nil
	})
}

func TestEventsAreCloudEvents(t *testing.T) {
	bubble(t, func(f *fleet) {
		at := time.Date(2026, 11, 24, 12, 0, 0, 5, time.UTC)
		event := dlq.Event{Kind: "budget", Provider: "fmp", ID: "2026-11.85", Subject: "2026-11", Time: at, Data: map[string]int{"percent": 85}}
		for range 2 { // told twice, stored once
			if err := dlq.Emit(f.ctx, f.log, event); err != nil {
				t.Fatal(err)
			}
		}
		if n := f.count(fetchworker.StreamEvents, ">"); n != 1 {
			t.Errorf("%d are stored", n)
		}
		m, err := f.log.Last(f.ctx, fetchworker.StreamEvents, "fetch.event.budget.fmp")
		if err != nil {
			t.Fatal(err)
		}
		const want = `{"specversion":"1.0","id":"budget.fmp.2026-11.85","source":"/fetch/fmp","type":"fetch.event.budget",` +
			`"time":"2026-11-24T12:00:00.000000005Z","subject":"2026-11","datacontenttype":"application/json","data":{"percent":85}}`
		if string(m.Data) != want || m.Header.Get("Content-Type") != "application/cloudevents+json" {
			t.Errorf("got %v %s\nwant %s", m.Header, m.Data, want)
		}
	})
}

// What a person sees in review is the letter with all that became of it, and
// the event says where to look.
func TestAReviewItemKeepsTheLetter(t *testing.T) {
	bubble(t, func(f *fleet) {
		f.replayer(nil)
		l := failedOnce(1)
		l.Calls, l.Failures, l.Lane, l.NotBefore = 5, 4, fetchworker.LaneBatch, l.FailedAt
		l.Record(dlq.Attempt{At: l.FailedAt, Class: l.Class, HTTPStatus: 503, Error: "HTTP 503"})
		f.put(l)
		f.eventually(time.Second, "it is in review", func() bool { return f.count(fetchworker.StreamReview, ">") == 1 })
		m, err := f.log.Last(f.ctx, fetchworker.StreamReview, fetchworker.ReviewSubject(l.Identity))
		if err != nil {
			t.Fatal(err)
		}
		item, err := dlq.Decode(m.Subject, m.Header, m.Data)
		if err != nil {
			t.Fatal(err)
		}
		if item.Lane != l.Lane || string(item.Body) != string(l.Body) || item.Calls != 5 || len(item.History) != 1 || !item.RequestedAt.Equal(l.RequestedAt) {
			t.Errorf("got  %+v\nwant %+v", item, l)
		}
		f.eventually(time.Second, "the event", func() bool { return f.count(fetchworker.StreamEvents, ">") == 1 })
		e, err := f.log.Last(f.ctx, fetchworker.StreamEvents, "fetch.event.review.fmp")
		if err != nil {
			t.Fatal(err)
		}
		var event struct {
			Subject string `json:"subject"`
			Data    struct {
				Agent string `json:"agent"`
				Code  string `json:"code"`
				Error string `json:"error"`
				Calls int    `json:"calls"`
			} `json:"data"`
		}
		if err := json.Unmarshal(e.Data, &event); err != nil {
			t.Fatal(err)
		}
		if event.Subject != "q-1" || event.Data.Agent != "alice" || event.Data.Code != "retries_exhausted" || event.Data.Error != "HTTP 503" || event.Data.Calls != 5 {
			t.Errorf("%s", e.Data)
		}
		f.eventually(time.Second, "nothing waits", func() bool { return f.count(fetchworker.StreamDLQ, ">") == 0 })
		f.check(dlqtest.Check{Empty: true})
	})
}

// A letter in a replayer's hands stays in them, however long its step takes.
func TestALetterInHandIsKeptAlive(t *testing.T) {
	bubble(t, func(f *fleet) {
		f.serve("fmp")
		f.worker("fmp", f.succeed)
		var begun atomic.Int32
		slow := func(*nats.Conn) record.Hook {
			return func(point string, persisted bool) error {
				if point == "replay" && !persisted {
					begun.Add(1)
					time.Sleep(40 * time.Second)
				}
				return nil
			}
		}
		for range 2 {
			f.replayer(slow)
		}
		f.put(fresh(1, fetchworker.ClassPaused))
		f.eventually(2*time.Minute, "it is released", func() bool { return f.count(fetchworker.StreamDLQ, ">") == 0 })
		if n := begun.Load(); n != 1 {
			t.Errorf("it was begun %d times", n)
		}
	})
}
