package budget

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
)

// running opens a gate against a real server on real time.
func running(b *testing.B, edit func(*Settings)) *Gate {
	b.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: b.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		b.Fatal(err)
	}
	s.Start()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		b.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	kv := topology(b, js)
	if err := CreateRegister(b.Context(), kv, "fmp"); err != nil {
		b.Fatal(err)
	}
	settings := Settings{Provider: "fmp", Worker: "w", CircuitFailures: 3}
	edit(&settings)
	g, err := Open(b.Context(), js, kv, settings, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		g.Close()
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
	})
	return g
}

// BenchmarkCircuitClosed is all that is asked before a request may wait: the
// pause and the circuit.
func BenchmarkCircuitClosed(b *testing.B) {
	g := running(b, func(*Settings) {})
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.Read()
	b.ReportAllocs()
	for b.Loop() {
		if g.refused(now) != nil {
			b.Fatal("open")
		}
	}
}

// BenchmarkPermitInHand is Acquire, Start and Done with a permit in hand.
func BenchmarkPermitInHand(b *testing.B) {
	g := running(b, func(s *Settings) { s.Limits = ledger.Limits{{N: 1 << 20, Per: time.Minute}} })
	for range 100 { // until the register is known
		p, err := g.Acquire(b.Context(), turns.Ask{})
		if err != nil {
			b.Fatal(err)
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
	}
	now := g.clock.Read().At
	g.mu.Lock()
	endless(g, now)
	g.mu.Unlock()
	ctx := b.Context()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		p, err := g.Acquire(ctx, turns.Ask{})
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Start(); err != nil {
			b.Fatal(err)
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
	}
}

// endless puts more permits into a gate's hands than anybody can use.
func endless(g *Gate, now ledger.Instant) {
	r, rev := g.planner.Known()
	g.planner.Won(&turns.Write{Reg: r, Blocks: []ledger.Block{{
		From: now.Add(-time.Second), Until: now.Add(time.Hour), N: 1 << 40, Epoch: r.Epoch,
	}}}, rev, now)
}

// BenchmarkAcquireInHand is Acquire alone.
func BenchmarkAcquireInHand(b *testing.B) {
	g := running(b, func(s *Settings) { s.Limits, s.Concurrency = ledger.Limits{{N: 1 << 20, Per: time.Minute}}, 1<<30 })
	p, err := g.Acquire(b.Context(), turns.Ask{})
	if err != nil {
		b.Fatal(err)
	}
	p.Done(Report{Outcome: Success, Remaining: -1})
	now := g.clock.Read().At
	g.mu.Lock()
	endless(g, now)
	g.mu.Unlock()
	ctx := b.Context()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := g.Acquire(ctx, turns.Ask{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPermitUnlimited is the same without any limit.
func BenchmarkPermitUnlimited(b *testing.B) {
	g := running(b, func(*Settings) {})
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		p, err := g.Acquire(ctx, turns.Ask{})
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Start(); err != nil {
			b.Fatal(err)
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
	}
}
