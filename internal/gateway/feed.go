package gateway

import (
	"context"
	"sync"

	"fetchworker"
)

const (
	// feedEvents and feedBytes bound what a feed remembers for those who lag.
	feedEvents = 1024
	feedBytes  = 4 << 20
)

// event is an answer as it is sent.
type event struct {
	sequence uint64
	text     []byte
}

// feed is the answers of an agent as they come, written once for all who
// listen. Nobody has a queue of its own: a listener knows its place, and who
// lags behind what is remembered reads the store. It runs while anybody
// listens.
type feed struct {
	client *fetchworker.Client

	mu        sync.Mutex
	listeners int
	round     int // how often it was begun
	events    []event
	bytes     int
	first     int           // the place of events[0]
	newest    uint64        // the highest sequence so far
	changed   chan struct{} // closed when anything below or above changes
	ready     bool
	err       error // why it has ended
	end       context.CancelFunc
	running   sync.WaitGroup
}

func newFeed(client *fetchworker.Client) *feed {
	return &feed{client: client, changed: make(chan struct{})}
}

// join listens from now on: the place where the next event will be, and the
// newest sequence before it. leave must be called.
func (f *feed) join(ctx context.Context) (place int, newest uint64, leave func(), err error) {
	f.mu.Lock()
	if f.listeners++; f.listeners == 1 {
		f.begin()
	}
	f.mu.Unlock()
	leave = sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.listeners--; f.listeners == 0 {
			f.end()
		}
	})
	for {
		f.mu.Lock()
		place, newest, ready, err, changed := f.first+len(f.events), f.newest, f.ready, f.err, f.changed
		f.mu.Unlock()
		if ready || err != nil {
			return place, newest, leave, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, 0, leave, ctx.Err()
		}
	}
}

// begin begins anew.
func (f *feed) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	f.round++
	f.first += len(f.events) + 1 // places of before are behind
	f.events, f.bytes, f.ready, f.err, f.end = nil, 0, false, nil, cancel
	round := f.round
	f.running.Go(func() { f.run(ctx, round) })
}

func (f *feed) run(ctx context.Context, round int) {
	last, err := f.client.LastAnswer(ctx)
	f.change(round, func() { f.newest, f.ready, f.err = last, err == nil, err })
	if err != nil {
		return
	}
	for a, err := range f.client.Answers(ctx, last) {
		if err != nil {
			f.change(round, func() { f.err = err })
			return
		}
		e := eventOf(a)
		f.change(round, func() { f.remember(e) })
	}
}

// change changes what all see, if it is still this round's to change.
func (f *feed) change(round int, do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.round == round {
		do()
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

func (f *feed) remember(e event) {
	f.events = append(f.events, e)
	f.newest = max(f.newest, e.sequence)
	f.bytes += len(e.text)
	for len(f.events) > feedEvents || f.bytes > feedBytes && len(f.events) > 1 {
		f.bytes -= len(f.events[0].text)
		f.events[0] = event{}
		f.events = f.events[1:]
		f.first++
	}
}

// from are the events from a place on; behind: some of them are forgotten.
// Nothing, and no error: changed tells when there is more.
func (f *feed) from(place int) (some []event, behind bool, changed <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if place < f.first {
		return nil, true, f.changed, f.err
	}
	if n := len(f.events) - (place - f.first); n > 0 {
		some = append(some, f.events[place-f.first:][:min(n, 64)]...)
		return some, false, f.changed, nil
	}
	return nil, false, f.changed, f.err
}

// next is the place of the next event.
func (f *feed) next() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.first + len(f.events)
}

// close ends it, and waits for it.
func (f *feed) close() {
	f.mu.Lock()
	end := f.end
	f.mu.Unlock()
	if end != nil {
		end()
	}
	f.running.Wait()
}
