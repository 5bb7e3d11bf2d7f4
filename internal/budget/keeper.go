package budget

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"
)

// keeper holds a copy of the circuit's record and carries this worker's
// changes into it. A change holds here at once, before it is stored: that is
// the fast local breaker; the record is the fleet's.
type keeper struct {
	cell   cell
	worker string
	told   func(before, after Circuit, mine bool) // a change of state; holding no lock of the gate's
	moved  func()                                 // the record changed: the gate should look
	poke   chan struct{}

	mu   sync.Mutex // guards all below
	base Circuit    // as last seen
	rev  uint64
	ops  []*circuitChange
}

// circuitChange is a change on its way into the record. Changes are made to
// be repeated: one whose outcome is unknown changes nothing the second time.
type circuitChange struct {
	apply func(Circuit) Circuit
	done  chan struct{} // closed when it is in the record, or changes nothing
}

func newKeeper(c cell, worker string, told func(before, after Circuit, mine bool), moved func()) *keeper {
	return &keeper{cell: c, worker: worker, told: told, moved: moved, poke: make(chan struct{}, 1), base: Circuit{State: CircuitClosed}}
}

// circuit is the record with our changes in it.
func (k *keeper) circuit() Circuit {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.effective()
}

// inRow reports whether there are failures that a success would end.
func (k *keeper) inRow() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.ops) > 0 || len(k.base.Row) > 0
}

func (k *keeper) effective() Circuit {
	c := k.base
	for _, op := range k.ops {
		c = op.apply(c)
	}
	return c
}

// post puts a change on its way.
func (k *keeper) post(apply func(Circuit) Circuit) *circuitChange {
	op := &circuitChange{apply: apply, done: make(chan struct{})}
	k.mu.Lock()
	k.ops = append(k.ops, op)
	k.mu.Unlock()
	signal(k.poke)
	return op
}

// do is post, and waits until the change is stored.
func (k *keeper) do(ctx context.Context, apply func(Circuit) Circuit) error {
	op := k.post(apply)
	select {
	case <-op.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// learn takes a newer record.
func (k *keeper) learn(c Circuit, rev uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if rev <= k.rev {
		return
	}
	before := k.base
	k.base, k.rev = c, rev
	if before.State != c.State && c.Writer != k.worker {
		k.told(before, c, false)
	}
}

// forget makes the keeper take whatever it sees next: after a reconnect
// revisions may have started anew.
func (k *keeper) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rev = 0
}

// run stores changes until ctx ends.
func (k *keeper) run(ctx context.Context) {
	for {
		select {
		case <-k.poke:
		case <-ctx.Done():
			return
		}
		for try := 0; !k.store(ctx); try++ {
			if wait(ctx, upTo(2*time.Millisecond<<min(try, 9))) != nil {
				return
			}
		}
	}
}

// store writes what is on its way, and reports whether nothing is left.
func (k *keeper) store(ctx context.Context) bool {
	k.mu.Lock()
	before, rev, ops := k.base, k.rev, k.ops
	after := k.effective()
	k.mu.Unlock()
	if len(ops) == 0 {
		return true
	}
	if after.equal(before) {
		k.finish(ops)
		return true
	}
	after.Writer = k.worker
	value, err := json.Marshal(after)
	if err != nil { // cannot be: it is all strings and times
		return true
	}
	next, err := put(ctx, k.cell, value, rev)
	if err == nil {
		k.mu.Lock()
		if next > k.rev {
			k.base, k.rev = after, next
		}
		k.mu.Unlock()
		k.finish(ops)
		if before.State != after.State {
			k.told(before, after, true)
		}
		k.moved()
		return false // look again: more may have come
	}
	// Another was faster, or nobody knows. Read what there is now, and apply
	// the changes to that.
	seen, rev, rerr := get(ctx, k.cell)
	if rerr != nil {
		return false
	}
	c, derr := decodeCircuit(seen)
	if derr != nil {
		c = Circuit{State: CircuitClosed}
	}
	if !errors.Is(err, errStale) && c.equal(after) && c.Writer == k.worker && before.State != after.State {
		k.told(before, after, true) // ours was stored after all
	}
	k.learn(c, rev)
	k.moved()
	return false
}

func (k *keeper) finish(ops []*circuitChange) {
	k.mu.Lock()
	k.ops = k.ops[len(ops):]
	k.mu.Unlock()
	for _, op := range ops {
		close(op.done)
	}
}
