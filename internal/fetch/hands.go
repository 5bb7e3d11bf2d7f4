package fetch

import "sync"

// hands run a worker's turns, each in a goroutine of its own for as long as it
// takes. One that is free takes the next: its stack has grown to what a turn
// needs, and growing a new one for each was a twentieth of the CPU.
type hands struct {
	run  func(*delivery)
	free chan *delivery
	idle chan struct{} // a place for each that may wait for work
	all  sync.WaitGroup
}

// idleHands wait for work at the most. (Answers from the cache wait for nothing
// but the server, so that several hundred are held at once; with 64 every other
// turn grew a new stack.)
const idleHands = 256

func newHands(run func(*delivery)) *hands {
	return &hands{run: run, free: make(chan *delivery), idle: make(chan struct{}, idleHands)}
}

// give has a hand run the turn of a delivery, at once.
func (h *hands) give(d *delivery) {
	select {
	case h.free <- d:
	default:
		h.all.Go(func() { h.work(d) })
	}
}

func (h *hands) work(d *delivery) {
	for open := true; open; {
		h.run(d)
		select {
		case h.idle <- struct{}{}:
		default:
			return
		}
		d, open = <-h.free
		<-h.idle
	}
}

// wait waits until all turns are over. Nothing may be given any more.
func (h *hands) wait() {
	close(h.free)
	h.all.Wait()
}
