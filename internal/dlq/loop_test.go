package dlq_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// retriesOf runs 20 letters to their end in review and checks when each of
// their dlqtest.Retries was made.
func retriesOf(f *dlqtest.Fleet) {
	f.T.Helper()
	var mu sync.Mutex
	gaps := map[fetchworker.Identity][]time.Duration{}
	f.Worker("fmp", func(l dlq.Letter) error {
		mu.Lock()
		gaps[l.Identity] = append(gaps[l.Identity], time.Since(l.FailedAt))
		mu.Unlock()
		return f.FailedAgain(l)
	})
	for i := range 20 {
		f.Put(dlqtest.FailedOnce(i))
	}
	f.Eventually(15*time.Second, "all are in review", func() bool {
		return f.Count(wire.StreamReview, "fetch.review.>") == 20
	})
	mu.Lock()
	defer mu.Unlock()
	for id, got := range gaps {
		if len(got) != dlqtest.Retries {
			f.T.Errorf("%s was retried %d times: %v", id, len(got), got)
			continue
		}
		for i, gap := range got {
			base := dlqtest.RetryBase << i
			if gap < base*8/10 || gap > base*12/10+500*time.Millisecond {
				f.T.Errorf("%s: retry %d came after %v", id, i+1, gap)
			}
		}
	}
	for i := range 20 {
		a, _ := f.Answer(dlqtest.Ident(i))
		if !a.Review || a.Problem.Code() != fetchworker.CodeRetriesExhausted || a.Calls != 4 || a.Failures != 4 {
			f.T.Errorf("%s: %s", dlqtest.Ident(i), dlqtest.Describe(a))
		}
	}
	f.Eventually(time.Second, "20 review events", func() bool {
		return f.Count(fetchworker.StreamEvents, "fetch.event.review.fmp") == 20
	})
}

func TestRetriesComeAtTheirTimes(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Replayer(nil)
		retriesOf(f)
		f.Check(dlqtest.Check{Empty: true})
	})
}

// A hundred thousand letters that are not due cost the due ones nothing.
func TestRetriesComeAtTheirTimesInACrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred thousand letters")
	}
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Replayer(nil)
		f.Crowd(100_000, func(l *dlq.Letter) { l.NotBefore = l.NotBefore.Add(10 * time.Hour) })
		time.Sleep(time.Second)
		retriesOf(f)
		if n := f.Count(wire.StreamDLQ, "fetch.dlq.fmp.>"); n != 100_000 {
			t.Errorf("%d letters wait", n)
		}
		f.Accepted = nil // too many to check one by one
	})
}

func TestADeadlineIsAnsweredOnTime(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Circuit("polygon", circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: time.Now().Add(time.Hour)}})
		f.Replayer(nil)
		var copied sync.Map // of final answers, by id
		sub, err := f.NC.Subscribe("fetch.reply.alice.x", func(m *nats.Msg) {
			if m.Header.Get(wire.HeaderFinal) == "true" {
				copied.Store(m.Header.Get(wire.HeaderRequestID), true)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		waits := dlqtest.FailedOnce(1)
		waits.NotBefore = waits.FailedAt.Add(time.Hour)
		waits.Deadline = waits.FailedAt.Add(7300 * time.Millisecond)
		held := dlqtest.Fresh(2, wire.ClassCircuitOpen)
		held.Provider = "polygon"
		held.Deadline = held.FailedAt.Add(21700 * time.Millisecond)
		f.Put(waits, held)
		for _, l := range []dlq.Letter{waits, held} {
			f.Eventually(time.Minute, l.ID+" has its final answer", func() bool {
				a, ok := f.Answer(l.Identity)
				return ok && a.Final
			})
			a, _ := f.Answer(l.Identity)
			if late := a.Time.Sub(l.Deadline); late < 0 || late > 300*time.Millisecond || a.Problem.Code() != fetchworker.CodeDeadlineExceeded || a.Review {
				t.Errorf("%s, %v after the deadline", dlqtest.Describe(a), late)
			}
		}
		f.Eventually(time.Second, "a live copy of each", func() bool {
			_, one := copied.Load(waits.ID)
			_, other := copied.Load(held.ID)
			return one && other
		})
		f.Check(dlqtest.Check{Empty: true})
	})
}

