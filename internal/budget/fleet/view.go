package fleet

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

// View is a read-only view over all that the fleet shares, for those who
// call no provider: the replayer, the status. It is safe for concurrent use.
type View struct {
	cancel context.CancelFunc
	done   chan struct{}
	change chan struct{}

	mu        sync.Mutex // guards all below
	providers map[string]*shared
	workers   map[string]Worker
	lost      map[string]time.Time // since when a provider has no worker
	since     time.Time            // since when the view looks
	told      map[string]bool      // keys that the watch has told of since it began
}

// shared is what the bucket says of a provider.
type shared struct {
	circuit  circuit.Record
	control  Control
	register *ledger.Register
}

// Provider is what the view knows of one provider.
type Provider struct {
	Provider    string
	Circuit     circuit.Record
	PausedUntil time.Time
	HoldUntil   time.Time // a 429's hold
	Control     Control
	Windows     []ledger.Usage
	Foreign     ledger.Foreign // calls that the provider counted and the fleet did not make
	Workers     []Worker       // that live and serve it
	NoneSince   time.Time      // since when there are none; zero while there are some
}

// Watch opens a view and returns once it has seen everything. It watches
// until Close.
func Watch(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue) (*View, error) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	v := &View{
		cancel: cancel, done: make(chan struct{}), change: make(chan struct{}, 1),
		providers: map[string]*shared{}, workers: map[string]Worker{}, lost: map[string]time.Time{},
		since: time.Now(), told: map[string]bool{},
	}
	w := &store.Watch{Conn: js.Conn(), KV: kv, See: v.see, Lost: v.restart, All: v.whole}
	ready := make(chan struct{})
	go func() {
		defer close(v.done)
		w.Run(run, ready)
	}()
	select {
	case <-ready:
		return v, nil
	case <-ctx.Done():
		v.Close()
		return nil, fmt.Errorf("watch %s: %w", store.Bucket, context.Cause(ctx))
	}
}

// Close stops watching and waits for it.
func (v *View) Close() {
	v.cancel()
	<-v.done
}

// Changed gets a value after something changed; several changes may be one.
func (v *View) Changed() <-chan struct{} { return v.change }

// see takes an entry of the watch. Values that cannot be read count as none.
func (v *View) see(e store.Entry) {
	kind, name, found := strings.Cut(e.Key, ".")
	if !found {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.told[e.Key] = true
	v.take(kind, name, e)
	wait.Signal(v.change)
}

func (v *View) take(kind, name string, e store.Entry) {
	switch kind {
	case "permits":
		v.entry(name).register, _ = ledger.Decode(e.Value)
	case "circuit":
		v.entry(name).circuit, _ = circuit.Decode(e.Value)
	case "control":
		v.entry(name).control, _ = DecodeControl(e.Value)
	case "worker":
		before := v.served()
		var w Worker
		if e.Value == nil || json.Unmarshal(e.Value, &w) != nil {
			delete(v.workers, name)
		} else {
			v.workers[name] = w
		}
		after := v.served()
		at := e.At
		if at.IsZero() {
			at = time.Now()
		}
		for p := range before {
			if !after[p] {
				v.lost[p] = at
			}
		}
	}
}

// restart forgets which keys there are: after a reconnect all are told anew.
func (v *View) restart() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.told)
}

// whole drops what has gone while nobody watched.
func (v *View) whole() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for name := range v.workers {
		if !v.told[store.WorkerKey(name)] {
			v.take("worker", name, store.Entry{})
		}
	}
	for provider := range v.providers {
		for kind, key := range map[string]string{"permits": store.PermitsKey(provider), "circuit": store.CircuitKey(provider), "control": store.ControlKey(provider)} {
			if !v.told[key] {
				v.take(kind, provider, store.Entry{})
			}
		}
	}
	wait.Signal(v.change)
}

func (v *View) entry(provider string) *shared {
	p := v.providers[provider]
	if p == nil {
		p = &shared{circuit: circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}}}
		v.providers[provider] = p
	}
	return p
}

func (v *View) served() map[string]bool {
	served := map[string]bool{}
	for _, w := range v.workers {
		for _, p := range w.Providers {
			served[p] = true
		}
	}
	return served
}

// Providers are all that have a key or a worker.
func (v *View) Providers() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	names := v.served()
	for p := range v.providers {
		names[p] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// Knows reports whether a provider is or was served, or an operator has named
// it.
func (v *View) Knows(provider string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.providers[provider] != nil || v.served()[provider]
}

// Workers are those that live.
func (v *View) Workers() []Worker {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.SortedFunc(maps.Values(v.workers), func(x, y Worker) int { return strings.Compare(x.Name, y.Name) })
}

// Provider is one provider at a moment of the server's time.
func (v *View) Provider(provider string, now time.Time) Provider {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.providers[provider]
	if p == nil {
		p = &shared{circuit: circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}}}
	}
	out := Provider{
		Provider: provider, Circuit: p.circuit, Control: p.control,
		PausedUntil: p.control.PausedUntil(now),
	}
	if p.register != nil {
		if at := p.register.Hold.Time(); at.After(now) {
			out.HoldUntil = at
		}
		out.Foreign = p.register.ForeignCalls(ledger.InstantOf(now))
		out.Windows = p.register.Usage(p.shapes(now), ledger.InstantOf(now))
	}
	for _, w := range v.workers {
		if slices.Contains(w.Providers, provider) {
			out.Workers = append(out.Workers, w)
		}
	}
	slices.SortFunc(out.Workers, func(x, y Worker) int { return strings.Compare(x.Name, y.Name) })
	if len(out.Workers) == 0 {
		out.NoneSince = v.since
		if lost, ok := v.lost[provider]; ok {
			out.NoneSince = lost
		}
	}
	return out
}

// Held says why no letter of a provider should be released now, and until
// when: the circuit is open, it is paused, or a hold or a quota lets nothing
// through for more than 90 s. The reason is empty if nothing holds it. A
// circuit whose probe is due is still held: release one letter then.
func (v *View) Held(provider string, now time.Time) (fetchworker.Reason, time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.providers[provider]
	if p == nil {
		return "", time.Time{}
	}
	if until := p.control.PausedUntil(now); !until.IsZero() {
		return fetchworker.ReasonPaused, until
	}
	if p.circuit.ForAll() {
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

// shapes are the limits in force: an operator's, or those that the fleet last
// claimed under.
func (p *shared) shapes(now time.Time) []ledger.Shape {
	limits, _ := p.control.InForce(p.register.Limits(), now)
	return ledger.NewShapes(limits)
}
