package budget

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
)

// A gate whose start is not over lets nobody through, whatever its limits, and
// no other waits for it; then it knows what the fleet shares before anybody
// passes. One whose start failed stays shut.
func TestAGateOpensWhenItsStartIsOver(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		if err := CreateRegister(t.Context(), b.kv, "slow"); err != nil {
			t.Fatal(err)
		}
		other := b.open("w1", nil)
		over := make(chan error, 1)
		slow := b.open("w1", func(s *Settings) {
			s.Provider, s.Limits = "slow", nil
			s.Begin = func(ctx context.Context) error {
				select {
				case err := <-over:
					return err
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		})
		passed := make(chan time.Duration, 1)
		began := time.Now()
		go func() {
			b.begin(slow, turns.Ask{}).Done(Report{Outcome: Success, Remaining: -1})
			passed <- time.Since(began)
		}()
		b.call(other, Success, "")
		if d := time.Since(began); d > time.Second {
			t.Errorf("another's call waited %v", d)
		}
		time.Sleep(30 * time.Second)
		if s := slow.State(); s.InFlight != 0 || len(passed) != 0 {
			t.Errorf("let through before its start was over: %+v", s)
		}
		over <- nil
		if d := <-passed; d < 30*time.Second || d > 31*time.Second {
			t.Errorf("let through after %v", d)
		}

		never := b.open("w1", func(s *Settings) {
			s.Begin = func(context.Context) error { return errors.New("not allowed") }
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := never.Acquire(ctx, turns.Ask{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("whose start failed: %v", err)
		}
		shut := make(chan error, 1)
		go func() {
			_, err := never.Acquire(t.Context(), turns.Ask{})
			shut <- err
		}()
		time.Sleep(time.Second)
		never.Close()
		if err := <-shut; !errors.Is(err, ErrShut) {
			t.Errorf("at the stop: %v", err)
		}
	})
}

// A gate that is closed while it begins leaves nothing behind: it is not told of
// what happens later.
func TestAGateThatIsClosedWhileItBegins(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		js, kv := b.connect()
		mirror, err := store.NewMirror(t.Context(), js, kv, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer mirror.Close()
		release := make(chan struct{})
		g := b.open("w1", func(s *Settings) {
			s.Mirror = mirror
			s.Begin = func(context.Context) error { // it takes no notice
				<-release
				return nil
			}
		})
		closed := make(chan struct{})
		go func() {
			g.Close()
			close(closed)
		}()
		synctest.Wait()
		close(release)
		<-closed
		if err := fleet.Pause(t.Context(), b.kv, "fmp", time.Now().Add(time.Hour), "ann", "x"); err != nil {
			t.Fatal(err)
		}
		settle()
		if until := g.State().PausedUntil; !until.IsZero() {
			t.Errorf("it knows of a pause until %v", until)
		}
		if _, err := g.Acquire(t.Context(), turns.Ask{}); !errors.Is(err, ErrShut) {
			t.Errorf("let through: %v", err)
		}
	})
}
