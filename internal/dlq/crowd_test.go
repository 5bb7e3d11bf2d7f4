package dlq_test

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// crowdOf is how many letters the tests of scale use: ten thousand, or as many
// as FETCH_TEST_MESSAGES says.
func crowdOf() int {
	if n, err := strconv.Atoi(os.Getenv("FETCH_TEST_MESSAGES")); err == nil {
		return n
	}
	return 10_000
}

// On the wall clock: a crowd of letters that one provider's open circuit holds
// delays no retry of another's.
func TestNoCrowdStandsBeforeAnothersLetter(t *testing.T) {
	if testing.Short() {
		t.Skip("a crowd")
	}
	f, stop := dlqtest.Start(t, brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0"))
	defer stop()
	leave := f.Serve("fmp")
	defer leave()
	leaveOther := f.Serve("polygon")
	defer leaveOther()
	open, err := circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: time.Now().Add(time.Hour)}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.KV.Put(f.Ctx, "circuit.fmp", open); err != nil {
		t.Fatal(err)
	}
	n := crowdOf()
	f.Crowd(n, func(l *dlq.Letter) { l.Class = wire.ClassCircuitOpen })
	f.Replayer(nil)
	f.Eventually(2*time.Minute, "it has met them all", func() bool {
		c, err := f.JS.Consumer(f.Ctx, wire.StreamDLQ, "replayer")
		return err == nil && c.CachedInfo().NumPending == 0
	})
	var mu sync.Mutex
	var late []time.Duration
	came := map[string]bool{} // one comes twice where the word of its release was long in coming
	f.Worker("polygon", func(l dlq.Letter) error {
		mu.Lock()
		defer mu.Unlock()
		if !came[l.ID] {
			came[l.ID] = true
			late = append(late, time.Since(l.NotBefore))
		}
		return nil
	})
	const retries = 60
	var written time.Duration // how long the slowest letter took to be
	for i := range retries {
		l := dlqtest.FailedOnce(i)
		begun := time.Now()
		l.Provider, l.NotBefore = "polygon", begun.Add(time.Second)
		f.Put(l)
		written = max(written, time.Since(begun))
		time.Sleep(100 * time.Millisecond)
	}
	f.Accepted = nil
	f.Eventually(30*time.Second, "all retries are made", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(late) == retries
	})
	slices.Sort(late)
	t.Logf("%d letters held; of %d retries of another provider the median came %v late, the last %v; a letter was written within %v", n, retries, late[retries/2], late[retries-1], written)
	// A write is one step of the dozen or so that a retry takes, and is as slow as
	// the machine makes it.
	if late[retries-1] > 2*time.Second+20*written {
		t.Errorf("a retry came %v late", late[retries-1])
	}
}

// Ten thousand due letters, and a slow provider: those without room are not
// looked at again and again, and none waits where there is room.
func TestDueLettersWithoutRoomDoNotSpin(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		n := 2000
		f.Crowd(n, func(l *dlq.Letter) { l.Class, l.NotBefore = wire.ClassPaused, time.Now() })
		var mu sync.Mutex
		handled := 0
		f.Worker("fmp", func(dlq.Letter) error {
			mu.Lock()
			handled++
			mu.Unlock()
			time.Sleep(10 * time.Millisecond) // 100 a second
			return nil
		})
		f.Replayer(nil)
		time.Sleep(5 * time.Second)
		consumer, err := f.JS.Consumer(f.Ctx, wire.StreamDLQ, "replayer")
		if err != nil {
			t.Fatal(err)
		}
		looks := func() uint64 {
			info, err := consumer.Info(f.Ctx)
			if err != nil {
				t.Fatal(err)
			}
			return info.Delivered.Consumer
		}
		before := looks()
		mu.Lock()
		done := handled
		mu.Unlock()
		time.Sleep(10 * time.Second)
		mu.Lock()
		rate := float64(handled-done) / 10
		mu.Unlock()
		each := float64(looks()-before) / 10
		t.Logf("%.0f looks a second, %.0f letters a second go", each, rate)
		if each > 300 {
			t.Errorf("%.0f looks a second", each)
		}
		if rate < 90 {
			t.Errorf("only %.0f letters a second go, of 100 that could", rate)
		}
		f.Eventually(time.Minute, "all go", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
		f.Accepted = nil
	})
}

// What a drain releases is gone, from the consumer's hands too, and called once:
// also where somebody deletes the consumer that it would be acknowledged to.
func TestWhatADrainReleasesIsGone(t *testing.T) {
	for name, lost := range map[string]bool{"the consumer is there": false, "somebody deletes the consumer": true} {
		t.Run(name, func(t *testing.T) {
			dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
				leave := f.Serve("fmp")
				defer leave()
				if err := fleet.Pause(f.Ctx, f.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
					t.Fatal(err)
				}
				const n = 300
				f.Crowd(n, func(l *dlq.Letter) { l.Class, l.NotBefore = wire.ClassPaused, time.Now().Add(time.Hour) })
				stop := f.Replayer(nil)
				defer stop()
				info := func() *jetstream.ConsumerInfo {
					c, err := f.JS.Consumer(f.Ctx, wire.StreamDLQ, "replayer")
					if err != nil {
						t.Fatal(err)
					}
					return c.CachedInfo()
				}
				f.Eventually(20*time.Second, "it has met them", func() bool { return info().NumPending == 0 })
				time.Sleep(2 * time.Second)
				if err := fleet.Resume(f.Ctx, f.KV, "fmp"); err != nil {
					t.Fatal(err)
				}
				called := map[string]int{}
				var mu sync.Mutex
				f.Worker("fmp", func(l dlq.Letter) error {
					mu.Lock()
					defer mu.Unlock()
					called[l.ID]++
					if lost && len(called) == 10 {
						return f.JS.DeleteConsumer(f.Ctx, wire.StreamDLQ, "replayer")
					}
					return nil
				})
				f.Eventually(30*time.Second, "all go", func() bool { return f.Count(wire.StreamDLQ, ">")+f.Count(wire.StreamReplay, ">") == 0 })
				mu.Lock()
				defer mu.Unlock()
				for id, calls := range called {
					if calls != 1 {
						t.Errorf("%s was called %d times", id, calls)
					}
				}
				if len(called) != n {
					t.Errorf("%d of %d were called", len(called), n)
				}
				if !lost {
					if i := info(); i.NumAckPending != 0 {
						t.Errorf("the consumer waits for %d that are gone", i.NumAckPending)
					}
				}
				f.Accepted = nil
			})
		})
	}
}

