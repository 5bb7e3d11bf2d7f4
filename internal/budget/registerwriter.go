package budget

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/wait"
)

// writeRegister stores what the planner asks for: one write at a time, its
// outcome booked before the next is planned. When the gate closes it stores
// what this worker has still to say.
func (g *Gate) writeRegister(ctx context.Context) {
	for {
		var w *turns.Write
		select {
		case w = <-g.writes:
		case <-ctx.Done():
			g.lastWrite(context.WithoutCancel(ctx))
			return
		}
		if !g.store(ctx, w) {
			g.reread(ctx)
		}
	}
}

// lastWrites bounds the tries of the last write: a worker that stops does not
// wait for a server that is away.
const lastWrites = 5

// lastWrite hands in what a worker that stops would take with it: the last
// 429's hold, permits it has not used.
func (g *Gate) lastWrite(ctx context.Context) {
	select {
	case <-g.writes: // planned, and not begun
		g.mu.Lock()
		g.planner.GiveUp()
		g.mu.Unlock()
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, store.WriteTimeout)
	defer cancel()
	for range lastWrites {
		g.mu.Lock()
		w := g.planner.Last(g.clock.Read().At)
		g.mu.Unlock()
		if w == nil || g.store(ctx, w) || ctx.Err() != nil {
			return
		}
		if value, rev, err := store.Get(ctx, g.cell); err == nil {
			g.mu.Lock()
			g.seePermits(value, rev)
			g.mu.Unlock()
		}
	}
}

// store writes the register once, and reports whether it was stored. A crash
// before the write leaves nothing; a crash after it leaves permits that nobody
// uses, which only slows.
func (g *Gate) store(ctx context.Context, w *turns.Write) bool {
	sent := time.Now()
	// A write that has begun is not broken off: its outcome would be unknown.
	rev, err := store.Put(context.WithoutCancel(ctx), g.cell, w.Reg.Encode(), w.Rev)
	took := time.Since(sent)
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.Read()
	switch {
	case err == nil:
		g.planner.Stored(took)
		g.planner.Won(w, rev, now.At)
		g.announceThrottle(w.Before, w.Reg, true)
		g.announceForeign(w)
		if !g.shut {
			g.pump(now)
		}
	case errors.Is(err, store.ErrStale):
		g.planner.Conflict(now.At)
	default:
		g.planner.Unknown(w, now.At)
	}
	return err == nil
}

// reread reads the register after a write that was refused, or that nobody
// knows the outcome of.
func (g *Gate) reread(ctx context.Context) {
	for try := 0; ; try++ {
		value, rev, err := store.Get(ctx, g.cell)
		if err == nil {
			g.mu.Lock()
			if _, known := g.planner.Known(); rev < known {
				// The watch told of a later one: the bucket was made anew, or set
				// back. (Or a server that is behind answered; then it is told again.)
				g.mirror.Reopen()
			}
			g.seePermits(value, rev)
			g.pump(g.clock.Read())
			g.mu.Unlock()
			return
		}
		if wait.For(ctx, 10*time.Millisecond<<min(try, 6)) != nil {
			return
		}
	}
}

// see takes an entry of the watch: what the fleet shares has changed.
func (g *Gate) see(e store.Entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch e.Key {
	case store.PermitsKey(g.s.Provider):
		if g.s.Quota != "" {
			g.seeHome(e)
		} else {
			g.seePermits(e.Value, e.Rev)
		}
	case store.QuotaKey(g.s.Quota):
		g.seePermits(e.Value, e.Rev)
	case store.CircuitKey(g.s.Provider):
		if r, err := circuit.Decode(e.Value); err == nil {
			g.circuit.learn(r, e.Rev)
		} else {
			g.circuit.unreadable(e.Rev)
		}
	case store.ControlKey(g.s.Provider):
		c, err := fleet.DecodeControl(e.Value)
		if err == nil {
			g.seeControl(c)
		}
	}
	g.tick()
}

// seePermits takes a register. One that is gone, or that nobody can read, is
// lost: it counts as full, and is written anew so for the fleet. One that only
// newer workers can read is theirs: there are no permits here, and it is left
// alone.
func (g *Gate) seePermits(value []byte, rev uint64) {
	now := g.clock.Read()
	r, err := ledger.Decode(value)
	var elsewhere *ledger.MovedError
	if errors.As(err, &elsewhere) || g.s.Quota != "" && !errors.Is(err, ledger.ErrNewer) && (err != nil || !r.Has(g.s.Provider)) {
		g.planner.Forget()
		wait.Signal(g.astray)
		return
	}
	g.newer(err)
	switch {
	case errors.Is(err, ledger.ErrNewer):
		g.planner.Forget()
	case err != nil:
		if known, at := g.planner.Known(); known != nil && rev <= at && rev > 0 {
			return
		}
		if !now.OK {
			g.planner.Forget()
			g.untimed = true
			return
		}
		if value == nil {
			rev = 0
		}
		g.planner.Lost(rev, now.At)
	default:
		before, _ := g.planner.Known()
		g.planner.Learn(r, rev)
		if before != nil && r.Hold > before.Hold && r.Hold > g.planner.Effective(now.At).Hold {
			g.announceThrottle(before, r, false)
		}
	}
}

// disconnected: what is known may be old, and revisions may start anew.
func (g *Gate) disconnected() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.planner.Forget()
	g.circuit.forget()
}

// CreateRegister creates a provider's empty register. Call it when the
// provider's consumers are first created, and only then: a register that is
// missing while they exist has been lost and counts as full.
func CreateRegister(ctx context.Context, kv jetstream.KeyValue, provider string) error {
	_, err := kv.Create(ctx, store.PermitsKey(provider), ledger.New(newEpoch()).Encode())
	if err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("create the permits register of %s: %w", provider, err)
	}
	return nil
}

// follow takes the record's state, and lets those look again who wait for a
// turn of theirs.
func (g *Gate) follow(now time.Time) {
	g.record = g.circuit.record()
	g.held = g.s.CircuitFailures > 0 && g.record.AnyHeld()
	g.breaker.Follow(g.record, g.s.Worker, now)
	g.nextTurn()
}
