package fetch

import (
	"sync"

	"fetchworker/internal/providers"
)

// flights joins identical fetches that are under way in this worker, so that
// they share one call.
type flights struct {
	mu     sync.Mutex
	flying map[string]*flight
}

// flight is one fetch under way. result is set when done is closed, nil if it
// came to nothing that others could share.
type flight struct {
	done   chan struct{}
	result *providers.Result
}

func newFlights() *flights { return &flights{flying: map[string]*flight{}} }

// join returns the flight of a key and whether the caller leads it. A leader
// must land it.
func (f *flights) join(key string) (*flight, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl, ok := f.flying[key]; ok {
		return fl, false
	}
	fl := &flight{done: make(chan struct{})}
	f.flying[key] = fl
	return fl, true
}

func (f *flights) land(key string, fl *flight, result *providers.Result) {
	f.mu.Lock()
	delete(f.flying, key)
	f.mu.Unlock()
	fl.result = result
	close(fl.done)
}
