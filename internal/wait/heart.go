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
	mu     sync.Mutex
	held   map[T]time.Time // when its next beat is due
	busy   bool            // something was held since the last look
	asleep bool            // Run waits for something to hold
	wake   chan struct{}
}

// NewHeart makes a heart that holds nothing; Run makes it beat.
func NewHeart[T Held]() *Heart[T] {
	return &Heart[T]{held: map[T]time.Time{}, wake: make(chan struct{}, 1)}
}

// Add begins to keep a message alive.
func (h *Heart[T]) Add(m T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held[m] = time.Now().Add(Beat)
	if h.busy = true; h.asleep {
		h.asleep = false
		Signal(h.wake)
	}
}

// Remove ends it; the message has its end, or goes back.
func (h *Heart[T]) Remove(m T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.held, m)
}

// Len is how many messages are held.
func (h *Heart[T]) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.held)
}

// look is how often the heart looks for who is due, so that beats are spread
// and not sent in one burst. What is held for a shorter time than a beat,
// which is nearly all, costs none.
const look = Beat / 6

// Run keeps all that is held alive until ctx ends. While nothing is it sleeps.
func (h *Heart[T]) Run(ctx context.Context) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
			tick.Reset(look)
		case now := <-tick.C:
			for _, m := range h.due(now) {
				// Acknowledged meanwhile, or disconnected: neither needs it.
				_ = m.InProgress()
			}
			if h.sleeps() {
				tick.Stop()
			}
		}
	}
}

// sleeps reports whether nothing has been held since the last look; then the next
// Add wakes it.
func (h *Heart[T]) sleeps() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asleep = !h.busy && len(h.held) == 0
	h.busy = len(h.held) > 0
	return h.asleep
}

func (h *Heart[T]) due(now time.Time) []T {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []T
	for m, at := range h.held {
		if !now.Before(at) {
			all = append(all, m)
			h.held[m] = at.Add(Beat)
		}
	}
	return all
}