// A crowd that is parked is given out once while it is parked, and hardly a second
// time; and of each whose worker died in between the agent is told all the same.
func TestACrowdThatIsParkedIsMetOnce(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		leave := f.Serve("fmp")
		defer leave()
		until := time.Now().Add(time.Hour).Truncate(time.Millisecond).UTC()
		f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: until}})
		f.Replayer(nil)
		const n = 1000
		f.Crowd(n, func(l *dlq.Letter) { l.Class, l.NotBefore = wire.ClassCircuitOpen, until })
		time.Sleep(1500 * time.Millisecond)
		consumer, err := f.JS.Consumer(f.Ctx, wire.StreamDLQ, "replayer")
		if err != nil {
			t.Fatal(err)
		}
		if met := consumer.CachedInfo().Delivered.Consumer; met < n || met > n+n/2 {
			t.Errorf("%d letters were given out %d times", n, met)
		}
		took := f.Eventually(30*time.Second, "all agents are told", func() bool { return f.Count(fetchworker.StreamResults, ">") == n })
		t.Logf("all are told within %v", took)
		f.Accepted = nil
	})
}

// A crowd that an operation's open circuit holds is not read again and again,
// and goes as soon as that closes.
func TestACrowdBehindACircuitIsReadOnce(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		leave := f.Serve("fmp")
		defer leave()
		opened := circuit.Operation{Name: "quote", Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: time.Now().Add(time.Hour)}}
		f.Circuit("fmp", circuit.Record{Operations: []circuit.Operation{opened}})
		const n, lasts = 500, time.Minute
		f.Crowd(n, func(l *dlq.Letter) { l.Class, l.NotBefore = wire.ClassCircuitOpen, time.Now().Add(time.Hour) })
		f.Replayer(nil)
		var reads atomic.Int64
		sub, err := f.JS.Conn().Subscribe("$JS.API.DIRECT.GET."+wire.StreamDLQ, func(*nats.Msg) { reads.Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		time.Sleep(lasts)
		if most := int64(n * (2 + lasts/(15*time.Second))); reads.Load() > most {
			t.Errorf("%d letters were read %d times in %v", n, reads.Load(), lasts)
		}
		f.Worker("fmp", func(dlq.Letter) error { return nil })
		released(f, 0, 0)
		f.Circuit("fmp", circuit.Record{LastSuccess: time.Now()})
		took := f.Eventually(10*time.Second, "all go", func() bool { return f.Count(wire.StreamDLQ, ">")+f.Count(wire.StreamReplay, ">") == 0 })
		if took > 1500*time.Millisecond {
			t.Errorf("they go within %v", took)
		}
		f.Accepted = nil
	})
}

// What waits for a quota beside an open circuit is no crowd of that: it goes soon
// after the limit is raised, also where it is in the hands of a replayer that has
// frozen.
func TestAQuotaBesideACircuitIsNotForgotten(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Circuit("fmp", circuit.Record{Operations: []circuit.Operation{{Name: "quote", Circuit: openFor("", time.Now().Add(time.Hour))}}})
		frozen, err := f.JS.Consumer(f.Ctx, wire.StreamDLQ, "replayer")
		if err != nil {
			t.Fatal(err)
		}
		letter := func(i int) {
			l := asks(i, "alice", "profile", `{"symbol":"A"}`)
			l.Class, l.NotBefore = wire.ClassQuota, time.Now().Add(20*time.Hour)
			f.Put(l)
			batch, err := frozen.Fetch(100, jetstream.FetchMaxWait(5*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			for m := range batch.Messages() {
				if !strings.Contains(m.Subject(), ".profile.") {
					_ = m.Nak()
					continue
				}
				f.Running.Go(func() {
					for m.InProgress() == nil && wait.For(f.Ctx, 3*time.Second) == nil {
					}
				})
			}
		}
		for i := range 5 {
			f.Put(asks(10+i, "alice", "quote", `{"symbol":"A"}`))
		}
		for round := range 4 { // by chance one would go as soon if it was forgotten
			letter(round)
			stop := f.Replayer(nil)
			time.Sleep(20*time.Second + time.Duration(round)*4*time.Second)
			if err := fleet.SetLimits(f.Ctx, f.KV, "fmp", nil, time.Time{}, "ann", "the quota was raised"); err != nil {
				t.Fatal(err)
			}
			released(f, 7*time.Second, round+1)
			stop()
		}
	})
}
