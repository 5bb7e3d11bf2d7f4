package meter

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// counted is a fleet's counter that can fail in the ways a server can. It knows
// an id again for two minutes.
type counted struct {
	mu     sync.Mutex
	totals map[string]int64
	ids    map[string]time.Time // when they were counted
	fails  error
	stored bool // what fails is counted all the same
	reads  int
	slow   time.Duration // how long a read takes, after it has looked
}

func (c *counted) counter() Counter {
	return Counter{
		Add: func(_ context.Context, month string, n int64, id string) (int64, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if at, known := c.ids[id]; (c.fails == nil || c.stored) && (!known || time.Since(at) >= 2*time.Minute) {
				c.ids[id] = time.Now()
				c.totals[month] += n
			}
			return c.totals[month], c.fails
		},
		Read: func(_ context.Context, month string) (int64, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.reads++
			total := c.totals[month]
			c.mu.Unlock()
			time.Sleep(c.slow)
			c.mu.Lock()
			return total, nil
		},
		Pass: func(context.Context, string, int) (bool, error) { return true, nil },
	}
}

func (c *counted) fail(err error, stored bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fails, c.stored = err, stored
}

func (c *counted) total(month string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.totals[month]
}

func metered(t *testing.T, limit int64, test func(t *testing.T, c *counted, m *Meter, stop func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &counted{totals: map[string]int64{}, ids: map[string]time.Time{}}
		m := New(c.counter(), limit, time.Now, func(Passed) {})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { m.Run(ctx) })
		stop := func() { cancel(); running.Wait() }
		defer stop()
		test(t, c, m, stop)
	})
}

// What is counted is what was seen: not twice where nobody knows whether an
// increment is in, and not lost where it certainly is not, however long that
// takes.
func TestWhatIsCountedIsWhatWasSeen(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		stored bool
		most   int64 // that may be missing
	}{
		"stored, and nobody hears":          {errors.New("no answer"), true, 0},
		"not stored, and nobody knows":      {errors.New("no answer"), false, 20},
		"certainly not stored":              {ErrNotCounted, false, 0},
		"certainly not stored, for a while": {ErrNotCounted, false, 0},
	} {
		for _, lasts := range []time.Duration{time.Second, 5 * time.Minute} {
			t.Run(name+" for "+lasts.String(), func(t *testing.T) {
				metered(t, 1000, func(t *testing.T, counts *counted, m *Meter, _ func()) {
					month := Month(time.Now())
					m.Add(10)
					time.Sleep(time.Second)
					counts.fail(c.err, c.stored)
					m.Add(20)
					time.Sleep(lasts)
					counts.fail(nil, false)
					time.Sleep(10 * time.Second)
					most := c.most
					if lasts < sureFor {
						most = 0
					}
					if total := counts.total(month); total > 30 || total < 30-most {
						t.Errorf("%d counted of 30, and nobody calls any more", total)
					}
					m.Add(5)
					time.Sleep(10 * time.Second)
					if total := counts.total(month); total > 35 || total < 35-most {
						t.Errorf("%d counted of 35", total)
					}
					if used, _ := m.Used(); used != counts.total(month) {
						t.Errorf("%d used, %d counted", used, counts.total(month))
					}
				})
			})
		}
	}
}

// What is used never becomes less within a month, whatever a look that comes
// late has seen.
func TestALateLookLowersNothing(t *testing.T) {
	metered(t, 1000, func(t *testing.T, c *counted, m *Meter, _ func()) {
		month := Month(time.Now())
		m.Add(500)
		time.Sleep(time.Second)
		if used, _ := m.Used(); used != 500 {
			t.Fatalf("%d used", used)
		}
		c.mu.Lock()
		c.totals[month] = 20
		c.mu.Unlock()
		for range 10 {
			time.Sleep(time.Second)
			if used, _ := m.Used(); used < 500 {
				t.Fatalf("%d used, and 500 were", used)
			}
		}
	})
}

// Bytes are of the month in which they came, to its last moment.
func TestBytesAreOfTheirMonth(t *testing.T) {
	metered(t, 1000, func(t *testing.T, c *counted, m *Meter, _ func()) {
		month, ends := Month(time.Now()), NextMonth(time.Now())
		for _, before := range []time.Duration{time.Hour, time.Minute, 10 * time.Second, time.Second} {
			time.Sleep(time.Until(ends.Add(-before)))
			was := c.total(month)
			m.Add(10)
			time.Sleep(500 * time.Millisecond)
			if n := c.total(month) - was; n != 10 {
				t.Errorf("%v before its end %d of 10 are of the month", before, n)
			}
		}
		time.Sleep(time.Until(ends))
		m.Add(7)
		time.Sleep(500 * time.Millisecond)
		if n := c.total(Month(time.Now())); n != 7 {
			t.Errorf("%d of 7 are of the next", n)
		}
	})
}

// A threshold is told once it has been noted that it was passed, once, and as
// the one that noted it was: one that could not be noted is noted at another look.
func TestAThresholdIsNotedAndThenTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counted{totals: map[string]int64{}, ids: map[string]time.Time{}}
		var mu sync.Mutex
		var told []Passed
		tries := 0
		counter := c.counter()
		counter.Pass = func(_ context.Context, _ string, percent int) (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			if tries++; tries <= 3 {
				return false, errors.New("no answer")
			}
			return percent != 85, nil
		}
		m := New(counter, 1000, time.Now, func(p Passed) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, p)
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { m.Run(ctx) })
		defer running.Wait()
		defer cancel()
		m.Add(900)
		for range 20 {
			time.Sleep(time.Second)
			m.Used()
		}
		mu.Lock()
		defer mu.Unlock()
		month := Month(time.Now())
		want := []Passed{
			{Percent: 70, Used: 900, Limit: 1000, Month: month, Until: NextMonth(time.Now()), First: true},
			{Percent: 85, Used: 900, Limit: 1000, Month: month, Until: NextMonth(time.Now())},
		}
		if !slices.Equal(told, want) {
			t.Errorf("%+v after %d tries, want %+v", told, tries, want)
		}
	})
}

