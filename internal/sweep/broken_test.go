package sweep_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"
	"fetchworker/internal/sweep"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// breaking breaks a sweep off once before and once after each durable step that
// it comes to, as a crash would.
func breaking(how func() error) func(*nats.Conn) record.Hook {
	var mu sync.Mutex
	broken := map[string]bool{}
	return func(*nats.Conn) record.Hook {
		return func(point string, persisted bool) error {
			mu.Lock()
			defer mu.Unlock()
			at := fmt.Sprint(point, persisted)
			if broken[at] {
				return nil
			}
			broken[at] = true
			return how()
		}
	}
}

// Wherever a sweep is broken off, it goes on where it was, and no request is
// lost on the way from one place to the next.
func TestASweepThatIsBrokenOffLosesNothing(t *testing.T) {
	for how, breaks := range map[string]func() error{
		"stopped":  func() error { return errors.New("stopped here") },
		"panicked": func() error { panic("as a test wants it") },
	} {
		for kind, c := range map[string]struct {
			has   func(f *dlqtest.Fleet)
			lives time.Duration
		}{
			"nobody serves it": {func(f *dlqtest.Fleet) { f.Request("nobody", "batch", `{"id":"a"}`) }, 72 * time.Hour},
			"its life is over": {func(f *dlqtest.Fleet) { f.Request("fmp", "batch", `{"id":"a"}`) }, time.Minute},
			"the life of what was released is over": {func(f *dlqtest.Fleet) {
				l := dlqtest.FailedOnce(1)
				if _, err := f.JS.PublishMsg(f.Ctx, l.Replayed()); err != nil {
					f.T.Fatal(err)
				}
				f.Accepted = append(f.Accepted, l.Identity)
			}, time.Minute},
		} {
			t.Run(how+", "+kind, func(t *testing.T) {
				dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
					f.MaxLife = c.lives
					f.Serve("fmp")
					c.has(f)
					f.Sweeper(breaking(breaks))
					f.Eventually(c.lives%time.Hour+time.Minute, "it is swept", func() bool {
						return f.Count(fetchworker.StreamRequests, ">")+f.Count(wire.StreamReplay, ">") == 0
					})
				})
			})
		}
	}
}

// What a person began again does not end for good for a reason that passes.
func TestWhatWasRequeuedComesBackToAPerson(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		l := dlqtest.FailedOnce(1)
		l.Provider, l.Generation = "newsapi", 2
		if _, err := f.JS.PublishMsg(f.Ctx, l.Replayed()); err != nil {
			t.Fatal(err)
		}
		f.Accepted = append(f.Accepted, l.Identity)
		f.Sweeper(nil)
		f.Eventually(5*time.Second, "it is taken", func() bool { return f.Count(wire.StreamReplay, ">") == 0 })
		if a, ok := f.Answer(l.Identity); ok || f.Count(wire.StreamDLQ, ">") != 1 {
			t.Errorf("%d letters, and it is answered %s", f.Count(wire.StreamDLQ, ">"), dlqtest.Describe(a))
		}
	})
}

// What waits for a provider is answered soon after somebody has given it up,
// though nothing else comes, and is told that its provider has no worker, and
// not that nobody knows it.
func TestWhatWaitsForARetiredProvider(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		leave := f.Serve("fmp")
		f.Sweeper(nil)
		id := f.Request("fmp", "batch", `{"id":"a"}`)
		leave()
		time.Sleep(10 * time.Second) // it is looked at, and left alone
		if a, ok := f.Answer(id); ok {
			t.Fatalf("answered %s", dlqtest.Describe(a))
		}
		if err := fleet.Retire(f.Ctx, f.KV, "fmp", "bea", "too dear"); err != nil {
			t.Fatal(err)
		}
		f.Eventually(4*time.Second, "it is answered", func() bool { a, _ := f.Answer(id); return a.Final })
		if a, _ := f.Answer(id); a.Problem.Code() != fetchworker.CodeProviderNotConfigured {
			t.Errorf("answered %s", dlqtest.Describe(a))
		}
	})
}

// Where one agent has most of what its provider has beyond half of the queue,
// no more of its requests are refused than are too many.
func TestNoMoreIsRefusedThanIsTooMuch(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		s, err := f.JS.Stream(f.Ctx, fetchworker.StreamRequests)
		if err != nil {
			t.Fatal(err)
		}
		config := s.CachedInfo().Config
		config.MaxBytes = 4 << 20
		if _, err := f.JS.UpdateStream(f.Ctx, config); err != nil {
			t.Fatal(err)
		}
		for i := range 60 { // 50 KB each: some 40 are half of the queue
			agent := "most"
			if i%5 < 2 {
				agent = fmt.Sprint("agent-", i)
			}
			body := fmt.Appendf(nil, `{"id":"f-%d","params":{"symbol":"%050000d"}}`, i, 0)
			if _, err := f.JS.Publish(f.Ctx, fetchworker.RequestSubject("fmp", "batch", "quote", agent), body); err != nil {
				t.Fatal(err)
			}
		}
		f.Start(nil, func(js jetstream.JetStream, log *record.Log) dlqtest.Daemon {
			return sweep.New(js, log, f.Board, sweep.Config{MaxLife: f.MaxLife, Backlog: 20_000, Logger: f.Logger()}).Run
		})
		time.Sleep(10 * time.Second)
		if n := f.Count(fetchworker.StreamRequests, ">"); n < 35 || n > 45 {
			t.Errorf("%d of 60 are left", n)
		}
		if n := f.Count(fetchworker.StreamRequests, "fetch.request.*.*.*.*.most"); n < 10 {
			t.Errorf("%d of 36 are left of who has most", n)
		}
		f.Accepted = nil
	})
}
