package budget

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/budget/ledger"
)

func TestEstimateHoldsTheTruth(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		offset := time.Duration(rng.Int64N(int64(time.Hour))) - 30*time.Minute
		drift := (2*rng.Float64() - 1) * driftPPM * 1e-6 * 0.99
		local := func(d time.Duration) time.Time { return simStart.Add(d + time.Duration(float64(d)*drift)).Time() }
		server := func(d time.Duration) ledger.Instant { return simStart.Add(d + offset) }
		var e estimate
		at := time.Duration(0)
		for range 30 {
			there, back := time.Duration(rng.ExpFloat64()*float64(5*time.Millisecond)), time.Duration(rng.ExpFloat64()*float64(5*time.Millisecond))
			sent, received := local(at), local(at+there+back)
			rtt := received.Sub(sent)
			e = e.add(sample{at: sent.Add(rtt / 2), server: server(at + there), rtt: rtt})
			at += sampleEach
			got, u, ok := e.read(local(at))
			if d := got.Sub(server(at)); !ok || max(d, -d) > u+time.Microsecond {
				t.Fatalf("off by %v, said %v", d, u)
			}
		}
		if len(e) > samples {
			t.Fatalf("keeps %d samples", len(e))
		}
	}
}

func TestEstimateFollowsANewLeader(t *testing.T) {
	var e estimate
	now := simStart.Time()
	for i := range 10 {
		server := ledger.InstantOf(now)
		if i >= 5 {
			server = server.Add(time.Second) // another machine leads, and its clock is ahead
		}
		e = e.add(sample{at: now, server: server, rtt: time.Millisecond})
		now = now.Add(sampleEach)
	}
	if got, _, _ := e.read(now); got.Sub(ledger.InstantOf(now)) < 999*time.Millisecond {
		t.Errorf("%v behind the new leader", got.Sub(ledger.InstantOf(now)))
	}
}

func TestClockOfAMachineThatSlept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock(func(context.Context) (time.Time, error) { return time.Now().Add(time.Hour), nil })
		if c.now().ok {
			t.Error("a time before the first sample")
		}
		if err := c.sample(t.Context()); err != nil {
			t.Fatal(err)
		}
		now := c.now()
		if !now.ok || time.Until(now.time()) != time.Hour {
			t.Fatalf("%+v", now)
		}
		c.wall -= int64(time.Minute) // the wall clock went on while monotonic time stood still
		if after := c.now(); after.ok || after.epoch == now.epoch {
			t.Error("the estimate outlived the machine's sleep")
		}
		if err := c.sample(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !c.now().ok {
			t.Error("not learnt again")
		}
	})
}

func TestClockOfTheServer(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		c, err := StartClock(t.Context(), b.js)
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