// released waits until all letters are in the replay stream.
func released(f *dlqtest.Fleet, within time.Duration, n int) time.Duration {
	f.T.Helper()
	return f.Eventually(within, "the letters are released", func() bool {
		return f.Count(wire.StreamReplay, "fetch.replay.>") == n
	})
}

// told checks what all the agents know.
func told(f *dlqtest.Fleet, within time.Duration, n int, reason fetchworker.Reason, retryAt time.Time) {
	f.T.Helper()
	f.Eventually(within, "all agents are told "+string(reason), func() bool {
		for i := range n {
			a, ok := f.Answer(dlqtest.Ident(i))
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
		class wire.Class
		run   func(f *dlqtest.Fleet, put func())
	}{
		{"circuit", wire.ClassCircuitOpen, func(f *dlqtest.Fleet, put func()) {
			until := time.Now().Add(time.Minute).Truncate(time.Millisecond).UTC()
			f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: until}})
			put()
			told(f, 5*time.Second, n, fetchworker.ReasonCircuitOpen, until)
			time.Sleep(30 * time.Second)
			released(f, 0, 0)
			f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, LastSuccess: time.Now()})
		}},
		{"pause", wire.ClassPaused, func(f *dlqtest.Fleet, put func()) {
			until := time.Now().Add(time.Hour).Truncate(time.Millisecond).UTC()
			if err := fleet.Pause(f.Ctx, f.KV, "fmp", until, "ann", "maintenance"); err != nil {
				t.Fatal(err)
			}
			put()
			told(f, 5*time.Second, n, fetchworker.ReasonPaused, until)
			time.Sleep(30 * time.Second)
			released(f, 0, 0)
			if err := fleet.Resume(f.Ctx, f.KV, "fmp"); err != nil {
				t.Fatal(err)
			}
		}},
		{"pause that ends", wire.ClassPaused, func(f *dlqtest.Fleet, put func()) {
			until := time.Now().Add(40 * time.Second)
			if err := fleet.Pause(f.Ctx, f.KV, "fmp", until, "ann", "maintenance"); err != nil {
				t.Fatal(err)
			}
			put()
			time.Sleep(time.Until(until) - time.Millisecond)
			released(f, 0, 0)
		}},
		{"no worker", wire.ClassTransient, func(f *dlqtest.Fleet, put func()) {
			f.Leave()
			put()
			time.Sleep(25 * time.Second)
			if a, ok := f.Answer(dlqtest.Ident(0)); ok {
				f.T.Errorf("told too soon: %s", dlqtest.Describe(a))
			}
			told(f, 15*time.Second, n, fetchworker.ReasonNoWorker, time.Time{})
			time.Sleep(10 * time.Minute)
			released(f, 0, 0)
			f.Serve("fmp")
		}},
		{"unauthorized", wire.ClassUnauthorized, func(f *dlqtest.Fleet, put func()) {
			put()
			time.Sleep(30 * time.Second)
			released(f, 0, 0)
			f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, LastSuccess: time.Now()})
		}},
		{"quota", wire.ClassQuota, func(f *dlqtest.Fleet, put func()) {
			put()
			time.Sleep(30 * time.Second)
			released(f, 0, 0)
			limits, err := ledger.ParseLimits("600/min")
			if err != nil {
				t.Fatal(err)
			}
			if err := fleet.SetLimits(f.Ctx, f.KV, "fmp", limits, time.Time{}, "ann", "a larger plan"); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
				f.Leave = f.Serve("fmp")
				f.Replayer(nil)
				c.run(f, func() {
					for i := range n {
						l := dlqtest.Fresh(i, c.class)
						if c.class != wire.ClassTransient {
							l = later(l)
						}
						f.Put(l)
					}
				})
				t.Logf("released after %v", released(f, 10*time.Second, n))
			})
		})
	}
}

