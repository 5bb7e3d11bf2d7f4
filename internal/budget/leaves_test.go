package budget

import (
	"context"
	"errors"
	"testing"
	"time"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/turns"
)

// However one who goes alone ends, whoever waits for its turn has it then, and
// not when the circuits change.
func TestATurnIsPassedOnHoweverItEnds(t *testing.T) {
	for name, end := range map[string]func(b *bench, g *Gate, p *Permit){
		"not called":           func(_ *bench, _ *Gate, p *Permit) { p.Done(Report{Remaining: -1}) },
		"called, with no word": func(_ *bench, _ *Gate, p *Permit) { started(p).Done(Report{Outcome: Neutral, Remaining: -1}) },
		"called, and well":     func(_ *bench, _ *Gate, p *Permit) { started(p).Done(Report{Outcome: circuit.Success, Remaining: -1}) },
		"its permit lapsed, and it gave up": func(b *bench, _ *Gate, p *Permit) {
			time.Sleep(11 * time.Second)
			if err := p.Start(); !errors.Is(err, ErrLapsed) {
				b.Errorf("started: %v", err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			cancel()
			_ = p.Renew(ctx) // it may have another all the same
			p.Done(Report{Remaining: -1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				g := b.open("w1", func(s *Settings) { s.CircuitOpen = time.Hour })
				for _, key := range []string{"1", "2", "3"} {
					b.end(g, ask("alice", "quote", key), Failure)
				}
				settle()
				p, err := g.Acquire(t.Context(), ask("bob", "quote", "1"))
				if err != nil {
					t.Fatal(err)
				}
				next := make(chan error, 1)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				go func() {
					p, err := g.Acquire(ctx, ask("carol", "quote", "1"))
					if err == nil {
						p.Done(Report{Remaining: -1})
					}
					next <- err
				}()
				settle()
				select {
				case err := <-next:
					t.Fatalf("two go alone: %v", err)
				default:
				}
				end(b, g, p)
				began := time.Now()
				if err := <-next; err != nil || time.Since(began) > 50*time.Millisecond {
					t.Errorf("the next: %v after %v", err, time.Since(began))
				}
			})
		})
	}
}

func started(p *Permit) *Permit {
	_ = p.Start()
	return p
}

// A call begins only if it has ended before its seat is another's, whenever its
// permit came and however late it begins.
func TestACallEndsBeforeItsSeat(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", func(s *Settings) { s.AtOnce, s.CallTimeout, s.Limits = 1, 30*time.Second, nil })
		for off, begins := range map[time.Duration]bool{-29 * time.Second: false, -time.Second: false, -time.Millisecond: false, -100 * time.Microsecond: false, time.Millisecond: true, 10 * time.Second: true} {
			p, err := g.Acquire(t.Context(), turns.Ask{})
			if err != nil {
				t.Fatal(err)
			}
			now := g.clock.Read()
			for ; now.U < 200*time.Microsecond; now = g.clock.Read() { // it is less sure the longer ago it was looked at
				time.Sleep(100 * time.Millisecond)
			}
			if left := p.w.Turn.Seat.Sub(now.At); left < 30*time.Second+now.U {
				t.Errorf("a seat of %v for a call of 30 s", left)
			}
			p.w.Turn.Seat = now.At.Add(30*time.Second + now.U + off) // as when the server was away since
			if err := p.Start(); (err == nil) != begins || err != nil && !errors.Is(err, ErrLapsed) {
				t.Errorf("%v more than a call takes: %v", off, err)
			}
			p.Done(Report{Remaining: -1})
		}
	})
}

// What a worker that stops has to say is said also where another is faster, as
// often as that is.
func TestLastWordsAreSaidThoughAnotherIsFaster(t *testing.T) {
	for beatings := range lastWrites {
		bubble(t, func(t *testing.T, b *bench) {
			other, g := b.open("other", aDay(100)), b.open("w", aDay(100))
			p := b.begin(g, asks("a"))
			settle()
			cell := fatesOf(&g.cell)
			var fates []fate
			for range beatings + 1 {
				fates = append(fates, beaten)
			}
			cell.get = func(ctx context.Context) error { return context.Cause(ctx) }
			cell.meet(fates[:beatings]...)
			p.Done(throttled(time.Hour))
			g.Close()
			settle()
			if d := time.Until(other.State().HoldUntil); d < time.Hour-time.Minute {
				t.Errorf("beaten %d times, it took its hold with it: %v are left", beatings, d)
			}
		})
	}
}
