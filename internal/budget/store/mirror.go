package store

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/wait"
)

// Entry is a value of the bucket as it was told; nil where there is none.
type Entry struct {
	Key   string
	Value []byte
	Rev   uint64
	At    time.Time // when it was stored; zero if it never was
}

// Follower is told of the bucket. Its functions are called one after the other,
// and must not wait.
type Follower struct {
	Keys []string    // which it is told of; none: of all
	See  func(Entry) // a value, new or told anew
	Lost func()      // what was seen may be old, and revisions may begin again: all follows anew
	All  func()      // all has been told; may be nil
}

// Mirror is a process's copy of the bucket: one watch, however many follow it.
// It notices that the watch cannot be alive, because the bucket was made anew or
// set back, or the server did not answer for a while, and opens it again.
type Mirror struct {
	conn  *nats.Conn
	kv    jetstream.KeyValue
	keys  []string // none: all
	clock *Clock
	ours  bool // the clock is
	again chan struct{}

	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu        sync.Mutex // guards all below, and is held while followers are told
	entries   map[string]Entry
	whole     bool                   // entries are all that there is
	followers []*Follower            // in the order in which they came
	ofAll     []*Follower            // those of all keys
	ofKey     map[string][]*Follower // those of some keys, by key
	seen      uint64                 // the last revision told
	erased    time.Time              // when the last key that was erased was
	last      looked                 // at the stream; zero: since this watch began nobody has
}

// NewMirror opens a process's copy of the bucket, or of some keys, and returns
// once it is whole. Close ends it. Without a clock it has one of its own.
func NewMirror(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue, clock *Clock, keys ...string) (*Mirror, error) {
	m := &Mirror{conn: js.Conn(), kv: kv, keys: keys, clock: clock, again: make(chan struct{}, 1), entries: map[string]Entry{}, ofKey: map[string][]*Follower{}}
	if m.clock == nil {
		clock, err := StartClock(ctx, js)
		if err != nil {
			return nil, err
		}
		m.clock, m.ours = clock, true
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.cancel = cancel
	ready := make(chan struct{})
	m.tasks.Go(func() { m.run(run, ready) })
	select {
	case <-ready:
		return m, nil
	case <-ctx.Done():
		m.Close()
		return nil, fmt.Errorf("watch %s: %w", Bucket, context.Cause(ctx))
	}
}

// Close ends the watch and waits for it.
func (m *Mirror) Close() {
	m.cancel()
	m.tasks.Wait()
	if m.ours {
		m.clock.Close()
	}
}

// Clock is the clock of the server that stores the bucket.
func (m *Mirror) Clock() *Clock { return m.clock }

// Follow tells f of what there is, and of every change until the function that
// it returns is called.
func (m *Mirror) Follow(f *Follower) (leave func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.followers = append(m.followers, f)
	if len(f.Keys) == 0 {
		m.ofAll = append(m.ofAll, f)
	}
	for _, key := range f.Keys {
		m.ofKey[key] = append(m.ofKey[key], f)
	}
	if m.whole {
		m.tellAll(f)
	} else {
		// The watch is being opened again. What it has told so far it tells nobody
		// twice; the rest is on its way.
		for key, e := range m.entries {
			if len(f.Keys) == 0 || slices.Contains(f.Keys, key) {
				f.See(e)
			}
		}
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		isF := func(g *Follower) bool { return g == f }
		m.followers, m.ofAll = slices.DeleteFunc(m.followers, isF), slices.DeleteFunc(m.ofAll, isF)
		for _, key := range f.Keys {
			m.ofKey[key] = slices.DeleteFunc(m.ofKey[key], isF)
		}
	}
}

// Erased is when the last of the keys went that has gone, as far as the bucket
// remembers.
func (m *Mirror) Erased() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.erased
}

// Reopen opens the watch anew: somebody has seen what it should have told.
func (m *Mirror) Reopen() { wait.Signal(m.again) }

