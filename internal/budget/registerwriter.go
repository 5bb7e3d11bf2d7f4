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
// outcome booked before the next is planned.
func (g *Gate) writeRegister(ctx context.Context) {
	for {
		var w *turns.Write
		select {
		case w = <-g.writes:
		case <-ctx.Done():
			return
		}
		g.store(ctx, w)
	}
}

// store writes the register once. A crash before the write leaves nothing; a
// crash after it leaves permits that nobody uses, which only slows.
func (g *Gate) store(ctx context.Context, w *turns.Write) {
	sent := time.Now()
	rev, err := store.Put(ctx, g.cell, w.Reg.Encode(), w.Rev)
	took := time.Since(sent)
	g.mu.Lock()
	now := g.clock.Read()
	switch {
	case err == nil:
		g.planner.Stored(took)
		g.planner.Won(w, rev, now.At)
		g.announceThrottle(w.Before, w.Reg, true)
		g.pump(now)
	case errors.Is(err, store.ErrStale):
		g.planner.Conflict(now.At)
	default:
		g.planner.Unknown(w, now.At)
	}
	g.mu.Unlock()
	for try := 0; err != nil; try++ {
		var value []byte
		if value, rev, err = store.Get(ctx, g.cell); err == nil {
			g.mu.Lock()
			g.seePermits(value, rev)
			g.pump(g.clock.Read())
			g.mu.Unlock()
		} else if wait.For(ctx, 10*time.Millisecond<<min(try, 6)) != nil {
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
		g.seePermits(e.Value, e.Rev)
	case store.CircuitKey(g.s.Provider):
		c, err := circuit.Decode(e.Value)
		if err != nil {
			c = circuit.Record{State: circuit.Closed} // somebody wrote what nobody can read
		}
		g.circuit.learn(c, e.Rev)
	case store.ControlKey(g.s.Provider):
		c, err := fleet.DecodeControl(e.Value)
		if err == nil {
			g.seeControl(c)
		}
	}
	g.tick()
}

// seePermits takes a register. One that is gone, or that nobody can read, is
// lost: it counts as full, and is written anew so for the fleet.
func (g *Gate) seePermits(value []byte, rev uint64) {
	now := g.clock.Read()
	r, err := ledger.Decode(value)
	if err != nil {
		if known, at := g.planner.Known(); known != nil && rev <= at && rev > 0 {
			return
		}
		if !now.Ok {
			g.planner.Forget()
			return
		}
		if value == nil {
			rev = 0
		}
		g.planner.Lost(newEpoch(), rev, now.At)
		return
	}
	before, _ := g.planner.Known()
	g.planner.Learn(r, rev)
	if before != nil && r.Hold > before.Hold && r.Hold > g.planner.Effective(now.At).Hold {
		g.announceThrottle(before, r, false)
	}
}

// disconnected: what is known may be old, and revisions may start anew.
func (g *Gate) disconnected() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.planner.Forget()
	g.circuit.forget()
}

// follow puts the local breaker into the state of the record.
func (g *Gate) follow(now time.Time) { g.breaker.Follow(g.circuit.record(), g.s.Worker, now) }

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