// A gate that opens at a known time is not believed to be closed after it,
// however lately it was looked at.
func TestAGateOpensAtItsTime(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Replayer(nil)
		until := time.Now().Add(5 * time.Second)
		if err := fleet.Pause(f.Ctx, f.KV, "fmp", until, "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		// Each is looked at again after a second, in the last moments of the pause.
		for i := range 10 {
			time.Sleep(time.Until(until) - 1200*time.Millisecond + time.Duration(i)*23*time.Millisecond)
			f.Put(dlqtest.Fresh(i, wire.ClassPaused))
		}
		time.Sleep(time.Until(until) - time.Millisecond)
		released(f, 0, 0)
		t.Logf("released after %v", released(f, 500*time.Millisecond, 10))
	})
}

// A worker stores the letter first and then its answer, a stale body perhaps:
// no replayer comes between the two with less.
func TestTheWorkerThatParksTellsItsAgent(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Leave = f.Serve("fmp")
		f.Replayer(nil)
		until := time.Now().Add(time.Minute).Truncate(time.Millisecond).UTC()
		f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: until}})
		f.Put(dlqtest.Fresh(0, wire.ClassCircuitOpen), dlqtest.Fresh(1, wire.ClassCircuitOpen))
		time.Sleep(500 * time.Millisecond)
		if _, _, err := answer.New(f.Log).Put(f.Ctx, fetchworker.Answer{
			Identity: dlqtest.Ident(0), Status: fetchworker.StatusStale, Generation: 1, Source: fetchworker.SourceCache, Body: []byte(`{}`),
		}, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if all := f.Recorder.Answers(dlqtest.Ident(0)); len(all) != 1 || all[0].Status != fetchworker.StatusStale {
			t.Errorf("the agent of a parked request was told %d times, first %s", len(all), dlqtest.Describe(all[0]))
		}
		if all := f.Recorder.Answers(dlqtest.Ident(1)); len(all) != 1 || all[0].Status != fetchworker.StatusWaiting {
			t.Errorf("the agent of a worker that died was told %d times", len(all))
		}
		f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, LastSuccess: time.Now()})
		released(f, 10*time.Second, 2)
	})
}

