package dlq_test

import (
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
)

// retriesOf runs 20 letters to their end in review and checks when each of
// their retries was made.
func retriesOf(f *fleet) {
	f.t.Helper()
	var mu sync.Mutex
	gaps := map[fetchworker.Identity][]time.Duration{}
	f.worker("fmp", func(l dlq.Letter) error {
		mu.Lock()
		gaps[l.Identity] = append(gaps[l.Identity], time.Since(l.FailedAt))
		mu.Unlock()
		return f.failedAgain(l)
	})
	for i := range 20 {
		f.put(failedOnce(i))
	}
	f.eventually(15*time.Second, "all are in review", func() bool {
		return f.count(fetchworker.StreamReview, "fetch.review.>") == 20
	})
	mu.Lock()
	defer mu.Unlock()
	for id, got := range gaps {
		if len(got) != retries {
			f.t.Errorf("%s was retried %d times: %v", id, len(got), got)
			continue
		}
		for i, gap := range got {
			base := retryBase << i
			if gap < base*8/10 || gap > base*12/10+500*time.Millisecond {
				f.t.Errorf("%s: retry %d came after %v", id, i+1, gap)
			}
		}
	}
	for i := range 20 {
		a, _ := f.answer(ident(i))
		if !a.Review || a.Problem.Code() != fetchworker.CodeRetriesExhausted || a.Calls != 4 || a.Failures != 4 {
			f.t.Errorf("%s: %s", ident(i), dlqtest.Describe(a))
		}
	}
	f.eventually(time.Second, "20 review events", func() bool {
		return f.count(fetchworker.StreamEvents, "fetch.event.review.fmp") == 20
	})
}

func TestRetriesComeAtTheirTimes(t *testing.T) {
	bubble(t, func(f *fleet) {
		f.serve("fmp")
		f.replayer(nil)
		retriesOf(f)
		f.check(dlqtest.Check{Empty: true})
	})
}

// A hundred thousand letters that are not due cost the due ones nothing.
func TestRetriesComeAtTheirTimesInACrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred thousand letters")
	}
	bubble(t, func(f *fleet) {
		f.serve("fmp")
		f.replayer(nil)
		f.crowd(100_000, func(l *dlq.Letter) { l.NotBefore = l.NotBefore.Add(10 * time.Hour) })
		time.Sleep(time.Second)
		retriesOf(f)
		if n := f.count(fetchworker.StreamDLQ, "fetch.dlq.fmp.>"); n != 100_000 {
			t.Errorf("%d letters wait", n)
		}
		f.accepted = nil // too many to check one by one
	})
}

func TestADeadlineIsAnsweredOnTime(t *testing.T) {
	bubble(t, func(f *fleet) {
		f.serve("fmp")
		f.circuit("polygon", budget.Circuit{State: budget.CircuitOpen, OpenUntil: time.Now().Add(time.Hour)})
		f.replayer(nil)
		copies, err := f.NC.SubscribeSync("fetch.reply.alice.x")
		if err != nil {
			t.Fatal(err)
		}
		waits := failedOnce(1)
		waits.NotBefore = waits.FailedAt.Add(time.Hour)
		waits.Deadline = waits.FailedAt.Add(7300 * time.Millisecond)
		held := fresh(2, fetchworker.ClassCircuitOpen)
		held.Provider = "polygon"
		held.Deadline = held.FailedAt.Add(21700 * time.Millisecond)
		f.put(waits, held)
		for _, l := range []dlq.Letter{waits, held} {
			f.eventually(time.Minute, l.ID+" has its final answer", func() bool {
				a, ok := f.answer(l.Identity)
				return ok && a.Final
			})
			a, _ := f.answer(l.Identity)
			if late := a.Time.Sub(l.Deadline); late < 0 || late > 300*time.Millisecond || a.Problem.Code() != fetchworker.CodeDeadlineExceeded || a.Review {
				t.Errorf("%s, %v after the deadline", dlqtest.Describe(a), late)
			}
		}
		f.eventually(time.Second, "a live copy of each", func() bool {
			for {
				m, err := copies.NextMsg(time.Millisecond)
				if err != nil {
					return false
				}
				if m.Header.Get(fetchworker.HeaderFinal) == "true" && m.Header.Get(fetchworker.HeaderRequestID) == held.ID {
					return true
				}
			}
		})
		f.check(dlqtest.Check{Empty: true})
	})
}