// tellAll tells a follower all that there is, and what there is not.
func (m *Mirror) tellAll(f *Follower) {
	if len(f.Keys) == 0 {
		for _, e := range m.entries {
			f.See(e)
		}
	}
	for _, key := range f.Keys {
		if e, ok := m.entries[key]; ok {
			f.See(e)
		} else {
			f.See(Entry{Key: key})
		}
	}
	if f.All != nil {
		f.All()
	}
}

// run watches until ctx ends. It closes ready when everything has been told once.
func (m *Mirror) run(ctx context.Context, ready chan<- struct{}) {
	status := m.conn.StatusChanged(nats.CONNECTED)
	defer m.conn.RemoveStatusListener(status)
	leave := m.clock.follow(m.look)
	defer leave()
	for try := 0; ctx.Err() == nil; try++ {
		if m.once(ctx, status, ready, wait.ToOpen(try)) {
			try, ready = 0, nil
		}
		m.forget()
		if wait.For(ctx, 50*time.Millisecond<<min(try, 3)) != nil {
			return
		}
	}
}

// forget makes everybody forget: it is told anew.
func (m *Mirror) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.whole = false
	clear(m.entries)
	for _, f := range m.followers {
		f.Lost()
	}
}

// once watches until the connection was away or the watch is not to be trusted
// any more, and reports whether it told all. opens is how long it may take to open.
func (m *Mirror) once(ctx context.Context, status <-chan nats.Status, ready chan<- struct{}, opens time.Duration) bool {
	m.begin()
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	told := make(chan struct{})
	late := time.AfterFunc(opens, cancel)
	stop, leave, err := watch(watching, m.conn, m.keys, m.see, func() {
		m.complete()
		close(told)
	})
	if err != nil {
		return false
	}
	defer func() {
		stop()
		m.tasks.Go(leave)
	}()
	if !late.Stop() {
		return false
	}
	whole := false
	for {
		select {
		case <-told:
			whole, told = true, nil
			if ready != nil {
				close(ready)
			}
		case <-m.again:
			return whole
		case <-status:
			return whole
		case <-ctx.Done():
			return whole
		}
	}
}

// begin forgets what concerned the watch before.
func (m *Mirror) begin() {
	select {
	case <-m.again: // that was about the watch before
	default:
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen, m.last = 0, looked{}
}

// see takes a message of the watch.
func (m *Mirror) see(next Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = max(m.seen, next.Rev)
	if next.Value == nil {
		delete(m.entries, next.Key)
		if next.At.After(m.erased) {
			m.erased = next.At
		}
	} else {
		m.entries[next.Key] = next
	}
	for _, f := range m.ofAll {
		f.See(next)
	}
	for _, f := range m.ofKey[next.Key] {
		f.See(next)
	}
}

// complete tells what there is not: all that there is has been told.
func (m *Mirror) complete() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.whole = true
	for _, f := range m.followers {
		for _, key := range f.Keys {
			if _, ok := m.entries[key]; !ok {
				f.See(Entry{Key: key})
			}
		}
		if f.All != nil {
			f.All()
		}
	}
}

// look compares what the watch has told with what the stream holds. It is told
// that some time after it was so: only what was known at the look before can be
// held against it.
func (m *Mirror) look(s state) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.whole {
		return
	}
	now := time.Now()
	switch before := m.last; {
	case s.silent, !before.made.IsZero() && (!s.made.Equal(before.made) || s.last < before.seen):
		wait.Signal(m.again)
	case before.made.IsZero():
		m.seen = max(m.seen, s.last) // some may have been deleted: they are never told
		m.last = looked{state: s, at: now, seen: m.seen}
	case now.Sub(before.at) < quiet:
	case len(m.keys) == 0 && m.seen < before.last: // stored long ago, and not told
		wait.Signal(m.again)
	default:
		m.last = looked{state: s, at: now, seen: m.seen}
	}
}

// quiet is after how long a watch that has not told what is stored is dead.
const quiet = 2 * time.Second

// looked is a look at the stream, and what the watch had told by then.
type looked struct {
	state
	at   time.Time
	seen uint64
}
