package dlq_test

import (
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/cancel"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// What is cancelled has its answer before its letter goes, whatever fails
// between; and a letter that comes later is judged by when its request was
// stored.
func TestACancelledLetterHasItsAnswer(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		view, err := cancel.Watch(f.Ctx, f.JS, f.KV)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		waits := func(n int) dlq.Letter {
			l := dlqtest.FailedOnce(n)
			l.RequestedAt, l.NotBefore = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
			return l
		}
		early, late, after := waits(1), waits(2), waits(3)
		f.Put(early)
		time.Sleep(time.Second)
		desk := cancel.NewDesk(view, record.New(f.JS, nil), func(string) bool { return true }, time.Hour, zap.NewNop())
		if _, err := desk.Take(f.Ctx, "fetch.cancel."+early.Provider+"."+early.Agent, []byte(`{"all":true}`)); err != nil {
			t.Fatal(err)
		}
		desk.Close()
		time.Sleep(time.Second)
		after.RequestedAt = time.Now()
		f.Put(late, after)
		var mu sync.Mutex
		failures := 3
		f.Start(func(*nats.Conn) record.Hook {
			return func(point string, persisted bool) error {
				mu.Lock()
				defer mu.Unlock()
				if point != "answer" || persisted || failures == 0 {
					return nil
				}
				failures--
				return errCrash
			}
		}, func(js jetstream.JetStream, log *record.Log) dlqtest.Daemon {
			return dlq.NewReplayer(js, log, f.Board, dlq.Config{
				Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer,
				Retries: dlqtest.Retries, MaxLife: time.Hour, Logger: f.Logger(), Cancels: view,
			}).Run
		})
		for _, l := range []dlq.Letter{early, late} {
			f.Eventually(time.Minute, l.ID+" is cancelled", func() bool {
				a, ok := f.Answer(l.Identity)
				return ok && a.Final && a.Problem != nil && a.Problem.Code() == fetchworker.CodeCancelled
			})
		}
		f.Eventually(time.Minute, "their letters are gone", func() bool { return f.Count(wire.StreamDLQ, ">") == 1 })
		if a, ok := f.Answer(after.Identity); ok && a.Final {
			t.Errorf("what was asked for later ended as %s", dlqtest.Describe(a))
		}
		f.Accepted = nil
	})
}

// What has used up its retries is a person's, also where it is met because its
// agent has cancelled all it has; what waits beside it is cancelled.
func TestWhatIsSpentIsNotCancelled(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		view, err := cancel.Watch(f.Ctx, f.JS, f.KV)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		var w brokertest.Wire
		w.Break("CONSUMER.MSG.NEXT", brokertest.RequestLost, 1_000_000, 0) // it meets those of the agent only
		js, end := f.Through(t, &w)
		defer end()
		stop := replayerWith(f, js, nil, func(c *dlq.Config) { c.Cancels = view })
		defer stop()
		waits, refused := dlqtest.FailedOnce(2), dlqtest.Fresh(3, wire.ClassPermanent)
		waits.NotBefore = time.Now().Add(time.Hour)
		f.Put(spent(1), refused, waits)
		time.Sleep(time.Second)
		desk := cancel.NewDesk(view, record.New(f.JS, nil), func(string) bool { return true }, time.Hour, zap.NewNop())
		if _, err := desk.Take(f.Ctx, "fetch.cancel.fmp.alice", []byte(`{"all":true}`)); err != nil {
			t.Fatal(err)
		}
		desk.Close()
		f.Eventually(10*time.Second, "what waits is cancelled", func() bool {
			a, ok := f.Answer(waits.Identity)
			return ok && a.Final && a.Problem.Code() == fetchworker.CodeCancelled
		})
		time.Sleep(5 * time.Second)
		if n := f.Count(wire.StreamDLQ, ">"); n != 2 {
			t.Errorf("%d letters are left, want the two that are a person's", n)
		}
		w.Mend()
		f.Eventually(time.Minute, "they are in review", func() bool { return f.Count(wire.StreamReview, ">") == 2 })
		for _, l := range []dlq.Letter{spent(1), refused} {
			if a, ok := f.Answer(l.Identity); !ok || !a.Review {
				t.Errorf("%s ended as %s", l.ID, dlqtest.Describe(a))
			}
		}
		f.Eventually(time.Second, "no letter is left", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
	})
}

// All who cancel while one agent's letters are ended are heard, and all of theirs
// ends, of either lane and whatever the operation: no letter is met in its turn
// here. What others have stays.
func TestAllWhoCancelAtOnceAreHeard(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		view, err := cancel.Watch(f.Ctx, f.JS, f.KV)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		var w brokertest.Wire
		w.Break("CONSUMER.MSG.NEXT", brokertest.RequestLost, 1_000_000, 0)
		js, end := f.Through(t, &w)
		defer end()
		stop := replayerWith(f, js, nil, func(c *dlq.Config) { c.Cancels = view })
		defer stop()
		var ends []fetchworker.Identity
		for _, agent := range []string{"carol", "alice", "bob", "dave"} {
			for i := range 4 {
				l := dlqtest.FailedOnce(i)
				l.Agent, l.NotBefore = agent, l.FailedAt.Add(time.Hour)
				if i%2 == 1 {
					l.Lane = fetchworker.LaneBatch
				}
				if i/2 == 1 {
					l.Operation = "profile"
				}
				f.Put(l)
				if agent != "dave" {
					ends = append(ends, l.Identity)
				}
			}
		}
		time.Sleep(time.Second)
		desk := cancel.NewDesk(view, record.New(f.JS, nil), func(string) bool { return true }, time.Hour, zap.NewNop())
		defer desk.Close()
		cancels := func(agent string) {
			if _, err := desk.Take(f.Ctx, "fetch.cancel.fmp."+agent, []byte(`{"all":true}`)); err != nil {
				t.Fatal(err)
			}
		}
		w.Break("DIRECT.GET."+wire.StreamDLQ, brokertest.ReplyLate, 1, 2*time.Second)
		cancels("carol")
		time.Sleep(500 * time.Millisecond) // hers are being looked for
		cancels("alice")
		cancels("bob")
		f.Eventually(8*time.Second, "all that is cancelled is gone", func() bool { return f.Count(wire.StreamDLQ, ">") == 4 })
		for _, id := range ends {
			if a, _ := f.Answer(id); !a.Final || a.Problem.Code() != fetchworker.CodeCancelled {
				t.Errorf("%s: %s", id, dlqtest.Describe(a))
			}
		}
		if n := f.Count(wire.StreamDLQ, "fetch.dlq.*.*.*.dave.*"); n != 4 {
			t.Errorf("%d of dave's four are left", n)
		}
	})
}