// What waits for a provider that was retired is answered as new requests for
// it are; the operator's note alone, or missing consumers alone, do nothing.
func TestLettersOfARetiredProviderAreAnswered(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		leave := f.Serve("fmp")
		f.Replayer(nil)
		retry := dlqtest.FailedOnce(0)
		retry.NotBefore = time.Now().Add(time.Hour)
		parked := dlqtest.FailedOnce(1)
		parked.NotBefore, parked.Class = time.Now().Add(time.Hour), wire.ClassQuota
		leave()
		requeued := dlqtest.Fresh(3, wire.ClassTransient) // by a person
		requeued.Generation, requeued.NotBefore = 2, time.Now().Add(time.Hour)
		f.Put(retry, parked, dlqtest.Fresh(2, wire.ClassPaused), requeued)
		all := []fetchworker.Identity{dlqtest.Ident(0), dlqtest.Ident(1), dlqtest.Ident(2)}
		final := func() (n int) {
			for _, id := range all {
				if a, ok := f.Answer(id); ok && a.Final && a.Problem.Code() == fetchworker.CodeProviderNotConfigured && !a.Review {
					n++
				}
			}
			return n
		}
		if err := fleet.Retire(f.Ctx, f.KV, "fmp", "ann", "contract ended"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := final(); n != 0 {
			t.Errorf("%d were answered while the provider had consumers", n)
		}
		if err := fleet.Reinstate(f.Ctx, f.KV, "fmp"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // until the replayer knows
		if err := broker.RetireProvider(f.Ctx, f.JS, "fmp"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := final(); n != 0 {
			t.Errorf("%d were answered though nobody had retired the provider", n)
		}
		if err := fleet.Retire(f.Ctx, f.KV, "fmp", "ann", "contract ended"); err != nil {
			t.Fatal(err)
		}
		took := f.Eventually(10*time.Second, "all are answered", func() bool { return final() == len(all) })
		t.Logf("answered after %v", took)
		f.Eventually(10*time.Second, "no letter is left", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
		if a, ok := f.Answer(requeued.Identity); !ok || !a.Review || a.Problem.Code() != fetchworker.CodeProviderNotConfigured || f.Count(wire.StreamReview, ">") != 1 {
			t.Errorf("what a person has requeued did not come back to them: %s", dlqtest.Describe(a))
		}
	})
}

// A replayer that is frozen in the middle of a burial stores its item again
// after a person has requeued it: it looks again, and takes it back.
func TestAFrozenReplayerTakesItsItemBack(t *testing.T) {
	t.Run("the new life waits", func(t *testing.T) { frozen(t, false) })
	// The old letter is still there: what fails is done again.
	t.Run("it is at work, and the server away", func(t *testing.T) { frozen(t, true) })
}

func frozen(t *testing.T, working bool) {
	t.Helper()
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		l := dlqtest.FailedOnce(1)
		l.Calls, l.Failures, l.NotBefore = 4, 4, l.FailedAt
		var frozen, away atomic.Bool
		f.Replayer(func(*nats.Conn) record.Hook {
			return func(point string, persisted bool) error {
				if working && point == "withdraw" && !persisted && away.CompareAndSwap(false, true) {
					return errCrash // it is taken back at the next try
				}
				if point == "review" && !persisted && frozen.CompareAndSwap(false, true) {
					// What another replayer and a person do meanwhile.
					if _, err := f.JS.PublishMsg(f.Ctx, l.ReviewItem()); err != nil {
						t.Error(err)
					}
					problem := fetchworker.Failure(l.Identity, fetchworker.CodeRetriesExhausted, l.Error)
					a := fetchworker.Answer{Identity: l.Identity, Status: fetchworker.StatusFailed, Final: true, Review: true, Generation: 1, Problem: &problem}
					if _, err := f.JS.PublishMsg(f.Ctx, a.Encode()); err != nil {
						t.Error(err)
					}
					next := l
					next.Generation, next.Failures, next.RequestedAt, next.NotBefore = 2, 0, time.Now(), time.Now().Add(time.Hour)
					slot, m := next.DeadLetterSlot(), next.DeadLetter()
					if working {
						slot, m = next.ReplaySlot(), next.Replayed()
					}
					if _, err := f.Log.Put(f.Ctx, slot, m); err != nil {
						t.Error(err)
					}
					item, err := f.Log.Last(f.Ctx, wire.StreamReview, wire.ReviewSubject(l.Identity))
					if err != nil {
						t.Error(err)
					}
					if err := f.Log.Delete(f.Ctx, "", wire.StreamReview, item.Sequence); err != nil {
						t.Error(err)
					}
				}
				return nil
			}
		})
		f.Put(l)
		f.Eventually(time.Minute, "it was frozen", frozen.Load)
		time.Sleep(10 * time.Second)
		if n := f.Count(wire.StreamReview, ">"); n != 0 {
			t.Errorf("%d items of a request that lives on", n)
		}
		if n := f.Count(wire.StreamDLQ, ">") + f.Count(wire.StreamReplay, ">"); n != 1 || away.Load() != working {
			t.Errorf("%d letters of its new life", n)
		}
	})
}

// A worker may be slow: no more wait for it than twice what it can be handed.
func TestAReleaseNeedsRoom(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		for range 3 {
			f.Replayer(nil)
		}
		const n, room = 100, 2 * 16
		for i := range n {
			f.Put(dlqtest.Fresh(i, wire.ClassPaused))
		}
		f.Eventually(10*time.Second, "the room is full", func() bool {
			return f.Count(wire.StreamReplay, ">") >= room
		})
		time.Sleep(time.Minute)
		// Replayers that count at the same moment may overshoot by what they
		// release until they count again.
		if got := f.Count(wire.StreamReplay, ">"); got > room*3/2 {
			t.Errorf("%d letters wait, room is for %d", got, room)
		}
		f.Worker("fmp", func(l dlq.Letter) error {
			time.Sleep(100 * time.Millisecond)
			return f.Succeed(l)
		})
		f.Eventually(time.Minute, "all are answered", func() bool {
			return f.Count(wire.StreamDLQ, ">")+f.Count(wire.StreamReplay, ">") == 0
		})
		f.Check(dlqtest.Check{Empty: true})
	})
}

