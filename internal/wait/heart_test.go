package wait_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/wait"
)

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := wait.For(t.Context(), time.Minute); err != nil || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		if err := wait.For(ctx, time.Hour); !errors.Is(err, why) {
			t.Error(err)
		}
		for range 1000 {
			if d := wait.Jitter(time.Second, 2*time.Second); d < time.Second || d >= 2*time.Second {
				t.Fatalf("drawn: %v", d)
			}
		}
		if d := wait.Jitter(time.Second, time.Second); d != time.Second {
			t.Errorf("between equals: %v", d)
		}
	})
}

type message struct{ beats atomic.Int32 }

func (m *message) InProgress() error { m.beats.Add(1); return errors.New("gone") }

func TestHeartBeatsForWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := wait.NewHeart[*message]()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); h.Run(ctx) }()
		a, b := new(message), new(message)
		h.Add(a)
		h.Add(b)
		time.Sleep(wait.Beat + time.Second)
		h.Remove(b)
		time.Sleep(2 * wait.Beat)
		cancel()
		<-done
		if a.beats.Load() != 3 || b.beats.Load() != 1 {
			t.Errorf("beats: %d and %d, want 3 and 1", a.beats.Load(), b.beats.Load())
		}
	})
}

// What is held after a rest, however long, is kept alive as what came before it.
func TestHeartBeatsAfterARest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := wait.NewHeart[*message]()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); h.Run(ctx) }()
		for _, rest := range []time.Duration{0, time.Nanosecond, 499 * time.Millisecond, time.Second, 1700 * time.Millisecond, time.Hour} {
			time.Sleep(rest)
			m := new(message)
			h.Add(m)
			time.Sleep(wait.Beat - time.Nanosecond)
			if n := m.beats.Load(); n != 0 {
				t.Errorf("%v of rest, and %d beats for what is young", rest, n)
			}
			time.Sleep(wait.Beat/6 + 2*time.Nanosecond)
			if n := m.beats.Load(); n != 1 {
				t.Errorf("%v of rest, and then %d beats, want 1", rest, n)
			}
			h.Remove(m)
		}
		cancel()
		<-done
	})
}
