package budget

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/wait"
)

// Board is a read-only view over all that the fleet shares, for those who
// call no provider: the replayer, the status. It is safe for concurrent use.
type Board struct {
	cancel context.CancelFunc
	done   chan struct{}
	change chan struct{}

	mu        sync.Mutex // guards all below
	providers map[string]*boardEntry
	workers   map[string]Worker
	lost      map[string]time.Time // since when a provider has no worker
	since     time.Time            // since when the board looks
	told      map[string]bool      // keys that the watch has told of since it began
}

type boardEntry struct {
	circuit  circuit.Record
	control  Control
	register *ledger.Register
}

// View is what the board knows of one provider.
type View struct {
	Provider    string
	Circuit     circuit.Record
	ProbeLeased bool // somebody probes
	PausedUntil time.Time
	HoldUntil   time.Time // a 429's hold
	Control     Control
	Windows     []ledger.Usage
	Workers     []Worker  // that live and serve it
	NoneSince   time.Time // since when there are none; zero while there are some
}

// Watch opens a board and returns once it has seen everything. It watches
// until Close.
func Watch(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue) (*Board, error) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b := &Board{
		cancel: cancel, done: make(chan struct{}), change: make(chan struct{}, 1),
		providers: map[string]*boardEntry{}, workers: map[string]Worker{}, lost: map[string]time.Time{},
		since: time.Now(), told: map[string]bool{},
	}
	w := &store.Watch{Conn: js.Conn(), KV: kv, See: b.see, Lost: b.restart, All: b.whole}
	ready := make(chan struct{})
	go func() {
		defer close(b.done)
		w.Run(run, ready)
	}()
	select {
	case <-ready:
		return b, nil
	case <-ctx.Done():
		b.Close()
		return nil, fmt.Errorf("watch %s: %w", store.Bucket, context.Cause(ctx))
	}
}

// Close stops watching and waits for it.
func (b *Board) Close() {
	b.cancel()
	<-b.done
}

// Changed gets a value after something changed; several changes may be one.
func (b *Board) Changed() <-chan struct{} { return b.change }

// see takes an entry of the watch. Values that cannot be read count as none.
func (b *Board) see(e store.Entry) {
	kind, name, found := strings.Cut(e.Key, ".")
	if !found {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told[e.Key] = true
	b.take(kind, name, e)
	wait.Signal(b.change)
}

func (b *Board) take(kind, name string, e store.Entry) {
	switch kind {
	case "permits":
		b.entry(name).register, _ = ledger.Decode(e.Value)
	case "circuit":
		b.entry(name).circuit, _ = circuit.Decode(e.Value)
	case "control":
		b.entry(name).control, _ = decodeControl(e.Value)
	case "worker":
		before := b.served()
		var w Worker
		if e.Value == nil || json.Unmarshal(e.Value, &w) != nil {
			delete(b.workers, name)
		} else {
			b.workers[name] = w
		}
		after := b.served()
		at := e.At
		if at.IsZero() {
			at = time.Now()
		}
		for p := range before {
			if !after[p] {
				b.lost[p] = at
			}
		}
	}
}

// restart forgets which keys there are: after a reconnect all are told anew.
func (b *Board) restart() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.told)
}

// whole drops what has gone while nobody watched.
func (b *Board) whole() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name := range b.workers {
		if !b.told[store.WorkerKey(name)] {
			b.take("worker", name, store.Entry{})
		}
	}
	for provider := range b.providers {
		for kind, key := range map[string]string{"permits": store.PermitsKey(provider), "circuit": store.CircuitKey(provider), "control": store.ControlKey(provider)} {
			if !b.told[key] {
				b.take(kind, provider, store.Entry{})
			}
		}
	}
	wait.Signal(b.change)
}

func (b *Board) entry(provider string) *boardEntry {
	p := b.providers[provider]
	if p == nil {
		p = &boardEntry{circuit: circuit.Record{State: circuit.Closed}}
		b.providers[provider] = p
	}
	return p
}

func (b *Board) served() map[string]bool {
	served := map[string]bool{}
	for _, w := range b.workers {
		for _, p := range w.Providers {
			served[p] = true
		}
	}
	return served
}

// Providers are all that have a key or a worker.
func (b *Board) Providers() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := b.served()
	for p := range b.providers {
		names[p] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// Knows reports whether a provider is or was served, or an operator has named
// it.
func (b *Board) Knows(provider string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.providers[provider] != nil || b.served()[provider]
}

// Workers are those that live.
func (b *Board) Workers() []Worker {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.SortedFunc(maps.Values(b.workers), func(x, y Worker) int { return strings.Compare(x.Name, y.Name) })
}

// View is one provider at a moment of the server's time.
func (b *Board) View(provider string, now time.Time) View {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.providers[provider]
	if p == nil {
		p = &boardEntry{circuit: circuit.Record{State: circuit.Closed}}
	}
	v := View{
		Provider: provider, Circuit: p.circuit, Control: p.control,
		ProbeLeased: p.circuit.ProbeLeased(now), PausedUntil: p.control.PausedUntil(now),
	}
	if p.register != nil {
		if at := p.register.Hold.Time(); at.After(now) {
			v.HoldUntil = at
		}
		v.Windows = p.register.Usage(p.shapes(now), ledger.InstantOf(now))
	}
	for _, w := range b.workers {
		if slices.Contains(w.Providers, provider) {
			v.Workers = append(v.Workers, w)
		}
	}
	slices.SortFunc(v.Workers, func(x, y Worker) int { return strings.Compare(x.Name, y.Name) })
	if len(v.Workers) == 0 {
		v.NoneSince = b.since
		if lost, ok := b.lost[provider]; ok {
			v.NoneSince = lost
		}
	}
	return v
}

// Held says why no letter of a provider should be released now, and until
// when: the circuit is open, it is paused, or a hold or a quota lets nothing
// through for more than 90 s. The reason is empty if nothing holds it. A
// circuit whose probe is due is still held: release one letter then.
func (b *Board) Held(provider string, now time.Time) (fetchworker.Reason, time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.providers[provider]
	if p == nil {
		return "", time.Time{}
	}
	if until := p.control.PausedUntil(now); !until.IsZero() {
		return fetchworker.ReasonPaused, until
	}
	if p.circuit.Held() {
		return fetchworker.ReasonCircuitOpen, p.circuit.Until()
	}
	if p.register == nil {
		return "", time.Time{}
	}
	if hold := p.register.Hold.Time(); hold.Sub(now) > turns.Patience {
		return fetchworker.ReasonThrottled, hold
	}
	if next := p.register.Next(p.shapes(now), ledger.Order{Class: ledger.Replay, Patience: turns.Patience}, ledger.InstantOf(now)).Time(); next.Sub(now) > turns.Patience {
		return fetchworker.ReasonQuota, next
	}
	return "", time.Time{}
}

// ProbeDue reports whether a provider's circuit waits for a probe: its open
// time has passed, nobody probes, and no pause forbids it.
func (b *Board) ProbeDue(provider string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.providers[provider]
	return p != nil && p.circuit.Due(now) && p.control.PausedUntil(now).IsZero()
}

// shapes are the limits in force: an operator's, or those that the fleet last
// claimed under.
func (p *boardEntry) shapes(now time.Time) []ledger.Shape {
	limits, _ := p.control.limits(p.register.Limits(), now)
	return ledger.NewShapes(limits)
}