// Nor do more wait for a provider whose workers have all gone to rest, and whose
// consumer with them, than they will take at once when they are back.
func TestAProviderAtRestHasRoomForAFew(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		if err := f.JS.DeleteConsumer(f.Ctx, wire.StreamReplay, broker.ReplayConsumer("fmp")); err != nil {
			t.Fatal(err)
		}
		f.Replayer(nil)
		const n, room = 100, 2 * 16
		for i := range n {
			f.Put(dlqtest.Fresh(i, wire.ClassPaused))
		}
		released(f, 10*time.Second, room)
		time.Sleep(time.Minute)
		released(f, 0, room)
		f.Serve("fmp")
		f.Worker("fmp", f.Succeed)
		f.Eventually(time.Minute, "all are answered", func() bool {
			return f.Count(wire.StreamDLQ, ">")+f.Count(wire.StreamReplay, ">") == 0
		})
		f.Check(dlqtest.Check{Empty: true})
	})
}

// Any number of replayers and workers, letters of every kind, calls that
// succeed or fail as they like: each request has its one end.
func TestManyReplayers(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		var stops []func()
		for range 3 {
			stops = append(stops, f.Replayer(nil))
		}
		const n = 200
		var mu sync.Mutex
		tries := map[string]int{}
		for range 2 {
			f.Worker("fmp", func(l dlq.Letter) error {
				mu.Lock()
				tries[l.ID]++
				mu.Unlock()
				if a, ok := f.Answer(l.Identity); ok && a.Final {
					return nil
				}
				switch rand.IntN(4) {
				case 0:
					return f.Succeed(l)
				case 1:
					return f.ParkedAgain(l, wire.ClassThrottled)
				default:
					return f.FailedAgain(l)
				}
			})
		}
		classes := []wire.Class{
			wire.ClassTransient, wire.ClassCircuitOpen, wire.ClassPaused,
			wire.ClassThrottled, wire.ClassQuota, wire.ClassUnauthorized, wire.ClassPermanent,
		}
		for i := range n {
			l := dlqtest.Fresh(i, classes[i%len(classes)])
			if i%5 == 0 {
				l.Deadline = l.RequestedAt.Add(rand.N(20 * time.Second))
			}
			f.Put(l)
			if i == n/2 {
				stops[0]()
				f.Replayer(nil)
			}
		}
		f.Eventually(5*time.Minute, "nothing waits", func() bool {
			return f.Count(wire.StreamDLQ, ">")+f.Count(wire.StreamReplay, ">") == 0
		})
		f.Check(dlqtest.Check{Empty: true})
	})
}

// A replayer that stops holds nothing back: what it had not begun is another's
// at once, not when its acknowledgement is overdue.
func TestAStopHandsBackAtOnce(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Worker("fmp", f.Succeed)
		var stop func()
		begun := make(chan struct{})
		var once sync.Once
		stop = f.Replayer(func(*nats.Conn) record.Hook {
			return func(point string, persisted bool) error {
				once.Do(func() { close(begun) })
				time.Sleep(2 * time.Second) // a slow server
				return nil
			}
		})
		const n = 500
		for i := range n {
			f.Put(dlqtest.Fresh(i, wire.ClassPaused))
		}
		<-begun
		start := time.Now()
		stop()
		if took := time.Since(start); took > 9*time.Second {
			t.Errorf("the stop took %v", took)
		}
		// What it had begun is done, not done again.
		if got := f.Count(fetchworker.StreamResults, ">"); got == 0 || got > 100 {
			t.Errorf("%d were begun", got)
		}
		f.Replayer(nil)
		f.Eventually(8*time.Second, "the others are released", func() bool {
			return f.Count(wire.StreamDLQ, ">") == 0
		})
		f.Eventually(8*time.Second, "and answered", func() bool {
			return f.Count(wire.StreamReplay, ">") == 0
		})
		f.Check(dlqtest.Check{Empty: true})
	})
}

// What a replayer has begun when it is stopped it finishes.
func TestAStopFinishesWhatWasBegun(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		const n = 10
		var begun atomic.Int32
		stop := f.Replayer(func(*nats.Conn) record.Hook {
			return func(point string, persisted bool) error {
				if !persisted {
					begun.Add(1)
					time.Sleep(2 * time.Second) // a slow server
				}
				return nil
			}
		})
		for i := range n {
			f.Put(dlqtest.Fresh(i, wire.ClassPaused))
		}
		f.Eventually(10*time.Second, "all are begun", func() bool { return begun.Load() == n })
		stop()
		released(f, 0, n)
		if left := f.Count(wire.StreamDLQ, ">"); left != 0 {
			t.Errorf("%d letters of those that were begun are left", left)
		}
	})
}

