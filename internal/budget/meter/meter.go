package meter

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"fetchworker/internal/wait"
)

const (
	flushEach   = 100 * time.Millisecond
	refreshEach = time.Second
	askedFor    = 25 * time.Second // how long somebody who asked may ask again
	idleRefresh = time.Minute      // while nobody asks
	// sureFor is how long the counter certainly knows an increment's id again.
	// One whose outcome is still unknown then is given up: bytes counted must
	// never exceed bytes seen.
	sureFor = 90 * time.Second
	// timeout is how long the counter may take before its outcome is unknown.
	timeout = 2 * time.Second
)

// ErrNotCounted says that an increment is certainly not in the counter.
var ErrNotCounted = errors.New("not counted")

// Counter is the fleet's: one a month.
type Counter struct {
	// Add adds n and returns the total. It adds nothing for an id that it
	// knows from less than two minutes ago.
	Add func(ctx context.Context, month string, n int64, id string) (total int64, err error)
	// Read returns the total.
	Read func(ctx context.Context, month string) (total int64, err error)
	// Pass notes that a threshold was passed, and reports whether this is the
	// first of the fleet to note it.
	Pass func(ctx context.Context, month string, percent int) (first bool, err error)
}

// Passed is a threshold that was passed.
type Passed struct {
	Percent     int
	Used, Limit int64 // bytes
	Month       string
	Until       time.Time // when the next month starts
	First       bool      // this worker was the first of the fleet to see it
}

// Meter counts a provider's bytes. It is safe for concurrent use.
type Meter struct {
	counter Counter
	limit   int64
	now     func() time.Time
	tell    func(Passed)
	poke    chan struct{} // there is something to flush, or somebody asked

	mu        sync.Mutex // guards all below
	month     string     // what total counts
	total     int64      // the fleet's, as last seen
	pending   int64      // counted here and not yet in total
	asked     time.Time  // when somebody last wanted to know
	announced int        // thresholds of month that are known to have been announced
}

// New is a meter under a limit of bytes a month; 0: none. now is the server's
// time. tell is told of every threshold that the fleet passes.
func New(c Counter, limit int64, now func() time.Time, tell func(Passed)) *Meter {
	return &Meter{counter: c, limit: limit, now: now, tell: tell, poke: make(chan struct{}, 1)}
}

// Add counts n bytes that came over the wire. What a killed worker had not yet
// flushed, some 100 ms, is not counted.
func (m *Meter) Add(n int64) {
	if n <= 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending += n
	wait.Signal(m.poke)
}

// Used is the fleet's bytes of this month and the month's limit (0: none). What
// others counted is in it after about a second. Whoever asks first after a
// while is told what was known then, and the total is read at once. Without a
// limit nobody looks.
func (m *Meter) Used() (used, limit int64) {
	if m.limit > 0 {
		m.ask()
	}
	return m.Seen()
}

func (m *Meter) ask() {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.asked) > askedFor {
		wait.Signal(m.poke)
	}
	m.asked = now
}

// Seen is Used for those who only show it: it makes nobody look.
func (m *Meter) Seen() (used, limit int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.month != Month(m.now()) {
		return m.pending, m.limit
	}
	return m.total + m.pending, m.limit
}

// Run flushes and refreshes until ctx ends, then flushes once more.
func (m *Meter) Run(ctx context.Context) {
	// Reads and writes outlive ctx, by their own timeout: Close must not lose
	// bytes.
	refresh := time.NewTimer(0)
	defer refresh.Stop()
	if m.limit <= 0 {
		refresh.Stop()
	}
	for {
		select {
		case <-m.poke:
			if m.limit > 0 && m.unflushed() == 0 { // somebody asked
				m.refresh(context.WithoutCancel(ctx))
			} else if wait.For(ctx, flushEach) == nil {
				m.flush(ctx, m.unflushed())
			}
			if m.unflushed() > 0 {
				wait.Signal(m.poke)
			}
		case <-refresh.C:
			m.refresh(context.WithoutCancel(ctx))
		case <-ctx.Done():
			if n := m.unflushed(); n > 0 {
				m.flush(ctx, n)
			}
			return
		}
		if m.limit > 0 {
			refresh.Reset(m.pace())
		}
	}
}

// pace is when to look at the fleet's total again: soon while somebody asks.
func (m *Meter) pace() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.asked) < askedFor {
		return refreshEach
	}
	return idleRefresh
}

func (m *Meter) unflushed() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pending
}

// flush adds n to the counter. It is repeated under one message id until the
// outcome is known: the stream drops what it has already.
func (m *Meter) flush(ctx context.Context, n int64) {
	id := rand.Text()
	mon := Month(m.now())
	began := time.Now()
	for try := 0; ; try++ {
		total, err := m.add(ctx, mon, n, id)
		if err == nil {
			m.counted(n)
			m.learn(ctx, mon, total)
			return
		}
		if time.Since(began) > sureFor || wait.For(ctx, 100*time.Millisecond<<min(try, 4)) != nil {
			if !errors.Is(err, ErrNotCounted) {
				m.counted(n) // it may be in the counter: to add it again could count it twice
			}
			return
		}
	}
}

// counted takes off what is in the counter, or is given up.
func (m *Meter) counted(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending -= n
}

func (m *Meter) add(ctx context.Context, month string, n int64, id string) (int64, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	return m.counter.Add(ctx, month, n, id)
}

// refresh looks at the fleet's total. If it cannot be read the next look tells.
func (m *Meter) refresh(ctx context.Context) {
	reading, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	mon := Month(m.now())
	if total, err := m.counter.Read(reading, mon); err == nil {
		m.learn(ctx, mon, total)
	}
}

// learn takes the fleet's total. Whoever sees it past a threshold creates the
// threshold's key, and the creator announces it: once for the fleet. A crash
// in between leaves the key without its event.
func (m *Meter) learn(ctx context.Context, mon string, total int64) {
	m.mu.Lock()
	if m.month != mon {
		m.month, m.total, m.announced = mon, 0, 0
	}
	m.total = max(m.total, total)
	total, known := m.total, m.announced
	m.mu.Unlock()
	for i := known; i < passed(total, m.limit); i++ {
		first, err := m.counter.Pass(context.WithoutCancel(ctx), mon, thresholds[i])
		if err != nil {
			return // the next look tries again
		}
		m.tell(Passed{
			Percent: thresholds[i], Used: total, Limit: m.limit, Month: mon,
			Until: NextMonth(m.now()), First: first,
		})
		m.mu.Lock()
		m.announced = i + 1
		m.mu.Unlock()
	}
}
