package store

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/wait"
)

// How the server's time is estimated.
const (
	samples    = 5
	SampleEach = 5 * time.Second
	idleEach   = 15 * time.Second // while nobody needs the time
	idleAfter  = 30 * time.Second
	retryEach  = 500 * time.Millisecond
	// sampleTimeout is after how long a sample tells nothing any more.
	sampleTimeout = 2 * time.Second
	driftPPM      = 200                    // of two clocks, at most
	wallJump      = 100 * time.Millisecond // wall and monotonic time part by more: the machine slept
)

// Clock estimates the time of the JetStream server, the one clock that a
// fleet shares: workers' own differ by enough to break every limit.
type Clock struct {
	probe  func(context.Context) (time.Time, error)
	cancel context.CancelFunc
	done   chan struct{}
	poke   chan struct{} // sample now

	mu    sync.Mutex // guards all below, for nanoseconds
	est   Estimate
	best  Sample    // the surest of them, which stays so as they all grow older
	wall  int64     // wall time at mono, to see a machine that slept
	mono  time.Time //
	wakes int       // how often the machine slept: everything known before is void

	needed    time.Time // when somebody last needed the time
	silent    bool      // the last sample had no answer
	follower  int
	followers map[int]func(state)
}

// Sample is one look at the server's clock.
type Sample struct {
	At     time.Time      // the middle of the round trip, monotonic
	Server ledger.Instant // the server's time then
	RTT    time.Duration  // of the round trip
}

// read is the server's time by this sample, and how wrong it may be.
func (s Sample) read(now time.Time) (ledger.Instant, time.Duration) {
	age := now.Sub(s.At)
	return s.Server.Add(age), s.RTT/2 + age*driftPPM/1_000_000
}

// Estimate is the last few samples.
type Estimate []Sample

// Read is the server's time by the surest of the samples.
func (e Estimate) Read(now time.Time) (t ledger.Instant, u time.Duration, ok bool) {
	if len(e) == 0 {
		return 0, 0, false
	}
	t, u = e.surest(now).read(now)
	return t, u, true
}

func (e Estimate) surest(now time.Time) (best Sample) {
	least := time.Duration(math.MaxInt64)
	for _, s := range e {
		if _, u := s.read(now); u < least {
			best, least = s, u
		}
	}
	return best
}

// Add takes a sample. One that contradicts those before is of another clock
// (a new leader's): they are forgotten.
func (e Estimate) Add(s Sample) Estimate {
	if t, u, ok := e.Read(s.At); ok {
		if d := t.Sub(s.Server); max(d, -d) > u+s.RTT/2 {
			e = e[:0]
		}
	}
	if len(e) == samples {
		e = append(e[:0], e[1:]...)
	}
	return append(e, s)
}

// state is what a look at the server's clock tells of the bucket besides.
type state struct {
	made   time.Time // when the bucket was made
	last   uint64    // its last revision
	silent bool      // the server had not answered for a while
}

// StartClock takes a first sample and keeps the estimate fresh until Close.
// All of a process share it.
func StartClock(ctx context.Context, js jetstream.JetStream) (*Clock, error) {
	stream, err := js.Stream(ctx, "KV_"+Bucket)
	if err != nil {
		return nil, fmt.Errorf("the server's time: %w", err)
	}
	var c *Clock
	c = NewClock(func(ctx context.Context) (time.Time, error) {
		info, err := stream.Info(ctx)
		if err != nil {
			return time.Time{}, fmt.Errorf("the server's time: %w", err)
		}
		c.tell(state{made: info.Created, last: info.State.LastSeq})
		return info.TimeStamp, nil
	})
	for range samples {
		if err := c.Sample(ctx); err != nil {
			return nil, err
		}
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel, c.done = cancel, make(chan struct{})
	go c.run(run)
	return c, nil
}

// NewClock is a clock that asks probe for the server's time whenever Sample is
// called.
func NewClock(probe func(context.Context) (time.Time, error)) *Clock {
	c := &Clock{probe: probe, poke: make(chan struct{}, 1)}
	c.mono = time.Now()
	c.wall = c.mono.UnixNano()
	return c
}

// Close stops sampling and waits for it.
func (c *Clock) Close() {
	c.cancel()
	<-c.done
}

func (c *Clock) run(ctx context.Context) {
	defer close(c.done)
	timer := time.NewTimer(SampleEach)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-c.poke:
		case <-ctx.Done():
			return
		}
		// Without an answer the estimate grows older, and less sure of itself.
		sampling, cancel := context.WithTimeout(ctx, sampleTimeout)
		err := c.Sample(sampling)
		cancel()
		timer.Reset(c.pace(err))
	}
}

// pace is when to take the next sample: seldom while nobody needs the time,
// and soon if the server did not answer.
func (c *Clock) pace(err error) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		return retryEach
	case time.Since(c.needed) > idleAfter:
		return idleEach
	}
	return SampleEach
}

// Need says that the time is needed: it is looked at more often for a while.
func (c *Clock) Need() {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.needed) > idleAfter {
		wait.Signal(c.poke)
	}
	c.needed = now
}

// follow tells see of the bucket with every sample.
func (c *Clock) follow(see func(state)) (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.follower++
	id := c.follower
	if c.followers == nil {
		c.followers = map[int]func(state){}
	}
	c.followers[id] = see
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.followers, id)
	}
}

func (c *Clock) tell(s state) {
	c.mu.Lock()
	s.silent = c.silent
	c.silent = false
	followers := slices.Collect(maps.Values(c.followers))
	c.mu.Unlock()
	for _, see := range followers {
		see(s)
	}
}

// Sample takes a look at the server's clock.
func (c *Clock) Sample(ctx context.Context) error {
	sent := time.Now()
	server, err := c.probe(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.silent = ctx.Err() != nil // it did not say no
		return err
	}
	rtt := time.Since(sent)
	c.slept(time.Now())
	c.est = c.est.Add(Sample{At: sent.Add(rtt / 2), Server: ledger.InstantOf(server), RTT: rtt})
	c.best = c.est.surest(time.Now())
	return nil
}

// slept notices that wall and monotonic time part: the machine was suspended
// (or its clock set), and monotonic time cannot be trusted to have gone on.
func (c *Clock) slept(now time.Time) {
	d := time.Duration(now.UnixNano()-c.wall) - now.Sub(c.mono)
	if max(d, -d) > wallJump {
		c.est = c.est[:0]
		c.wakes++
		wait.Signal(c.poke)
	}
	c.wall, c.mono = now.UnixNano(), now
}

// Reading is a look at the server's time.
type Reading struct {
	At    ledger.Instant
	U     time.Duration // how wrong it may be
	Wakes int           // how often the machine slept: permits of before are void
	OK    bool          // false while nothing is known
}

// Time is the server's time that was read, wrong by U at most.
func (r Reading) Time() time.Time { return r.At.Time() }

// Read reads the server's time. While nothing is known, the machine's stands
// in where it decides nothing.
func (c *Clock) Read() Reading {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slept(now)
	r := Reading{Wakes: c.wakes, OK: len(c.est) > 0}
	if r.OK {
		r.At, r.U = c.best.read(now)
	} else {
		r.At = ledger.InstantOf(now)
	}
	return r
}

// Now is the server's time, or the machine's while that is not known.
func (c *Clock) Now() time.Time { return c.Read().Time() }