// However slowly the agents of an outage are told, another provider's retries
// come at their times.
func TestTellingTakesNoTurnOfARetry(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Serve("polygon")
		if err := fleet.Pause(f.Ctx, f.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		f.Replayer(func(*nats.Conn) record.Hook {
			return func(point string, persisted bool) error {
				if point == "answer" && !persisted {
					time.Sleep(20 * time.Second)
				}
				return nil
			}
		})
		for i := range 100 {
			f.Put(dlqtest.Fresh(i, wire.ClassPaused))
		}
		time.Sleep(5 * time.Second)
		due := dlqtest.FailedOnce(1)
		due.Provider = "polygon"
		f.Put(due)
		released(f, 4*time.Second, 1)
	})
}

// A consumer that somebody has deleted is made again; until it is, a replayer
// does not say that it is ready.
func TestADeletedConsumerIsMadeAgain(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Worker("fmp", f.Succeed)
		var r *dlq.Replayer
		var may atomic.Bool
		f.Start(nil, func(js jetstream.JetStream, log *record.Log) dlqtest.Daemon {
			r = dlq.NewReplayer(js, log, f.Board, dlq.Config{
				Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer,
				Retries: dlqtest.Retries, MaxLife: f.MaxLife, Logger: f.Logger(),
				Heal: func(ctx context.Context) error {
					if may.Load() {
						return broker.ServeDLQ(ctx, f.JS)
					}
					return errCrash
				},
			})
			return r.Run
		})
		time.Sleep(10 * time.Second)
		if err := r.Ready(); err != nil {
			t.Error(err)
		}
		if err := f.JS.DeleteConsumer(f.Ctx, wire.StreamDLQ, broker.ReplayerConsumer); err != nil {
			t.Fatal(err)
		}
		f.Put(dlqtest.FailedOnce(1))
		f.Eventually(10*time.Second, "it is not ready", func() bool { return r.Ready() != nil })
		may.Store(true)
		f.Eventually(20*time.Second, "the letter is met", func() bool { return f.Count(fetchworker.StreamResults, ">") == 1 })
		f.Eventually(10*time.Second, "it is ready", func() bool { return r.Ready() == nil })
		f.Eventually(5*time.Second, "nothing waits", func() bool { return f.Count(wire.StreamDLQ, ">")+f.Count(wire.StreamReplay, ">") == 0 })
	})
}

// A stop waits for what was begun, and not for ever for a server that says nothing.
func TestAStopEndsWhateverTheServerSays(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		var w brokertest.Wire
		js, end := f.Through(t, &w)
		defer end()
		stop := replayerOn(f, js, f.Logger())
		w.Break("fetch.replay.", brokertest.RequestLost, 1_000_000, 0)
		f.Put(dlqtest.Fresh(1, wire.ClassPaused))
		f.Eventually(5*time.Second, "it is begun", func() bool { return w.Met() > 0 })
		began := time.Now()
		stop()
		if took := time.Since(began); took < 5*time.Second || took > 11*time.Second {
			t.Errorf("the stop took %v", took)
		}
		w.Mend()
		f.Replayer(nil)
		released(f, time.Minute, 1)
	})
}

// A deadline is answered on time, also where the turns are taken in which its
// agent would be told what it waits for.
func TestADeadlineWaitsForNoTurn(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		if err := fleet.Pause(f.Ctx, f.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		var slow atomic.Int32
		const turns, n = 16, 20
		f.Replayer(func(*nats.Conn) record.Hook {
			return func(point string, persisted bool) error {
				if point == "answer" && !persisted && slow.Add(1) <= turns {
					time.Sleep(20 * time.Second)
				}
				return nil
			}
		})
		for i := range turns {
			f.Put(dlqtest.Fresh(100+i, wire.ClassPaused))
		}
		f.Eventually(5*time.Second, "all turns are taken", func() bool { return slow.Load() == turns })
		var letters []dlq.Letter
		for i := range n {
			l := dlqtest.Fresh(i, wire.ClassPaused)
			l.Deadline = l.FailedAt.Add(2200 * time.Millisecond)
			letters = append(letters, l)
		}
		f.Put(letters...)
		time.Sleep(2700 * time.Millisecond)
		for _, l := range letters {
			if a, ok := f.Answer(l.Identity); !ok || !a.Final || a.Problem.Code() != fetchworker.CodeDeadlineExceeded {
				t.Errorf("%s: %s half a second after its deadline", l.ID, dlqtest.Describe(a))
			}
		}
	})
}

