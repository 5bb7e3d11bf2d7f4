package page

import (
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/browse"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"

	"go.uber.org/zap"
)

// Counts take turns. One that nobody watches any more makes way for those that
// somebody waits for, also in the middle, and is done when somebody asks again;
// where nobody waits it goes on for a while.
func TestACountThatNobodyWatchesMakesWay(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		desk, err := operate.Open(t.Context(), b.NC)
		if err != nil {
			t.Fatal(err)
		}
		f, err := desk.Fleet(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s, err := New(Config{Desk: desk, Fleet: f, Log: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		ask := func(agent string) grouped {
			return s.counts.of(wire.StreamDLQ, browse.Filter{Agent: agent}, 0)
		}
		s.counts.turn <- struct{}{} // a long count is under way
		ask("left")
		synctest.Wait() // it is the first in the queue
		for range 6 {
			ask("watched")
			time.Sleep(2 * time.Second)
		}
		<-s.counts.turn
		synctest.Wait()
		if got := ask("watched"); !got.Known {
			t.Errorf("who watches has to wait on: %+v", got)
		}
		s.counts.mu.Lock()
		left := s.counts.jobs[countKey{wire.StreamDLQ, browse.Filter{Agent: "left"}}].done
		s.counts.mu.Unlock()
		if left != nil {
			t.Error("what nobody watches was counted first")
		}
		ask("left")
		synctest.Wait()
		if got := ask("left"); !got.Known {
			t.Errorf("asked again it is not counted: %+v", got)
		}
		for _, c := range []struct {
			idle  time.Duration
			queue int
			ends  bool
		}{{0, 9, false}, {countSeen, 9, false}, {countSeen + 1, 1, true}, {countSeen + 1, 0, false}, {countKept, 0, false}, {countKept + 1, 0, true}} {
			s.counts.queue = c.queue
			j := &counting{asked: time.Now().Add(-c.idle)}
			if got := s.counts.unwanted(j, 3000); got != c.ends || j.read != 3000 {
				t.Errorf("%+v: %v, %d read", c, got, j.read)
			}
		}
	})
}
