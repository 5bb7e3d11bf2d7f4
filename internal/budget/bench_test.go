package budget

import (
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
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
	now := g.clock.now()
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
		p, err := g.Acquire(b.Context(), Ask{})
		if err != nil {
			b.Fatal(err)
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
	}
	now := g.clock.now().at
	g.mu.Lock()
	g.desk.hand = append(g.desk.hand[:0], hand{Block: ledger.Block{From: now.Add(-time.Second), Until: now.Add(time.Hour), N: 1 << 40, Epoch: g.desk.reg.Epoch}})
	g.mu.Unlock()
	ctx := b.Context()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		p, err := g.Acquire(ctx, Ask{})
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Start(); err != nil {
			b.Fatal(err)
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
	}
}

// BenchmarkAcquireInHand is Acquire alone.
func BenchmarkAcquireInHand(b *testing.B) {
	g := running(b, func(s *Settings) { s.Limits, s.Concurrency = ledger.Limits{{N: 1 << 20, Per: time.Minute}}, 1<<30 })
	p, err := g.Acquire(b.Context(), Ask{})
	if err != nil {
		b.Fatal(err)
	}
	p.Done(Report{Outcome: Success, Remaining: -1})
	now := g.clock.now().at
	g.mu.Lock()
	g.desk.hand = append(g.desk.hand[:0], hand{Block: ledger.Block{From: now.Add(-time.Second), Until: now.Add(time.Hour), N: 1 << 40, Epoch: g.desk.reg.Epoch}})
	g.mu.Unlock()
	ctx := b.Context()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := g.Acquire(ctx, Ask{}); err != nil {
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
		p, err := g.Acquire(ctx, Ask{})
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Start(); err != nil {
			b.Fatal(err)
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
	}
}
