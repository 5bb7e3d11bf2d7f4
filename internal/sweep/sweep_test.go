package sweep_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"
	"fetchworker/internal/sweep"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// A request that no consumer takes is answered within two seconds, under the
// identity it would have anywhere else.
func TestWhatNobodyServesIsAnswered(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Sweeper(nil)
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
			{name: "a name that is mistyped", provider: "fpm", lane: "batch", body: `{"id":"a"}`, id: "a", code: fetchworker.CodeUnknownProvider},
			{name: "an odd name", provider: "FMP", lane: "batch", body: `{"id":"a"}`, id: "a", code: fetchworker.CodeUnknownProvider},
		} {
			copies.Store(0)
			var options []jetstream.PublishOpt
			if c.msgID != "" {
				options = append(options, jetstream.WithMsgID(c.msgID))
			}
			id := f.Request(c.provider, c.lane, c.body, options...)
			if c.id == "" && !strings.HasPrefix(id.ID, "seq-") || c.id != "" && id.ID != c.id {
				t.Errorf("%s: its id is %s", c.name, id.ID)
			}
			f.Eventually(2*time.Second, c.name+" is answered", func() bool { a, _ := f.Answer(id); return a.Final })
			if a, _ := f.Answer(id); a.Problem.Code() != c.code || a.Generation != 1 || a.Review {
				t.Errorf("%s: %s", c.name, dlqtest.Describe(a))
			}
			if a, _ := f.Answer(id); strings.Contains(a.Problem.Detail, "did you mean fmp?") != (c.provider == "fpm" || c.provider == "FMP") {
				t.Errorf("%s: told %q", c.name, a.Problem.Detail)
			}
			time.Sleep(time.Second)
			if got := copies.Load(); got != c.copies {
				t.Errorf("%s: %d copies, want %d", c.name, got, c.copies)
			}
		}
		served := f.Request("fmp", "batch", `{"id":"stays"}`)
		time.Sleep(20 * time.Second)
		if _, ok := f.Answer(served); ok || f.Count(fetchworker.StreamRequests, ">") != 1 {
			t.Errorf("a request that a consumer takes was touched")
		}
	})
}

// A subject with a wildcard in it is taken by the letter. It must neither
// stay nor touch the requests that it would match.
func TestASubjectWithAWildcardIsDropped(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Sweeper(nil)
		id := f.Request("fmp", "batch", `{"id":"a"}`)
		for _, subject := range []string{"fetch.request.*.batch.*.alice", "fetch.request.fmp.batch.*.alice", "fetch.request.nobody.>.quote.alice", "fetch.request.fmp.*.*.>"} {
			if _, err := f.JS.Publish(f.Ctx, subject, []byte(`{"id":"a"}`)); err != nil {
				t.Fatal(err)
			}
		}
		f.Eventually(2*time.Second, "they are dropped", func() bool { return f.Count(fetchworker.StreamRequests, ">") == 1 })
		time.Sleep(10 * time.Second)
		if _, ok := f.Answer(id); ok || f.Count(fetchworker.StreamRequests, ">") != 1 || f.Count(fetchworker.StreamResults, ">") != 0 {
			t.Error("the request that they match was touched")
		}
	})
}

// A flood of one kind keeps no other from being found in time.
func TestAFloodIsSweptInTurns(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Sweeper(nil)
		const n = 2500
		for i := range n {
			body := fmt.Appendf(nil, `{"id":"f-%d"}`, i)
			if _, err := f.JS.PublishAsync(fetchworker.RequestSubject("nobody", "batch", "quote", "flood"), body); err != nil {
				t.Fatal(err)
			}
		}
		<-f.JS.PublishAsyncComplete()
		id := f.Request("fmp", "urgent", `{"id":"a"}`)
		f.Eventually(2*time.Second, "the other is answered", func() bool { a, _ := f.Answer(id); return a.Final })
		f.Eventually(2*time.Second, "all are answered", func() bool {
			return f.Count(fetchworker.StreamRequests, ">") == 0 && f.Count(fetchworker.StreamResults, ">") == n+1
		})
		f.Accepted = nil
	})
}

// Whoever knows no providers refuses nothing.
func TestASweeperThatKnowsNobodyRefusesNothing(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Start(nil, func(js jetstream.JetStream, log *record.Log) dlqtest.Daemon {
			return sweep.New(js, log, f.Board, sweep.Config{MaxLife: f.MaxLife, Logger: f.Logger()}).Run
		})
		id := f.Request("nobody", "batch", `{"id":"a"}`)
		time.Sleep(time.Minute)
		if _, ok := f.Answer(id); ok {
			t.Error("it was answered")
		}
	})
}

