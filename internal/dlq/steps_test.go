package dlq_test

import (
	"errors"
	"slices"
	"strings"
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
	"fetchworker/internal/budget/store"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// A step that fails once, the server being away for a moment, is done again at
// once and not when the letter's acknowledgement is overdue: whatever the
// letter, and whatever the step.
func TestAStepThatFailsIsDoneAgainSoon(t *testing.T) {
	errAway := errors.New("the server is away")
	for _, s := range stories() {
		if s.sweeps {
			continue
		}
		steps := strings.Fields(s.points)
		slices.Sort(steps)
		for _, step := range slices.Compact(steps) {
			t.Run(s.name+", "+step, func(t *testing.T) {
				dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
					f.MaxLife = 5 * time.Minute
					f.Serve("fmp")
					f.Worker("fmp", f.Succeed)
					s.put(f)
					var mu sync.Mutex
					var failed, again time.Time
					f.Replayer(func(*nats.Conn) record.Hook {
						return func(point string, persisted bool) error {
							mu.Lock()
							defer mu.Unlock()
							switch {
							case point != step || persisted:
							case failed.IsZero():
								failed = time.Now()
								return errAway
							case again.IsZero():
								again = time.Now()
							}
							return nil
						}
					})
					f.Eventually(2*time.Minute, "it is done again", func() bool {
						mu.Lock()
						defer mu.Unlock()
						return !again.IsZero()
					})
					mu.Lock()
					took := again.Sub(failed)
					mu.Unlock()
					if took > 6*time.Second {
						t.Errorf("it was done again after %v", took)
					}
					f.Eventually(2*time.Minute, "the request has its end", func() bool {
						a, _ := f.Answer(f.Accepted[0])
						return a.Final && f.Count(wire.StreamDLQ, ">")+f.Count(wire.StreamReplay, ">") == 0
					})
					f.Check(dlqtest.Check{Empty: true})
				})
			})
		}
	}
}

// A letter that went as a probe is in one place.
func TestAProbeLeavesTheLetters(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: time.Now().Add(5 * time.Second)}})
		f.Put(dlqtest.Fresh(1, wire.ClassCircuitOpen))
		f.Replayer(nil)
		released(f, 15*time.Second, 1)
		time.Sleep(time.Second)
		if n := f.Count(wire.StreamDLQ, ">"); n != 0 {
			t.Errorf("%d letters beside the probe", n)
		}
	})
}

// The item of another request under the same id is a person's, also where the
// letter's own request has its answer.
func TestAnothersItemStays(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		other := spent(1)
		other.RequestedAt = other.RequestedAt.Add(time.Hour)
		if _, err := f.Log.Put(f.Ctx, other.ReviewSlot(), other.ReviewItem()); err != nil {
			t.Fatal(err)
		}
		f.Put(spent(1))
		finished(f, spent(1))
		f.Replayer(nil)
		f.Eventually(time.Minute, "the letter is done", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
		if n := f.Count(wire.StreamReview, ">"); n != 1 {
			t.Errorf("%d items", n)
		}
		f.Accepted = nil // two requests of one name
	})
}

// finished stores the answer of a letter's request, as a worker that died
// before it had told anybody.
func finished(f *dlqtest.Fleet, l dlq.Letter) {
	f.T.Helper()
	a := fetchworker.Answer{Identity: l.Identity, Status: fetchworker.StatusOK, Final: true, Generation: l.Generation, Body: []byte("[1]")}
	if _, _, err := answer.New(f.Log).Put(f.Ctx, a, ""); err != nil {
		f.T.Fatal(err)
	}
}

// The copy of an answer whose worker died before it had sent it comes with the
// letter's end.
func TestTheCopyOfAnAnswerComesWithTheLettersEnd(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		var copies atomic.Int32
		sub, err := f.NC.Subscribe("fetch.reply.alice.x", func(*nats.Msg) { copies.Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		f.Put(spent(1))
		finished(f, spent(1))
		f.Replayer(nil)
		f.Eventually(time.Minute, "the letter is done", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
		f.Eventually(time.Second, "the copy comes", func() bool { return copies.Load() == 1 })
	})
}

// What comes to be due while its agent is being told to wait is done at once,
// not when it would have been looked at again.
func TestWhatIsDueWhileItIsToldIsDone(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		if err := fleet.Pause(f.Ctx, f.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		var slow brokertest.Wire
		slow.Break("fetch.result.", brokertest.ReplyLate, 1, 4*time.Second)
		js, end := f.Through(t, &slow)
		defer end()
		l := dlqtest.Fresh(1, wire.ClassPaused)
		l.Deadline = l.FailedAt.Add(4 * time.Second)
		f.Put(l)
		stop := replayerOn(f, js, f.Logger())
		defer stop()
		f.Eventually(15*time.Second, "it has its end", func() bool { a, _ := f.Answer(l.Identity); return a.Final })
		if a, _ := f.Answer(l.Identity); a.Time.Sub(l.Deadline) > 3*time.Second {
			t.Errorf("its end came %v after its deadline", a.Time.Sub(l.Deadline))
		}
		if slow.Met() != 1 {
			t.Error("its agent was not being told")
		}
	})
}

