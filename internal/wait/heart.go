package wait

import (
	"context"
	"sync"
	"time"
)

// Held is a message in this process's hands.
type Held interface {
	comparable
	// InProgress tells the server that the message is still worked on.
	InProgress() error
}

// Beat is how often the server is told that a message is still held: a third
// of the consumers' AckWait of ten seconds, rounded down.
const Beat = 3 * time.Second

// Heart keeps held messages alive: what the server hears nothing of for the
// consumer's AckWait it gives to another. It is safe for concurrent use.
type Heart[T Held] struct {
	mu   sync.Mutex
	held map[T]struct{}
}

// NewHeart makes a heart that holds nothing; Run makes it beat.
func NewHeart[T Held]() *Heart[T] { return &Heart[T]{held: map[T]struct{}{}} }

// Add begins to keep a message alive.
func (h *Heart[T]) Add(m T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held[m] = struct{}{}
}

// Remove ends it; the message has its end, or goes back.
func (h *Heart[T]) Remove(m T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.held, m)
}

// Run keeps all that is held alive until ctx ends.
func (h *Heart[T]) Run(ctx context.Context) {
	tick := time.NewTicker(Beat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, m := range h.snapshot() {
				// Acknowledged meanwhile, or disconnected: neither needs it.
				_ = m.InProgress()
			}
		}
	}
}

func (h *Heart[T]) snapshot() []T {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]T, 0, len(h.held))
	for m := range h.held {
		all = append(all, m)
	}
	return all
}
