package fetch

import (
	"fmt"
	"time"

	"fetchworker/internal/intake"
)

// Left is what a worker still holds that has nothing to do: it must be nothing.
func (w *Worker) Left() (left []string) {
	note := func(n int, what string) {
		if n != 0 {
			left = append(left, fmt.Sprintf("%d %s", n, what))
		}
	}
	w.flights.mu.Lock()
	note(len(w.flights.flying), "calls that others could join")
	w.flights.mu.Unlock()
	w.cancels.mu.Lock()
	note(len(w.cancels.waiting), "requests that wait")
	w.cancels.mu.Unlock()
	if w.inside.TryAcquire(everyone) {
		w.inside.Release(everyone)
	} else {
		left = append(left, "shares of the process")
	}
	if w.parks.TryAcquire(parksAtOnce) {
		w.parks.Release(parksAtOnce)
	} else {
		left = append(left, "places of those that park")
	}
	for _, s := range w.intake.Shards {
		note(s.Held(), "messages of "+s.Consumer)
	}
	w.stores.mu.Lock()
	for name, f := range w.stores.full {
		note(f.waiting, "writes that wait for "+name)
	}
	w.stores.mu.Unlock()
	return left
}

// Shards are those that the worker pulls from.
func (w *Worker) Shards() []*intake.Shard { return w.intake.Shards }

// Restarted has the worker believe that its server was started again just now.
func (w *Worker) Restarted() {
	w.restarts.mu.Lock()
	defer w.restarts.mu.Unlock()
	w.restarts.last = time.Now()
}
