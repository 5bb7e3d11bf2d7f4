package budget

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
)

func TestBurst(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		start := time.Now()
		for range 90 {
			b.begin(g, turns.Ask{}).Done(Report{Outcome: Success, Remaining: -1})
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("3N/4 after idle took %v", d)
		}
	})
}

// provider counts calls as they arrive.
type provider struct {
	mu       sync.Mutex
	arrivals []time.Time
	now      int // at once
	most     int
}

func (p *provider) call(d time.Duration) {
	p.mu.Lock()
	p.arrivals = append(p.arrivals, time.Now())
	p.now++
	p.most = max(p.most, p.now)
	p.mu.Unlock()
	time.Sleep(d)
	p.mu.Lock()
	p.now--
	p.mu.Unlock()
}

func (p *provider) worst(per time.Duration) (most int) {
	slices.SortFunc(p.arrivals, time.Time.Compare)
	for i, first := 0, 0; i < len(p.arrivals); i++ {
		for p.arrivals[i].Sub(p.arrivals[first]) >= per {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

func TestFleetNeverOver(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var p provider
		ctx, stop := context.WithTimeout(t.Context(), 6*time.Minute)
		defer stop()
		var all sync.WaitGroup
		for _, name := range []string{"w1", "w2", "w3"} {
			g := b.open(name, func(s *Settings) { s.Concurrency = 4 })
			for i := range 8 {
				lane := []turns.Lane{turns.Interactive, turns.Replay, turns.Batch}[i%3]
				all.Go(func() {
					for {
						permit, err := g.Acquire(ctx, turns.Ask{Lane: lane, Shard: i})
						if err != nil {
							return
						}
						if permit.Start() == nil {
							p.call(100 * time.Millisecond)
							permit.Done(Report{Outcome: Success, Remaining: -1})
						} else {
							permit.Done(Report{Remaining: -1})
						}
					}
				})
			}
		}
		all.Wait()
		if worst := p.worst(time.Minute); worst > 120 {
			t.Errorf("%d calls in a minute, of 120", worst)
		}
		// A burst first, then what the limit allows.
		if used := float64(len(p.arrivals)) / (6 * 120); used < 0.97 {
			t.Errorf("%d calls in 6 minutes: %.1f %% of the limit", len(p.arrivals), 100*used)
		}
		if p.most > 12 {
			t.Errorf("%d calls at once, 3 workers of 4", p.most)
		}
	})
}

func TestLightBehindBacklog(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		busy, quiet := b.open("busy", nil), b.open("quiet", nil)
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				for ctx.Err() == nil {
					if p, err := busy.Acquire(ctx, turns.Ask{Lane: turns.Batch}); err == nil {
						_ = p.Start()
						p.Done(Report{Outcome: Success, Remaining: -1})
					}
				}
			})
		}
		time.Sleep(3 * time.Minute)
		for range 10 {
			time.Sleep(time.Duration(5000+rand.IntN(1000)) * time.Millisecond)
			start := time.Now()
			b.begin(quiet, turns.Ask{Shard: 3, Alone: true}).Done(Report{Outcome: Success, Remaining: -1})
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("an interactive request waited %v behind a batch backlog", d)
			}
		}
		stop()
		all.Wait()
	})
}

func TestUnlimited(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Limits, s.Concurrency = nil, 3 })
		var p provider
		var all sync.WaitGroup
		start := time.Now()
		for range 30 {
			all.Go(func() {
				permit := b.begin(g, turns.Ask{})
				p.call(time.Second)
				permit.Done(Report{Outcome: Success, Remaining: -1})
			})
		}
		all.Wait()
		if d := time.Since(start); p.most != 3 || d > 11*time.Second {
			t.Errorf("%d at once, 30 calls of a second took %v", p.most, d)
		}
		// A 429 holds an unlimited provider too, and one probe follows.
		b.begin(g, turns.Ask{}).Done(Report{Outcome: Throttled, RetryAfter: 10 * time.Second, Remaining: -1})
		start = time.Now()
		probe := b.begin(g, turns.Ask{})
		if d := time.Since(start); d < 10*time.Second || d > 11*time.Second {
			t.Errorf("the probe came after %v, want 10 s", d)
		}
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		if _, err := g.Acquire(ctx, turns.Ask{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second call while the hold's probe is out: %v", err)
		}
		probe.Done(Report{Outcome: Success, Remaining: -1})
		b.call(g, Success, "")
	})
}

// A call whose answer has come keeps no slot while it waits for something of
// our own; one that decides about a hold keeps its place until it has.
func TestCame(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Limits, s.Concurrency = nil, 1 })
		first := b.begin(g, turns.Ask{})
		first.Came()
		first.Came()
		second := b.begin(g, turns.Ask{})
		first.Done(Report{Outcome: Success, Remaining: -1})
		if n := g.State().InFlight; n != 1 {
			t.Errorf("%d in flight", n)
		}
		second.Done(Report{Outcome: Throttled, RetryAfter: 10 * time.Second, Remaining: -1})
		trial := b.begin(g, turns.Ask{})
		trial.Came()
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		if _, err := g.Acquire(ctx, turns.Ask{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second call while the hold's probe is out: %v", err)
		}
		trial.Done(Report{Outcome: Success, Remaining: -1})
		b.call(g, Success, "")
	})
}

func TestDeadlineWhileWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Concurrency = 1 })
		p := b.begin(g, turns.Ask{})
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		start := time.Now()
		if _, err := g.Acquire(ctx, turns.Ask{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
		if s := g.State(); s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("in flight %d, waiting %d", s.InFlight, s.Waiting)
		}
		b.call(g, Success, "")
	})
}

