package budget

import (
	"context"
	"errors"
	"sync"
	"time"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/wait"
)

// circuitSync holds a copy of the circuit's record and carries this worker's
// changes into it. A change holds here at once, before it is stored: that is
// the fast local breaker; the record is the fleet's.
type circuitSync struct {
	cell   store.Cell
	worker string
	told   func(before, after circuit.Record, mine bool) // a change of state; holding no lock of the gate's
	moved  func()                                        // the record changed: the gate should look
	behind func()                                        // the watch told of later revisions than there are
	poke   chan struct{}

	mu    sync.Mutex     // guards all below
	base  circuit.Record // as last seen
	calm  bool           // it has no evidence: no success is news to it
	rev   uint64
	newer bool // what is stored cannot be read, and must not be replaced: changes stay with us
	ops   []*circuitChange
}

// circuitChange is a change on its way into the record. Changes are made to
// be repeated: one whose outcome is unknown changes nothing the second time.
type circuitChange struct {
	apply func(circuit.Record) circuit.Record
	done  chan struct{} // closed when it is in the record, or changes nothing
}

func newCircuitSync(c store.Cell, worker string, told func(before, after circuit.Record, mine bool), moved, behind func()) *circuitSync {
	return &circuitSync{cell: c, worker: worker, told: told, moved: moved, behind: behind, poke: make(chan struct{}, 1), base: circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}}, calm: true}
}

// record is the record with our changes in it.
func (s *circuitSync) record() circuit.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.effective()
}

// awaits reports whether a success of the call is news.
func (s *circuitSync) awaits(c circuit.Call) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calm && len(s.ops) == 0 { // as it is nearly always
		return false
	}
	return s.effective().Awaits(c)
}

func (s *circuitSync) effective() circuit.Record {
	c := s.base
	for _, op := range s.ops {
		c = op.apply(c)
	}
	return c
}

// mostChanges bounds what waits while the record cannot be written. What is
// beyond it is what calls of long after the first failures came to.
const mostChanges = 256

// post puts a change on its way, unless too many are.
func (s *circuitSync) post(apply func(circuit.Record) circuit.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ops) < mostChanges {
		s.add(apply)
	}
}

func (s *circuitSync) add(apply func(circuit.Record) circuit.Record) *circuitChange {
	op := &circuitChange{apply: apply, done: make(chan struct{})}
	s.ops = append(s.ops, op)
	wait.Signal(s.poke)
	return op
}

// do puts a change on its way, and waits until it is stored.
func (s *circuitSync) do(ctx context.Context, apply func(circuit.Record) circuit.Record) error {
	s.mu.Lock()
	op := s.add(apply)
	s.mu.Unlock()
	select {
	case <-op.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// learn takes a newer record.
func (s *circuitSync) learn(c circuit.Record, rev uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev <= s.rev {
		return
	}
	before := s.base
	s.base, s.calm, s.rev, s.newer = c, c.Calm(), rev, false
	if c.Writer != s.worker {
		s.told(before, c, false)
	}
}

// unreadable notes that what is stored is of a later version. Circuits are
// this worker's own then, and nothing is written until it can be read again.
func (s *circuitSync) unreadable(rev uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev > s.rev {
		s.rev, s.newer = rev, true
	}
}

// forget makes it take whatever it sees next: after a reconnect
// revisions may have started anew.
func (s *circuitSync) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rev = 0
}

// run stores changes until ctx ends, and then those that are left, if that takes
// no longer than a write may: a worker's last failure does not go with it.
func (s *circuitSync) run(ctx context.Context) {
	s.carry(ctx)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), store.WriteTimeout)
	defer cancel()
	for try := 0; try < lastWrites && last.Err() == nil && !s.store(last); try++ {
	}
}

func (s *circuitSync) carry(ctx context.Context) {
	for {
		select {
		case <-s.poke:
		case <-ctx.Done():
			return
		}
		for try := 0; !s.store(ctx); try++ {
			if wait.For(ctx, wait.Jitter(0, 2*time.Millisecond<<min(try, 9))) != nil {
				return
			}
		}
	}
}

// store writes what is on its way, and reports whether nothing is left.
func (s *circuitSync) store(ctx context.Context) bool {
	s.mu.Lock()
	before, rev, ops := s.base, s.rev, s.ops
	after := s.effective()
	alone := s.newer
	s.mu.Unlock()
	if len(ops) == 0 {
		return true
	}
	if alone {
		s.finish(ops, after, rev)
		s.told(before, after, true)
		s.moved()
		return false
	}
	if after.Equal(before) {
		s.finish(ops, before, rev)
		return true
	}
	after.Writer = s.worker
	value, err := after.Encode()
	if err != nil { // cannot be: it is all strings and times
		return true
	}
	// What has begun is not broken off: its outcome would be unknown.
	next, err := store.Put(context.WithoutCancel(ctx), s.cell, value, rev)
	if err == nil {
		s.finish(ops, after, next)
		s.told(before, after, true)
		s.moved()
		return false // look again: more may have come
	}
	// Another was faster, or nobody knows. Read what there is now, and apply
	// the changes to that.
	known := rev
	seen, rev, rerr := store.Get(ctx, s.cell)
	if rerr != nil {
		return false
	}
	if rev < known {
		s.behind()
	}
	c, derr := circuit.Decode(seen)
	if derr != nil {
		s.unreadable(rev)
		return false
	}
	if !errors.Is(err, store.ErrStale) && c.Equal(after) && c.Writer == s.worker {
		s.told(before, after, true) // ours was stored after all
	}
	s.learn(c, rev)
	s.moved()
	return false
}

// finish takes changes off their way that are in a record now.
func (s *circuitSync) finish(ops []*circuitChange, in circuit.Record, rev uint64) {
	s.mu.Lock()
	s.ops = s.ops[len(ops):]
	if rev >= s.rev {
		s.base, s.calm, s.rev = in, in.Calm(), rev
	}
	s.mu.Unlock()
	for _, op := range ops {
		close(op.done)
	}
}
