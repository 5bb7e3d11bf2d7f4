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

// flight is one fetch under way. result is set once done is closed, nil if it
// came to nothing that others could share.
type flight struct {
	done   chan struct{} // made by the first who follows: most fetches are alone
	result *providers.Result
}

func newFlights() *flights { return &flights{flying: map[string]*flight{}} }

// join returns the flight of a key and whether the caller leads it, with one of
// its own that has never flown. A leader must land it.
func (f *flights) join(key string, own *flight) (*flight, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl, ok := f.flying[key]; ok {
		if fl.done == nil {
			fl.done = make(chan struct{})
		}
		return fl, false
	}
	f.flying[key] = own
	return own, true
}

// landed is what a flight came to that is over.
func (f *flights) landed(fl *flight) *providers.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fl.result
}

func (f *flights) land(key string, fl *flight, result *providers.Result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.flying, key)
	if fl.result = result; fl.done != nil {
		close(fl.done)
	}
}