func TestLapse(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Limits = perMinute(5) })
		p, err := g.Acquire(t.Context(), turns.Ask{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // the process froze
		if err := p.Start(); !errors.Is(err, ErrLapsed) {
			t.Fatalf("started 5 s late: %v", err)
		}
		if err := p.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
		p.Done(Report{Outcome: Failure, Remaining: -1}) // only the first counts
		if s := g.State(); s.Left != 4 || s.InFlight != 0 {
			t.Errorf("left %d, want 4: the lapsed one was given back; in flight %d", s.Left, s.InFlight)
		}
	})
}

func TestRenewedAfterStart(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Limits = perMinute(5) })
		p := b.begin(g, turns.Ask{}) // its connection broke: a call may have gone
		time.Sleep(5 * time.Second)
		if err := p.Start(); !errors.Is(err, ErrLapsed) {
			t.Fatal(err)
		}
		if err := p.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
		if s := g.State(); s.Left != 3 || s.InFlight != 0 {
			t.Errorf("left %d, want 3: both count; in flight %d", s.Left, s.InFlight)
		}
	})
}

func TestQuota(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Limits = ledger.Limits{{N: 4, Per: 24 * time.Hour}} })
		start := time.Now()
		// Nothing is kept back for others of a window this long: whoever waited
		// for his turn would wait for hours, with permits to spare.
		for range 4 {
			b.begin(g, turns.Ask{}).Done(Report{Outcome: Success, Remaining: -1})
		}
		until := b.refused(g, fetchworker.ReasonQuota)
		if d := until.Sub(start); d < 24*time.Hour || d > 25*time.Hour {
			t.Errorf("the next permit in %v", d)
		}
		time.Sleep(time.Until(until))
		b.begin(g, turns.Ask{}).Done(Report{Outcome: Success, Remaining: -1})
	})
}

func TestRegisterLost(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		short := func(s *Settings) { s.Limits = perMinute(120) }
		g := b.open("w1", short)
		b.call(g, Success, "")
		if err := b.kv.Purge(t.Context(), store.PermitsKey("fmp")); err != nil {
			t.Fatal(err)
		}
		settle()
		lost := time.Now()
		other := b.open("w2", short) // its CreateRegister finds one
		for _, g := range []*Gate{g, other} {
			p := b.begin(g, turns.Ask{Alone: true})
			if d := time.Since(lost); d < time.Minute {
				t.Errorf("a permit %v after the register was lost", d)
			}
			p.Done(Report{Outcome: Success, Remaining: -1})
		}
	})
}

func TestRegisterMissingAtOpen(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		js, kv := b.connect()
		g, err := Open(t.Context(), js, kv, Settings{Provider: "fmp", Worker: "w", Limits: perMinute(10)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		b.gates = append(b.gates, g)
		start := time.Now()
		b.call(g, Success, "")
		if d := time.Since(start); d < time.Minute || d > 70*time.Second {
			t.Errorf("the first permit after %v, want a full window", d)
		}
	})
}

func TestServerRestarts(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Limits = perMinute(10) })
		for range 5 {
			b.call(g, Success, "")
		}
		b.stop()
		ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
		defer stop()
		if p, err := g.Acquire(ctx, turns.Ask{Lane: turns.Batch}); err == nil {
			p.Done(Report{Remaining: -1})
			t.Error("a permit without a server")
		}
		b.start()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if left := g.State().Left; left < 3 || left > 5 { // what was asked for meanwhile may count as used
			t.Errorf("%d permits left after the restart, want about 5", left)
		}
		b.call(g, Success, "")
	})
}

func TestLimitsLive(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		now := time.Now()
		if err := fleet.SetLimits(t.Context(), b.kv, "fmp", ledger.Limits{{N: 2, Per: time.Minute}}, now.Add(5*time.Minute), "alice", "they asked"); err != nil {
			t.Fatal(err)
		}
		settle()
		if got := g.State().Limits.String(); got != "2/min" {
			t.Fatalf("limits %s", got)
		}
		for range 3 {
			b.begin(g, turns.Ask{Alone: true}).Done(Report{Outcome: Success, Remaining: -1})
		}
		if d := time.Since(now); d < time.Minute {
			t.Errorf("3 calls in %v under 2/min", d)
		}
		time.Sleep(5 * time.Minute)
		if got := g.State().Limits.String(); got != "120/min" {
			t.Errorf("limits %s after the change ended", got)
		}
		start := time.Now()
		for range 30 {
			b.begin(g, turns.Ask{}).Done(Report{Outcome: Success, Remaining: -1})
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("30 calls took %v under 120/min", d)
		}
	})
}

func TestCloseSendsEveryoneAway(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Concurrency = 1 })
		p := b.begin(g, turns.Ask{})
		var err error
		var done sync.WaitGroup
		done.Go(func() { _, err = g.Acquire(t.Context(), turns.Ask{}) })
		settle()
		g.Close()
		done.Wait()
		if !errors.Is(err, ErrShut) {
			t.Error(err)
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
		if _, err := g.Acquire(t.Context(), turns.Ask{}); !errors.Is(err, ErrShut) {
			t.Error(err)
		}
	})
}

func TestConnectionClosedFirst(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		b.call(g, Success, "")
		g.AddBytes(5)
		for _, nc := range b.conns {
			nc.Close()
		}
		g.Close() // ends all the same
	})
}

func TestClockOfTheServer(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		c, err := store.StartClock(t.Context(), b.js)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		time.Sleep(time.Minute)
		if d := time.Since(c.Now()); max(d, -d) > time.Millisecond {
			t.Errorf("off by %v", d)
		}
	})
}