// released waits until all letters are in the replay stream.
func (f *fleet) released(within time.Duration, n int) time.Duration {
	f.t.Helper()
	return f.eventually(within, "the letters are released", func() bool {
		return f.count(fetchworker.StreamReplay, "fetch.replay.>") == n
	})
}

// told checks what all the agents know.
func (f *fleet) told(within time.Duration, n int, reason fetchworker.Reason, retryAt time.Time) {
	f.t.Helper()
	f.eventually(within, "all agents are told "+string(reason), func() bool {
		for i := range n {
			a, ok := f.answer(ident(i))
			if !ok || a.Final || a.Problem == nil || a.Problem.Reason() != reason || !a.Problem.RetryAt.Equal(retryAt) {
				return false
			}
		}
		return true
	})
}

// Whatever its Not-Before says, a parked letter is released within ten
// seconds of its gate's opening, and no sooner.
func TestParkedLettersWaitForTheirGate(t *testing.T) {
	const n = 25
	later := func(l dlq.Letter) dlq.Letter { l.NotBefore = l.NotBefore.Add(time.Hour); return l }

	for _, c := range []struct {
		name  string
		class fetchworker.Class
		run   func(f *fleet, put func())
	}{
		{"circuit", fetchworker.ClassCircuitOpen, func(f *fleet, put func()) {
			until := time.Now().Add(time.Minute).Truncate(time.Millisecond).UTC()
			f.circuit("fmp", budget.Circuit{State: budget.CircuitOpen, OpenUntil: until})
			put()
			f.told(5*time.Second, n, fetchworker.ReasonCircuitOpen, until)
			time.Sleep(30 * time.Second)
			f.released(0, 0)
			f.circuit("fmp", budget.Circuit{State: budget.CircuitClosed, LastSuccess: time.Now()})
		}},
		{"pause", fetchworker.ClassPaused, func(f *fleet, put func()) {
			until := time.Now().Add(time.Hour).Truncate(time.Millisecond).UTC()
			if err := budget.Pause(f.ctx, f.KV, "fmp", until, "ann", "maintenance"); err != nil {
				t.Fatal(err)
			}
			put()
			f.told(5*time.Second, n, fetchworker.ReasonPaused, until)
			time.Sleep(30 * time.Second)
			f.released(0, 0)
			if err := budget.Resume(f.ctx, f.KV, "fmp"); err != nil {
				t.Fatal(err)
			}
		}},
		{"pause that ends", fetchworker.ClassPaused, func(f *fleet, put func()) {
			until := time.Now().Add(40 * time.Second)
			if err := budget.Pause(f.ctx, f.KV, "fmp", until, "ann", "maintenance"); err != nil {
				t.Fatal(err)
			}
			put()
			time.Sleep(time.Until(until) - time.Millisecond)
			f.released(0, 0)
		}},
		{"no worker", fetchworker.ClassTransient, func(f *fleet, put func()) {
			f.leave()
			put()
			time.Sleep(25 * time.Second)
			if a, ok := f.answer(ident(0)); ok {
				f.t.Errorf("told too soon: %s", dlqtest.Describe(a))
			}
			f.told(15*time.Second, n, fetchworker.ReasonNoWorker, time.Time{})
			time.Sleep(10 * time.Minute)
			f.released(0, 0)
			f.serve("fmp")
		}},
		{"unauthorized", fetchworker.ClassUnauthorized, func(f *fleet, put func()) {
			put()
			time.Sleep(30 * time.Second)
			f.released(0, 0)
			f.circuit("fmp", budget.Circuit{State: budget.CircuitClosed, LastSuccess: time.Now()})
		}},
		{"quota", fetchworker.ClassQuota, func(f *fleet, put func()) {
			put()
			time.Sleep(30 * time.Second)
			f.released(0, 0)
			limits, err := budget.ParseLimits("600/min")
			if err != nil {
				t.Fatal(err)
			}
			if err := budget.SetLimits(f.ctx, f.KV, "fmp", limits, time.Time{}, "ann", "a larger plan"); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(f *fleet) {
				f.leave = f.serve("fmp")
				f.replayer(nil)
				c.run(f, func() {
					for i := range n {
						l := fresh(i, c.class)
						if c.class != fetchworker.ClassTransient {
							l = later(l)
						}
						f.put(l)
					}
				})
				t.Logf("released after %v", f.released(10*time.Second, n))
			})
		})
	}
}
