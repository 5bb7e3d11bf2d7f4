package store

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/budget/ledger"
)

// start is where these tests begin.
const start = ledger.Instant(1_800_000_000_123_456_789)

func TestEstimateHoldsTheTruth(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		offset := time.Duration(rng.Int64N(int64(time.Hour))) - 30*time.Minute
		drift := (2*rng.Float64() - 1) * driftPPM * 1e-6 * 0.99
		local := func(d time.Duration) time.Time { return start.Add(d + time.Duration(float64(d)*drift)).Time() }
		server := func(d time.Duration) ledger.Instant { return start.Add(d + offset) }
		var e Estimate
		at := time.Duration(0)
		for range 30 {
			there, back := time.Duration(rng.ExpFloat64()*float64(5*time.Millisecond)), time.Duration(rng.ExpFloat64()*float64(5*time.Millisecond))
			sent, received := local(at), local(at+there+back)
			rtt := received.Sub(sent)
			e = e.Add(Sample{At: sent.Add(rtt / 2), Server: server(at + there), RTT: rtt})
			at += SampleEach
			got, u, ok := e.Read(local(at))
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
	var e Estimate
	now := start.Time()
	for i := range 10 {
		server := ledger.InstantOf(now)
		if i >= 5 {
			server = server.Add(time.Second) // another machine leads, and its clock is ahead
		}
		e = e.Add(Sample{At: now, Server: server, RTT: time.Millisecond})
		now = now.Add(SampleEach)
	}
	if got, _, _ := e.Read(now); got.Sub(ledger.InstantOf(now)) < 999*time.Millisecond {
		t.Errorf("%v behind the new leader", got.Sub(ledger.InstantOf(now)))
	}
}

func TestClockOfAMachineThatSlept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClock(func(context.Context) (time.Time, error) { return time.Now().Add(time.Hour), nil })
		if c.Read().OK {
			t.Error("a time before the first sample")
		}
		if err := c.Sample(t.Context()); err != nil {
			t.Fatal(err)
		}
		now := c.Read()
		if !now.OK || time.Until(now.Time()) != time.Hour {
			t.Fatalf("%+v", now)
		}
		c.wall -= int64(time.Minute) // the wall clock went on while monotonic time stood still
		if after := c.Read(); after.OK || after.Wakes == now.Wakes {
			t.Error("the estimate outlived the machine's sleep")
		}
		if err := c.Sample(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !c.Read().OK {
			t.Error("not learnt again")
		}
	})
}

// A new leader is followed also where its first samples are far less sure than
// what was known of the old one.
func TestEstimateFollowsAnUnsureLeader(t *testing.T) {
	var e Estimate
	now := start.Time()
	for range samples {
		e = e.Add(Sample{At: now, Server: ledger.InstantOf(now), RTT: 100 * time.Microsecond})
		now = now.Add(SampleEach)
	}
	e = e.Add(Sample{At: now, Server: ledger.InstantOf(now).Add(time.Second), RTT: 300 * time.Millisecond})
	got, u, ok := e.Read(now)
	if off := got.Sub(ledger.InstantOf(now).Add(time.Second)); !ok || max(off, -off) > u || u > 200*time.Millisecond {
		t.Errorf("off by %v, said %v", off, u)
	}
}

// Of samples that agree the surest rules, whenever it was taken.
func TestTheSurestSampleRules(t *testing.T) {
	now := start.Time()
	var e Estimate
	for _, rtt := range []int{80, 1, 200, 40} {
		e = e.Add(Sample{At: now, Server: ledger.InstantOf(now), RTT: time.Duration(rtt) * time.Millisecond})
	}
	if _, u, _ := e.Read(now); u != 500*time.Microsecond {
		t.Errorf("sure to %v, and one sample is to half a millisecond", u)
	}
}

// Wherever on its way a look at the server's clock is held up, the time that is
// read of it is no more wrong than is said.
func TestASampleHeldUpOnItsWay(t *testing.T) {
	for _, way := range [][2]time.Duration{{0, 0}, {time.Second, 0}, {0, time.Second}, {300 * time.Millisecond, 500 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			const ahead = time.Hour
			c := NewClock(func(context.Context) (time.Time, error) {
				time.Sleep(way[0])
				at := time.Now().Add(ahead)
				time.Sleep(way[1])
				return at, nil
			})
			if err := c.Sample(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				now := c.Read()
				if off := time.Until(now.Time()) - ahead; !now.OK || max(off, -off) > now.U {
					t.Errorf("%v there and back: wrong by %v, said %v", way, off, now.U)
				}
				time.Sleep(10 * time.Second)
			}
		})
	}
}
