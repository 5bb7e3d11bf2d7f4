package dlq_test

import (
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

func TestEventsAreCloudEvents(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		at := time.Date(2026, 11, 24, 12, 0, 0, 5, time.UTC)
		event := dlq.Event{Kind: "budget", Provider: "fmp", ID: "2026-11.85", Subject: "2026-11", Time: at, Data: map[string]int{"percent": 85}}
		for range 2 { // told twice, stored once
			if err := dlq.Emit(f.Ctx, f.Log, event); err != nil {
				t.Fatal(err)
			}
		}
		if n := f.Count(fetchworker.StreamEvents, ">"); n != 1 {
			t.Errorf("%d are stored", n)
		}
		m, err := f.Log.Last(f.Ctx, fetchworker.StreamEvents, "fetch.event.budget.fmp")
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
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Replayer(nil)
		l := dlqtest.FailedOnce(1)
		l.Calls, l.Failures, l.Lane, l.NotBefore = 5, 4, fetchworker.LaneBatch, l.FailedAt
		l.Record(dlq.Attempt{At: l.FailedAt, Class: l.Class, HTTPStatus: 503, Error: "HTTP 503"})
		f.Put(l)
		f.Eventually(time.Second, "it is in review", func() bool { return f.Count(wire.StreamReview, ">") == 1 })
		m, err := f.Log.Last(f.Ctx, wire.StreamReview, wire.ReviewSubject(l.Identity))
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
		f.Eventually(time.Second, "the event", func() bool { return f.Count(fetchworker.StreamEvents, ">") == 1 })
		e, err := f.Log.Last(f.Ctx, fetchworker.StreamEvents, "fetch.event.review.fmp")
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
		f.Eventually(time.Second, "nothing waits", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
		f.Check(dlqtest.Check{Empty: true})
	})
}

// A letter in a replayer's hands stays in them, however long its step takes.
func TestALetterInHandIsKeptAlive(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Worker("fmp", f.Succeed)
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
			f.Replayer(slow)
		}
		f.Put(dlqtest.Fresh(1, wire.ClassPaused))
		f.Eventually(2*time.Minute, "it is released", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
		if n := begun.Load(); n != 1 {
			t.Errorf("it was begun %d times", n)
		}
	})
}
