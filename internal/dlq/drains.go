package dlq

import (
	"sync"
	"time"

	"fetchworker/internal/wait"
)

// drains are the providers whose letters wait for a gate or for room, as far
// as this replayer has met them.
type drains struct {
	mu      sync.Mutex
	all     map[string]*drain
	claimed map[uint64]bool // letters that are being released, by sequence
	woken   chan struct{}   // some provider is marked
}

type drain struct {
	place            // where to read on
	idle   bool      // nothing was released since the beginning of the stream
	rest   time.Time // when to look again
	shut   string    // the open circuits that let nothing go the last time; empty: it was something else
	leased time.Time // until when the lease is ours
	again  bool      // marked since it was last read from the beginning; under the lock
	asleep bool      // nothing could go, and nobody has marked it since; under the lock
	roused bool      // a due letter found no room: its rest is over; under the lock
}

func newDrains() *drains {
	return &drains{all: map[string]*drain{}, claimed: map[uint64]bool{}, woken: make(chan struct{}, 1)}
}

// mark says that letters of a provider wait for a gate. If it rests, its rest
// goes on.
func (d *drains) mark(provider string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.marks(provider)
}

// rouse says that a letter of a provider is due and waits for room.
func (d *drains) rouse(provider string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.marks(provider).roused = true
}

func (d *drains) marks(provider string) *drain {
	one := d.all[provider]
	if one == nil {
		one = &drain{place: place{next: 1}, idle: true, asleep: true}
		d.all[provider] = one
	}
	if one.asleep {
		wait.Signal(d.woken)
	}
	one.again, one.asleep = true, false
	return one
}

// marked are the providers to look at.
func (d *drains) marked() map[string]*drain {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string]*drain, len(d.all))
	for provider, one := range d.all {
		if one.asleep {
			continue
		}
		if one.roused {
			one.roused, one.rest = false, time.Time{}
		}
		all[provider] = one
	}
	return all
}

// done lets go of a provider of which nothing could go, unless somebody said
// meanwhile that a letter of it waits.
func (d *drains) done(provider string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if one := d.all[provider]; one != nil {
		one.asleep = !one.again
	}
}

// begins takes note that a provider is read from the beginning.
func (d *drains) begins(one *drain) {
	d.mu.Lock()
	defer d.mu.Unlock()
	one.again = false
}

// claim makes one release of a letter at a time in this process.
func (d *drains) claim(sequence uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.claimed[sequence] {
		return false
	}
	d.claimed[sequence] = true
	return true
}

func (d *drains) unclaim(sequence uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.claimed, sequence)
}
