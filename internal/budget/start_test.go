package budget

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
)

// TestEdgesOfAPermit: what comes between a permit and its call, the permit being
// good for minutes: none may start that would be one too many, or too early, or
// too late.
func TestEdgesOfAPermit(t *testing.T) {
	day := func(s *Settings) { s.Limits = ledger.Limits{{N: 100, Per: 24 * time.Hour}} }
	acquire := func(b *bench, g *Gate) *Permit {
		b.Helper()
		p, err := g.Acquire(b.Context(), turns.Ask{})
		if err != nil {
			b.Fatal(err)
		}
		return p
	}
	for name, test := range map[string]func(b *bench, g *Gate){
		"a pause": func(b *bench, g *Gate) {
			p := acquire(b, g)
			if err := fleet.Pause(b.Context(), b.kv, "fmp", time.Now().Add(time.Hour), "ann", "x"); err != nil {
				b.Fatal(err)
			}
			time.Sleep(time.Second)
			if err := p.Start(); !errors.Is(err, ErrLapsed) {
				b.Errorf("during a pause: %v", err)
			}
			p.Done(Report{Remaining: -1})
		},
		"a hold, and the trial after it": func(b *bench, g *Gate) {
			p, q := acquire(b, g), acquire(b, g)
			if err := p.Start(); err != nil {
				b.Fatal(err)
			}
			p.Done(Report{Outcome: Throttled, RetryAfter: 3 * time.Second, Remaining: -1})
			for range 2 {
				if err := q.Start(); !errors.Is(err, ErrLapsed) {
					b.Errorf("of before the hold: %v", err)
				}
				time.Sleep(4 * time.Second) // the hold is over, its trial has not been
			}
			q.Done(Report{Remaining: -1})
			if s := g.State(); s.InFlight != 0 {
				b.Errorf("%d in flight", s.InFlight)
			}
		},
		"its end, as far as the time is known": func(b *bench, g *Gate) {
			time.Sleep(3 * time.Second)
			p := acquire(b, g)
			end := p.w.Turn.Block.Until
			now := g.clock.Read()
			time.Sleep(end.Sub(now.At) - now.U - time.Second)
			for now = g.clock.Read(); now.U == 0 || end.Add(-now.U/2).Sub(now.At) > time.Millisecond; now = g.clock.Read() {
				time.Sleep(max(end.Add(-now.U/2).Sub(now.At), time.Millisecond))
			}
			if now.At >= end {
				b.Skip("it is over by any clock")
			}
			if err := p.Start(); !errors.Is(err, ErrLapsed) {
				b.Errorf("%v before the end, with a time that is wrong by up to %v: %v", end.Sub(now.At), now.U, err)
			}
			p.Done(Report{Remaining: -1})
		},
		"a stop": func(b *bench, g *Gate) {
			p := acquire(b, g)
			g.Close()
			if err := p.Start(); !errors.Is(err, ErrLapsed) {
				b.Errorf("after the stop: %v", err)
			}
			p.Done(Report{Remaining: -1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(_ *testing.T, b *bench) { test(b, b.open("w1", day)) })
		})
	}
}

// TestEveryPathOfAPermit: one who leaves in the very moment in which its permit
// comes keeps neither slot nor permit.
func TestEveryPathOfAPermit(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.Concurrency, s.Limits = 1, nil })
		for range 20 {
			holder, err := g.Acquire(t.Context(), turns.Ask{})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			left := make(chan error, 1)
			go func() {
				p, err := g.Acquire(ctx, turns.Ask{})
				if p != nil {
					p.Done(Report{Remaining: -1})
				}
				left <- err
			}()
			synctest.Wait()
			g.mu.Lock() // the waiter wakes, and cannot yet leave
			cancel()
			holder.ended = true
			g.finish(holder, Report{Remaining: -1}, g.clock.Read())
			g.mu.Unlock()
			if err := <-left; err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			synctest.Wait()
			if s := g.State(); s.InFlight != 0 || s.Waiting != 0 {
				t.Fatalf("%d in flight, %d waiting, and nobody is there", s.InFlight, s.Waiting)
			}
		}
	})
}
