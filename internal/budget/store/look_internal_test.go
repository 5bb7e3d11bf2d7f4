package store

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// When a watch is not to be trusted any more: its bucket was made anew or set
// back, its server was silent, or it has not told in time what is stored.
func TestWhenAWatchIsOpenedAgain(t *testing.T) {
	made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	type look struct {
		after time.Duration
		state state
		told  uint64 // by the watch, before
		again bool
	}
	for name, looks := range map[string][]look{
		"all is well":                      {{0, state{made, 7, false}, 7, false}, {3 * time.Second, state{made, 7, false}, 7, false}, {3 * time.Second, state{made, 9, false}, 9, false}},
		"made anew":                        {{0, state{made, 7, false}, 7, false}, {time.Second, state{made.Add(time.Hour), 7, false}, 7, true}},
		"made anew, and long since":        {{0, state{made, 7, false}, 7, false}, {3 * time.Second, state{made, 7, false}, 7, false}, {3 * time.Second, state{made.Add(time.Hour), 8, false}, 8, true}},
		"set back":                         {{0, state{made, 7, false}, 7, false}, {3 * time.Second, state{made, 7, false}, 7, false}, {time.Second, state{made, 5, false}, 7, true}},
		"the server was silent":            {{0, state{made, 7, false}, 7, false}, {time.Second, state{made, 7, true}, 7, true}},
		"silent at once":                   {{0, state{made, 7, true}, 7, true}},
		"not told":                         {{0, state{made, 7, false}, 7, false}, {3 * time.Second, state{made, 9, false}, 7, false}, {3 * time.Second, state{made, 9, false}, 7, true}},
		"told a little late":               {{0, state{made, 7, false}, 7, false}, {3 * time.Second, state{made, 9, false}, 7, false}, {3 * time.Second, state{made, 9, false}, 9, false}},
		"not told, and looked at too soon": {{0, state{made, 7, false}, 7, false}, {time.Second, state{made, 9, false}, 7, false}, {500 * time.Millisecond, state{made, 9, false}, 7, false}},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := &Mirror{again: make(chan struct{}, 1), entries: map[string]Entry{}, whole: true}
			for i, l := range looks {
				time.Sleep(l.after)
				m.see(Entry{Key: "k", Value: []byte("v"), Rev: l.told})
				m.look(l.state)
				if again := len(m.again) > 0; again != l.again {
					t.Errorf("%s, look %d: opened again %t", name, i, again)
				}
			}
		})
	}
}

// That a server has not answered is told with its next answer, once; a refusal
// is an answer.
func TestASilenceIsToldOnce(t *testing.T) {
	refused := errors.New("no")
	for name, c := range map[string]struct {
		fails  func(context.Context) error
		silent bool
	}{
		"it says no":       {func(context.Context) error { return refused }, false},
		"it says nothing":  {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, true},
		"it says all well": {nil, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			var told []bool
			var clock *Clock
			fails := c.fails
			clock = NewClock(func(ctx context.Context) (time.Time, error) {
				if fails != nil {
					return time.Time{}, fails(ctx)
				}
				clock.tell(state{})
				return time.Now(), nil
			})
			defer clock.follow(func(s state) { told = append(told, s.silent) })()
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_ = clock.Sample(ctx)
				cancel()
				fails = nil
			}
			if len(told) < 2 || told[0] != c.silent || told[1] {
				t.Errorf("%s: %v", name, told)
			}
		})
	}
}

// mute is a cell of a server that says nothing.
type mute struct{}

func (mute) Get(ctx context.Context) ([]byte, uint64, error) {
	<-ctx.Done()
	return nil, 0, ctx.Err()
}

func (mute) Put(ctx context.Context, _ []byte, _ uint64) (uint64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// Neither a read nor a write waits without end for a server that says nothing,
// and what became of a write then is unknown.
func TestNothingWaitsForAServerThatSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, ask := range map[string]func() error{
			"a read":  func() error { _, _, err := Get(t.Context(), mute{}); return err },
			"a write": func() error { _, err := Put(t.Context(), mute{}, nil, 1); return err },
		} {
			began := time.Now()
			if err := ask(); err == nil || errors.Is(err, ErrStale) || time.Since(began) != WriteTimeout {
				t.Errorf("%s: %v after %v", name, err, time.Since(began))
			}
		}
	})
}

// Whoever follows late is told what there is, and of what was deleted that it is
// not there.
func TestWhoFollowsLateIsToldWhatThereIs(t *testing.T) {
	for _, whole := range []bool{true, false} {
		m := &Mirror{entries: map[string]Entry{}, ofKey: map[string][]*Follower{}, whole: whole}
		m.see(Entry{Key: "stays", Value: []byte("1"), Rev: 1})
		m.see(Entry{Key: "goes", Value: []byte("2"), Rev: 2})
		m.see(Entry{Key: "goes", Rev: 3, At: time.Now()})
		for _, keys := range [][]string{nil, {"stays", "goes"}} {
			told := map[string]string{}
			m.Follow(&Follower{Keys: keys, See: func(e Entry) { told[e.Key] = string(e.Value) }})
			if told["stays"] != "1" || told["goes"] != "" {
				t.Errorf("%v are told %v", keys, told)
			}
		}
	}
}

// When all is forgotten nobody is told any more of what there was: it is told
// again if it still is.
func TestWhatIsForgottenIsToldToNobody(t *testing.T) {
	m := &Mirror{entries: map[string]Entry{}, ofKey: map[string][]*Follower{}, whole: true}
	m.see(Entry{Key: "stays", Value: []byte("1"), Rev: 1})
	m.see(Entry{Key: "goes", Value: []byte("2"), Rev: 2})
	told := map[string]string{}
	see := func(e Entry) { told[e.Key] = string(e.Value) }
	m.Follow(&Follower{Keys: []string{"stays", "goes"}, See: see, Lost: func() { clear(told) }})
	m.forget()
	late := map[string]string{}
	m.Follow(&Follower{See: func(e Entry) { late[e.Key] = string(e.Value) }, Lost: func() {}})
	if len(told)+len(late) > 0 {
		t.Errorf("forgotten, and told: %v, %v", told, late)
	}
	m.see(Entry{Key: "stays", Value: []byte("3"), Rev: 3})
	m.complete()
	if gone, is := told["goes"]; told["stays"] != "3" || gone != "" || !is || len(late) != 1 {
		t.Errorf("after all was told anew: %v, %v", told, late)
	}
}