// A letter for which there was no turn comes back soon, and not when its
// acknowledgement is overdue.
func TestALetterWithoutATurnComesBackSoon(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Replayer(func(*nats.Conn) record.Hook {
			return func(point string, persisted bool) error {
				if point == "answer" && !persisted {
					time.Sleep(2 * time.Second)
				}
				return nil
			}
		})
		for i := range 100 { // and there are 64 turns
			l := dlqtest.FailedOnce(i)
			l.NotBefore, l.Deadline = l.FailedAt.Add(time.Hour), l.FailedAt
			f.Put(l)
		}
		f.Eventually(8*time.Second, "all have their end", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
	})
}

// What is done is counted of providers that somebody knows by name, and of all
// others together: anybody can make one up.
func TestMadeUpProvidersAreCountedTogether(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		all := prometheus.NewRegistry()
		replayerWith(f, nil, nil, func(c *dlq.Config) { c.Registerer = all })
		for i, provider := range []string{"fmp", "madeup1", "madeup2", "madeup3"} {
			l := dlqtest.FailedOnce(i)
			l.Provider, l.NotBefore, l.Deadline = provider, l.FailedAt.Add(time.Hour), l.FailedAt
			f.Put(l)
		}
		f.Eventually(10*time.Second, "all have their end", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
		families, err := all.Gather()
		if err != nil {
			t.Fatal(err)
		}
		counted := map[string]float64{}
		for _, family := range families {
			if family.GetName() != "replayer_letters_total" {
				continue
			}
			for _, m := range family.GetMetric() {
				for _, label := range m.GetLabel() {
					if label.GetName() == "provider" {
						counted[label.GetValue()] += m.GetCounter().GetValue()
					}
				}
			}
		}
		if len(counted) != 2 || counted["fmp"] != 1 || counted["(other)"] != 3 {
			t.Errorf("counted are %v", counted)
		}
	})
}

// An agent that has been told what its letter waits for is not looked up again
// each time that the letter is looked at, however long it waits.
func TestWhoWasToldIsNotLookedUpAgain(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		until := time.Now().Add(time.Hour).Truncate(time.Millisecond).UTC()
		if err := fleet.Pause(f.Ctx, f.KV, "fmp", until, "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		var w brokertest.Wire
		w.Break("DIRECT.GET."+fetchworker.StreamResults, brokertest.ReplyLate, 1_000_000, 0) // it is counted
		js, end := f.Through(t, &w)
		defer end()
		defer replayerOn(f, js, f.Logger())()
		const n = 3
		for i := range n {
			f.Put(dlqtest.Fresh(i, wire.ClassPaused))
		}
		told(f, 5*time.Second, n, fetchworker.ReasonPaused, until)
		time.Sleep(25 * time.Minute)
		if met := w.Met(); met < n || met > 2*n {
			t.Errorf("%d agents were looked up %d times", n, met)
		}
	})
}