// A provider that was served and has no worker now is never refused: its
// agents are told, each once, and the messages stay.
func TestTheAbsenceOfWorkersIsTold(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		leave := f.Serve("fmp")
		for range 2 {
			f.Sweeper(nil)
		}
		queued := []fetchworker.Identity{f.Request("fmp", "batch", `{"id":"a"}`), f.Request("fmp", "interactive", `not json`)}
		released := dlqtest.FailedOnce(1)
		if _, err := f.JS.PublishMsg(f.Ctx, released.Replayed()); err != nil {
			t.Fatal(err)
		}
		f.Accepted = append(f.Accepted, released.Identity)
		queued = append(queued, released.Identity)
		leave()
		time.Sleep(29 * time.Second)
		told := func(ids ...fetchworker.Identity) (n int) {
			for _, id := range ids {
				if a, ok := f.Answer(id); ok && a.Problem.Reason() == fetchworker.ReasonNoWorker {
					n++
				}
			}
			return n
		}
		if told(queued...) != 0 {
			t.Error("told too soon")
		}
		f.Eventually(4*time.Second, "all are told", func() bool { return told(queued...) == len(queued) })
		late := f.Request("fmp", "batch", `{"id":"late"}`)
		f.Eventually(2*time.Second, "one that came later is told too", func() bool { return told(late) == 1 })
		time.Sleep(10 * time.Minute)
		for _, id := range append(queued, late) {
			if n := len(f.Recorder.Answers(id)); n != 1 {
				t.Errorf("%s was told %d times", id, n)
			}
		}
		if f.Count(fetchworker.StreamRequests, ">") != 3 || f.Count(wire.StreamReplay, ">") != 1 {
			t.Error("a message has gone")
		}
	})
}

// A sweep costs two requests while nothing waits, and small ones but for each ten
// seconds.
func TestAnIdleSweepIsCheap(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Sweeper(nil)
		time.Sleep(5 * time.Second)
		var asked, whole atomic.Int32
		sub, err := f.NC.Subscribe("$JS.API.>", func(m *nats.Msg) {
			if asked.Add(1); strings.HasPrefix(m.Subject, "$JS.API.STREAM.INFO.FETCH_") { // the clock asks for the bucket's
				whole.Add(1)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		time.Sleep(time.Minute)
		if n := asked.Load(); n == 0 || n > 2*60 {
			t.Errorf("%d requests a minute", n)
		}
		if n := whole.Load(); n > 2*7 {
			t.Errorf("%d of them for a stream's whole state", n)
		}
		f.Accepted = nil
	})
}

// Any byte but a space and a dot can be in a subject's tokens. What cannot be
// answered is dropped, and keeps nobody's answer from coming in time.
func TestAnyByteInASubject(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		registry := prometheus.NewRegistry()
		f.Start(nil, func(js jetstream.JetStream, log *record.Log) dlqtest.Daemon {
			return sweep.New(js, log, f.Board, sweep.Config{
				Known: func(string) bool { return false }, MaxLife: f.MaxLife, Logger: f.Logger(), Registerer: registry,
			}).Run
		})
		odd := []string{
			"\x1bx", "\x07", "\x7f", "\x01\x02", `a"b`, `a\b`, "\xff\xfe", "\xc0\xaf", "a\xc3", "\u009b31m", "\u202eevil", "\u2028", "é", "\U0001f600",
			strings.Repeat("x", 400),
		}
		var dropped float64
		for i := range 70 {
			o := odd[i%len(odd)]
			for place, subject := range []string{
				"fetch.request." + o + ".interactive.quote.alice",
				"fetch.request.nobody." + o + ".quote.alice",
				"fetch.request.nobody.interactive." + o + ".alice",
				"fetch.request.fmp.urgent.quote." + o,
			} {
				if _, err := f.JS.Publish(f.Ctx, subject, fmt.Appendf(nil, `{"id":"odd-%d-%d"}`, i, place)); err != nil {
					t.Fatal(err)
				}
				if o != `a"b` && o != `a\b` { // printable: answered under it
					dropped++
				}
			}
		}
		var good []fetchworker.Identity
		for i := range 21 {
			good = append(good, f.Request("nobody", "batch", fmt.Sprintf(`{"id":"good-%d"}`, i)))
		}
		f.Eventually(2*time.Second, "all that can be are answered", func() bool {
			for _, id := range good {
				if a, ok := f.Answer(id); !ok || !a.Final {
					return false
				}
			}
			return true
		})
		f.Eventually(6*time.Second, "nothing is left", func() bool { return f.Count(fetchworker.StreamRequests, ">") == 0 })
		if n := counted(t, registry, "sweeper_dropped_total"); n != dropped {
			t.Errorf("%v dropped, want %v", n, dropped)
		}
		f.Accepted = nil
	})
}

func counted(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() == name {
			for _, m := range family.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// An agent that asks ten thousand providers that do not exist delays nobody
// else's answer.
func TestAFloodOfNamesDelaysOnlyItself(t *testing.T) {
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	f, stop := dlqtest.Start(t, b)
	defer stop()
	n := 10_000
	if testing.Short() {
		n = 2_000
	}
	for i := range n {
		if _, err := f.JS.PublishAsync(fetchworker.RequestSubject(fmt.Sprintf("nobody-%d", i), "batch", "quote", "mallory"), []byte(`{"id":"a"}`)); err != nil {
			t.Fatal(err)
		}
	}
	<-f.JS.PublishAsyncComplete()
	f.Sweeper(nil)
	time.Sleep(500 * time.Millisecond)
	for i := range 3 {
		id := f.Request("nobody", "batch", fmt.Sprintf(`{"id":"good-%d"}`, i))
		t.Log(f.Eventually(4*time.Second, "the neighbour is answered", func() bool { a, _ := f.Answer(id); return a.Final }))
	}
	f.Accepted = nil
}
