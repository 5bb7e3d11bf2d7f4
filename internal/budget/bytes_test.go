package budget

import (
	"context"
	"sync"
	"testing"
	"time"

	"fetchworker/internal/budget/store"
)

func TestBytesOfTheFleet(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		budget := func(s *Settings) { s.Bytes = 1000 }
		gates := []*Gate{b.open("w1", budget), b.open("w2", budget), b.open("w3", budget)}
		var all sync.WaitGroup
		for _, g := range gates[:2] {
			all.Go(func() {
				for range 100 {
					g.AddBytes(3)
					time.Sleep(7 * time.Millisecond)
				}
			})
		}
		all.Wait()
		for _, g := range gates {
			g.Used() // somebody asks
		}
		time.Sleep(10 * time.Second)
		for i, g := range gates {
			if used, limit := g.Used(); used != 600 || limit != 1000 {
				t.Errorf("worker %d: %d of %d bytes", i, used, limit)
			}
		}
		gates[0].AddBytes(250) // 85 %: two thresholds in one step
		gates[1].AddBytes(90)
		gates[0].Close() // flushes
		time.Sleep(10 * time.Second)
		if used, _ := gates[2].Used(); used != 940 {
			t.Errorf("%d bytes, want 940", used)
		}
		gates[2].AddBytes(10)
		time.Sleep(10 * time.Second)
		for _, percent := range []int{70, 85, 95} {
			if n := b.told(KindBudget, func(e Event) bool { return e.Percent == percent && e.Month == "2000-01" }); n != 1 {
				t.Errorf("%d %% announced %d times", percent, n)
			}
		}
		if s := gates[2].State(); s.BytesUsed != 950 || !s.MonthEnds.Equal(time.Date(2000, 2, 1, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%+v", s)
		}
	})
}

func TestBytesOfANewMonth(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		// The server's clock, were it half a minute before the month's end.
		ahead := time.Until(time.Date(2000, 1, 31, 23, 59, 30, 0, time.UTC))
		clock := store.NewClock(func(context.Context) (time.Time, error) { return time.Now().Add(ahead), nil })
		if err := clock.Sample(t.Context()); err != nil {
			t.Fatal(err)
		}
		g := b.open("w1", func(s *Settings) { s.Bytes, s.Clock = 100, clock })
		g.AddBytes(99)
		time.Sleep(2 * time.Second)
		if used, _ := g.Used(); used != 99 {
			t.Fatalf("%d used", used)
		}
		time.Sleep(time.Minute)
		if used, _ := g.Used(); used != 0 {
			t.Errorf("%d used in the new month", used)
		}
		g.AddBytes(99)
		time.Sleep(2 * time.Second)
		if used, _ := g.Used(); used != 99 {
			t.Errorf("%d used in the new month", used)
		}
		for _, month := range []string{"2000-01", "2000-02"} {
			if n := b.told(KindBudget, func(e Event) bool { return e.Month == month }); n != 3 {
				t.Errorf("%s: %d announcements", month, n)
			}
		}
	})
}

func TestBytesOutliveTheServer(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		g := b.open("w1", nil)
		g.AddBytes(10)
		settle()
		time.Sleep(time.Second)
		b.stop()
		for range 20 {
			g.AddBytes(10)
			time.Sleep(300 * time.Millisecond)
		}
		b.start()
		time.Sleep(20 * time.Second)
		if used, _ := g.Used(); used != 210 {
			t.Errorf("%d bytes counted, 210 seen", used)
		}
	})
}

// What was added under an id is not added again, and whoever adds it again is told
// the total all the same.
func TestAnIncrementIsAddedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		c := store.NewCounter(b.js)
		for _, add := range []struct {
			id   string
			n    int64
			want int64
		}{{"a", 10, 10}, {"a", 10, 10}, {"b", 5, 15}, {"a", 10, 15}, {"b", 5, 15}} {
			total, err := c.Add(t.Context(), "fetch.budget.x.bytes.2000-01", add.n, add.id)
			if err != nil || total != add.want {
				t.Errorf("%d as %s: %d, %v; want %d", add.n, add.id, total, err, add.want)
			}
		}
		if total, err := c.Read(t.Context(), "fetch.budget.y.bytes.2000-01"); total != 0 || err != nil {
			t.Errorf("of nothing: %d, %v", total, err)
		}
	})
}