// The server forgets fractions of a second of a nak's delay when it restarts;
// the letters' own headers do not.
func TestARestartOfTheServerReleasesNothingEarly(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		letters := map[string]dlq.Letter{}
		run := func(work func(f *dlqtest.Fleet)) {
			f, stop := dlqtest.Start(t, brokertest.StartIn(t, dir, ""))
			defer stop()
			f.MaxLife = time.Hour
			f.Serve("fmp")
			f.Replayer(nil)
			work(f)
		}
		run(func(f *dlqtest.Fleet) {
			for i := range 50 {
				l := dlqtest.FailedOnce(i)
				l.NotBefore = time.Now().Add(20*time.Second + rand.N(10*time.Second))
				letters[l.ID] = l
				f.Put(l)
			}
			time.Sleep(2 * time.Second)
		})
		time.Sleep(3 * time.Second)
		run(func(f *dlqtest.Fleet) {
			var mu sync.Mutex
			f.Worker("fmp", func(l dlq.Letter) error {
				mu.Lock()
				defer mu.Unlock()
				if late := time.Since(letters[l.ID].NotBefore); late < 0 || late > 500*time.Millisecond {
					t.Errorf("%s was released %v after its time", l.ID, late)
				}
				delete(letters, l.ID)
				return nil
			})
			f.Eventually(time.Minute, "all are released", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(letters) == 0
			})
		})
	})
}

// What panics on one letter takes neither the replayer nor another letter
// along, and does not come at every turn.
func TestALetterThatPanicsIsSetAside(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Worker("fmp", f.Succeed)
		var panics atomic.Int32
		f.Replayer(func(*nats.Conn) record.Hook {
			return func(point string, persisted bool) error {
				if point == "replay" && !persisted && panics.CompareAndSwap(0, 1) {
					panic("this letter is the one")
				}
				return nil
			}
		})
		for i := range 10 {
			f.Put(dlqtest.FailedOnce(i))
		}
		f.Eventually(5*time.Second, "all others have their answers", func() bool { return f.Count(fetchworker.StreamResults, ">") == 9 })
		time.Sleep(10 * time.Minute)
		if n := f.Count(wire.StreamDLQ, ">"); n != 1 {
			t.Errorf("%d letters wait, want the one set aside", n)
		}
		f.Eventually(6*time.Minute, "it has its turn again", func() bool { return f.Count(fetchworker.StreamResults, ">") == 10 })
		f.Check(dlqtest.Check{Empty: true})
	})
}

// Limits that were lifted while no replayer ran let the letters of tomorrow's
// quota go as soon as one does: what is stored tells it.
func TestAGateThatOpenedUnseenIsOpen(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Worker("fmp", f.Succeed)
		for i := range 5 {
			l := dlqtest.Fresh(i, wire.ClassQuota)
			l.NotBefore = time.Now().Add(20 * time.Hour)
			f.Put(l)
		}
		time.Sleep(time.Minute)
		if err := fleet.SetLimits(f.Ctx, f.KV, "fmp", nil, time.Time{}, "ann", "the quota was raised"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		f.Replayer(nil)
		f.Eventually(10*time.Second, "they are released", func() bool { return f.Count(fetchworker.StreamResults, ">") == 5 })
	})
}

// Who was told last is seen by the server's clock, whatever a replayer's machine
// believes.
func TestAgentsAreToldByTheServersClock(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		w := &brokertest.Wire{}
		w.Ahead(time.Hour)
		js, end := f.Through(t, w)
		defer end()
		kv, err := js.KeyValue(f.Ctx, wire.BucketProviders)
		if err != nil {
			t.Fatal(err)
		}
		board, err := fleet.Watch(f.Ctx, js, kv)
		if err != nil {
			t.Fatal(err)
		}
		defer board.Close()
		if err := fleet.Pause(f.Ctx, f.KV, "fmp", time.Now().Add(3*time.Hour), "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		f.Put(dlqtest.Fresh(1, wire.ClassPaused))
		time.Sleep(time.Minute) // until the board knows the server's clock
		stop := f.Start(nil, func(js jetstream.JetStream, log *record.Log) dlqtest.Daemon {
			return dlq.NewReplayer(js, log, board, dlq.Config{
				Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer,
				Retries: dlqtest.Retries, MaxLife: f.MaxLife, Logger: f.Logger(),
			}).Run
		})
		defer stop()
		f.Eventually(10*time.Second, "its agent is told", func() bool { _, told := f.Answer(dlqtest.Ident(1)); return told })
		a, _ := f.Answer(dlqtest.Ident(1))
		if ahead := time.Until(a.Time); ahead < 59*time.Minute || a.Problem.Reason() != fetchworker.ReasonPaused {
			t.Errorf("told as of %v from now: %s", ahead, dlqtest.Describe(a))
		}
	})
}