// A worker that stops says what it has counted.
func TestAStopLosesNoBytes(t *testing.T) {
	metered(t, 0, func(t *testing.T, c *counted, m *Meter, stop func()) {
		m.Add(7)
		stop()
		if total := c.total(Month(time.Now())); total != 7 {
			t.Errorf("%d counted of 7", total)
		}
	})
}

// In the first moment of a month nothing of it is used.
func TestANewMonthBeginsWithNothing(t *testing.T) {
	metered(t, 1000, func(t *testing.T, _ *counted, m *Meter, _ func()) {
		m.Add(990)
		time.Sleep(time.Second)
		if used, _ := m.Used(); used != 990 {
			t.Fatalf("%d used", used)
		}
		time.Sleep(time.Until(NextMonth(time.Now())))
		if used, _ := m.Used(); used != 0 {
			t.Errorf("%d used of a month that has just begun", used)
		}
	})
}

// What was read before a month's turn and comes after it says nothing of the
// new month, whose own bytes are seen as soon as they are counted.
func TestALookAcrossATurnIsOfTheOldMonth(t *testing.T) {
	metered(t, 1000, func(t *testing.T, c *counted, m *Meter, _ func()) {
		ends := NextMonth(time.Now())
		time.Sleep(time.Until(ends) - 5*time.Second)
		m.Add(990)
		m.Used()
		time.Sleep(time.Second)
		c.mu.Lock()
		c.slow = 1500 * time.Millisecond
		c.mu.Unlock()
		for time.Now().Before(ends.Add(10 * time.Second)) {
			used, _ := m.Used()
			if want := int64(990); time.Now().Before(ends) && used != want {
				t.Fatalf("%d used %v before the turn", used, time.Until(ends))
			} else if !time.Now().Before(ends) && used != 0 {
				t.Fatalf("%d used %v after the turn", used, time.Since(ends))
			}
			time.Sleep(100 * time.Millisecond)
		}
		m.Add(5)
		c.mu.Lock()
		c.totals[Month(time.Now())] += 100 // another worker's
		c.mu.Unlock()
		time.Sleep(5 * time.Second)
		if used, _ := m.Used(); used != 105 {
			t.Errorf("%d used of the new month, and 105 were", used)
		}
	})
}

// The fleet's total is read each second while somebody asks, seldom while nobody
// does, at once for whoever asks first after a while, and not at all where there
// is no limit.
func TestTheTotalIsReadForThoseWhoAsk(t *testing.T) {
	for name, c := range map[string]struct {
		limit              int64
		idle, asked, first [2]int // reads, at least and at most
	}{
		"a limit": {1000, [2]int{59, 62}, [2]int{55, 65}, [2]int{1, 1}},
		"none":    {0, [2]int{0, 0}, [2]int{0, 0}, [2]int{0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			metered(t, c.limit, func(t *testing.T, counts *counted, m *Meter, stop func()) {
				reads := func(what string, want [2]int, while func()) {
					t.Helper()
					synctest.Wait()
					counts.mu.Lock()
					was := counts.reads
					counts.mu.Unlock()
					while()
					synctest.Wait()
					counts.mu.Lock()
					defer counts.mu.Unlock()
					if n := counts.reads - was; n < want[0] || n > want[1] {
						t.Errorf("%s: %d reads, want %v", what, n, want)
					}
				}
				time.Sleep(10 * time.Minute)
				reads("nobody asks for an hour", c.idle, func() { time.Sleep(time.Hour) })
				time.Sleep(time.Second)
				reads("the first to ask", c.first, func() { m.Used() })
				reads("one who only shows it", [2]int{}, func() { m.Seen() })
				reads("asked for a minute", c.asked, func() {
					for range 6 {
						time.Sleep(10 * time.Second)
						m.Used()
					}
				})
				time.Sleep(askedFor + 2*time.Second)
				reads("nobody asks any more", c.idle, func() { time.Sleep(time.Hour) })
				m.Add(7)
				m.Add(0)
				m.Add(-5) // nothing is less than nothing
				if used, _ := m.Seen(); used != 7 {
					t.Errorf("%d used, and 7 came", used)
				}
				time.Sleep(time.Second)
				if total := counts.total(Month(time.Now())); total != 7 {
					t.Errorf("%d counted of 7", total)
				}
				stop()
				if n := len(counts.ids); n != 1 {
					t.Errorf("%d increments, and there was one", n)
				}
				if c.limit == 0 && counts.reads > 0 {
					t.Errorf("%d reads of a total that has no limit", counts.reads)
				}
			})
		})
	}
}

// A worker that stops does not wait for a server that is away.
func TestAStopWaitsForNoServer(t *testing.T) {
	metered(t, 1000, func(t *testing.T, c *counted, m *Meter, stop func()) {
		c.fail(errors.New("no answer"), false)
		m.Add(7)
		time.Sleep(time.Second)
		began := time.Now()
		stop()
		if d := time.Since(began); d > timeout {
			t.Errorf("stopped after %v", d)
		}
	})
}
