package budget

import (
	"context"
	"errors"
	"time"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/ledger"
)

// clerk writes the register: one write at a time, its outcome booked before
// the next is planned.
func (g *Gate) clerk(ctx context.Context) {
	for {
		var w *write
		select {
		case w = <-g.writes:
		case <-ctx.Done():
			return
		}
		g.store(ctx, w)
	}
}

// writeTimeout is how long a write may take before its outcome counts as
// unknown.
const writeTimeout = 2 * time.Second

// store writes the register once. A crash before the write leaves nothing; a
// crash after it leaves permits that nobody uses, which only slows.
func (g *Gate) store(ctx context.Context, w *write) {
	sent := time.Now()
	rev, err := put(ctx, g.cell, w.reg.Encode(), w.rev)
	took := time.Since(sent)
	g.mu.Lock()
	now := g.clock.now()
	switch {
	case err == nil:
		g.desk.took = (7*g.desk.took + min(took, 100*time.Millisecond)) / 8
		g.desk.won(w, rev, now.at)
		g.announceThrottle(w.before, w.reg, true)
		g.pump(now)
	case errors.Is(err, errStale):
		g.desk.conflict(now.at)
	default:
		g.desk.unknown(w, now.at)
	}
	g.mu.Unlock()
	for try := 0; err != nil; try++ {
		var value []byte
		if value, rev, err = get(ctx, g.cell); err == nil {
			g.mu.Lock()
			g.seePermits(value, rev)
			g.pump(g.clock.now())
			g.mu.Unlock()
		} else if wait(ctx, 10*time.Millisecond<<min(try, 6)) != nil {
			return
		}
	}
}

// put and get are the cell's, with an end: what takes longer is unknown.
func put(ctx context.Context, c cell, value []byte, rev uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return c.put(ctx, value, rev)
}

func get(ctx context.Context, c cell) ([]byte, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return c.get(ctx)
}

// see takes an entry of the watch: what the fleet shares has changed.
func (g *Gate) see(e entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch e.key {
	case permitsKey(g.s.Provider):
		g.seePermits(e.value, e.rev)
	case circuitKey(g.s.Provider):
		c, err := circuit.Decode(e.value)
		if err != nil {
			c = circuit.Record{State: circuit.Closed} // somebody wrote what nobody can read
		}
		g.circuit.learn(c, e.rev)
	case controlKey(g.s.Provider):
		c, err := decodeControl(e.value)
		if err == nil {
			g.seeControl(c)
		}
	}
	g.tick()
}

// seePermits takes a register. One that is gone, or that nobody can read, is
// lost: it counts as full, and is written anew so for the fleet.
func (g *Gate) seePermits(value []byte, rev uint64) {
	now := g.clock.now()
	r, err := ledger.Decode(value)
	if err != nil {
		if g.desk.reg != nil && rev <= g.desk.rev && rev > 0 {
			return
		}
		if !now.ok {
			g.desk.forget()
			return
		}
		g.desk.forget()
		if value == nil {
			rev = 0
		}
		g.desk.learn(ledger.Lost(newEpoch(), g.desk.shapes, now.at), rev)
		g.desk.post(now.at, func(*ledger.Register, ledger.Instant) {})
		return
	}
	before := g.desk.reg
	g.desk.learn(r, rev)
	if before != nil && r.Hold > before.Hold && r.Hold > g.desk.effective(now.at).Hold {
		g.announceThrottle(before, r, false)
	}
}

// disconnected: what is known may be old, and revisions may start anew.
func (g *Gate) disconnected() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.desk.forget()
	g.circuit.forget()
}

// follow puts the local breaker into the state of the record.
func (g *Gate) follow(now time.Time) { g.breaker.Follow(g.circuit.record(), g.s.Worker, now) }