// replayerOn runs a replayer with a connection and a logger of the test's own.
func replayerOn(f *dlqtest.Fleet, js jetstream.JetStream, logger *zap.Logger) (stop func()) {
	return replayerWith(f, js, nil, func(c *dlq.Config) { c.Logger = logger })
}

// replayerWith runs a replayer that a test configures, on a connection of the
// test's own, if there is one.
func replayerWith(f *dlqtest.Fleet, js jetstream.JetStream, hook record.Hook, edit func(*dlq.Config)) (stop func()) {
	return f.Start(nil, func(ours jetstream.JetStream, _ *record.Log) dlqtest.Daemon {
		if js == nil {
			js = ours
		}
		c := dlq.Config{
			Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer,
			Retries: dlqtest.Retries, MaxLife: f.MaxLife, Logger: f.Logger(),
		}
		edit(&c)
		return dlq.NewReplayer(js, record.New(js, hook), f.Board, c).Run
	})
}

// What a replayer has been sent and has not looked at when it stops is
// another's at once.
func TestWhatAStopFindsUnreadIsHandedBack(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Worker("fmp", f.Succeed)
		// The first message is none that a letter could be: saying so takes long.
		if _, err := f.JS.Publish(f.Ctx, "fetch.dlq.fmp.batch.quote.alice.ü", nil); err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			l := dlqtest.FailedOnce(i)
			l.NotBefore = l.FailedAt
			f.Put(l)
		}
		said, stopping := make(chan struct{}), make(chan struct{})
		var once sync.Once
		stop := replayerOn(f, nil, zap.New(saying{zapcore.NewNopCore(), func() {
			once.Do(func() {
				close(said)
				<-stopping
				time.Sleep(time.Second)
			})
		}}))
		<-said
		time.Sleep(time.Second) // the others have come
		var stopped sync.WaitGroup
		stopped.Go(stop)
		close(stopping)
		stopped.Wait()
		f.Replayer(nil)
		took := f.Eventually(5*time.Second, "another has them", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
		t.Logf("done after %v", took)
		f.Eventually(5*time.Second, "and they are answered", func() bool { return f.Count(wire.StreamReplay, ">") == 0 })
		f.Check(dlqtest.Check{Empty: true})
	})
}

// saying does something whenever an error is logged.
type saying struct {
	zapcore.Core
	do func()
}

func (s saying) Enabled(zapcore.Level) bool { return true }

func (s saying) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, s)
}

func (s saying) Write(e zapcore.Entry, _ []zapcore.Field) error {
	if e.Level >= zapcore.ErrorLevel {
		s.do()
	}
	return nil
}

// A hold that is too short to be worth parking for is waited for among the
// letters, and by its end the letters go.
func TestAShortHoldIsWaitedForHere(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		now := time.Now()
		register := ledger.New(1)
		register.Throttled(ledger.InstantOf(now), "w", 20*time.Second, 0, 0.5)
		if _, err := f.KV.Put(f.Ctx, store.PermitsKey("fmp"), register.Encode()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until the board has heard of it
		f.Replayer(nil)
		for i := range 3 {
			l := dlqtest.FailedOnce(i)
			l.NotBefore = now
			f.Put(l)
		}
		time.Sleep(15 * time.Second)
		released(f, 0, 0)
		released(f, 15*time.Second, 3)
	})
}

// A gate that opens by itself lets those go that were to wait for a quota much
// longer: only a worker can tell whether there are permits now.
func TestAGateThatOpensLetsQuotasBeTried(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		register := ledger.New(1)
		register.Throttled(ledger.InstantOf(time.Now()), "w", time.Minute, 0, 0.5)
		if _, err := f.KV.Put(f.Ctx, store.PermitsKey("fmp"), register.Encode()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		f.Replayer(nil)
		for i := range 3 {
			l := dlqtest.Fresh(i, wire.ClassQuota)
			l.NotBefore = l.NotBefore.Add(20 * time.Hour)
			f.Put(l)
		}
		time.Sleep(45 * time.Second)
		released(f, 0, 0)
		released(f, 15*time.Second, 3)
	})
}
