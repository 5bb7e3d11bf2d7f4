package fleet

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/wait"
)

// View is a read-only view over all that the fleet shares, for those who
// call no provider: the replayer, the status. It is safe for concurrent use.
type View struct {
	clock  *store.Clock
	leave  func()
	close  func()
	change chan struct{}

	mu        sync.Mutex // guards all below
	providers map[string]*shared
	quotas    map[string]*ledger.Register // those that several providers share, by name
	workers   map[string]beat
	ahead     time.Duration        // the server's clock less ours, when the view began
	lost      map[string]time.Time // since when a provider has no worker
	since     time.Time            // since when the view looks
	told      map[string]bool      // keys that the watch has told of since it began

	roll  *roll     // who lives, where that is looked at only when somebody asks; nil: the watch tells
	left  time.Time // then: when the last worker went, which may have served any provider
	blind time.Time // then: when the server last could not be asked; zero once it could
}

// shared is what the bucket says of a provider.
type shared struct {
	circuit  circuit.Record
	control  Control
	ordered  time.Time // when the control was last written
	register *ledger.Register
	quota    string // whose register counts its permits instead; empty: it has its own
}

// Provider is what the view knows of one provider.
type Provider struct {
	Provider    string
	Circuit     circuit.Record
	PausedUntil time.Time
	HoldUntil   time.Time // a 429's hold
	Control     Control
	Ordered     time.Time // when an operator's orders last changed, by word or because one ended; zero: never
	Windows     []ledger.Usage
	Groups      []ledger.Usage // of groups of operations, each with the name of its own
	NextAt      time.Time      // when an interactive request can have a permit; zero: no limit is known
	Foreign     ledger.Foreign // calls that the provider counted and the fleet did not make
	Workers     []Worker       // that live and serve it
	NoneSince   time.Time      // since when there are none; zero while there are some
	Registered  bool           // somebody serves it, or has served it
	Quota       string         // that it shares with others; empty: none
	Sharing     []string       // all that share it, by name, itself included
	AtOnce      int            // calls that may be under way at once; 0: any number
	Taken       int            // of them: under way, or about to be
}

// beat is a worker, and when it last said that it lives.
type beat struct {
	Worker
	serves map[string]bool // its providers
	at     time.Time       // ours
	rev    uint64
}

// lives reports whether a worker is believed. Its key alone proves nothing: a
// server that died hard may bring back one that was taken away, and never let
// it expire.
func (b beat) lives() bool { return time.Since(b.at) < presenceTTL+time.Second }

// Watch opens a view and returns once it has seen everything. It watches
// until Close.
func Watch(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue) (*View, error) {
	m, err := store.NewMirror(ctx, js, kv, nil)
	if err != nil {
		return nil, err
	}
	v := Follow(m)
	v.close = m.Close
	return v, nil
}

// Follow is Watch over a copy of the bucket that the process has already.
func Follow(m *store.Mirror) *View {
	v := newView(m)
	v.leave = m.Follow(&store.Follower{See: v.see, Lost: v.restart, All: v.whole})
	return v
}

func newView(m *store.Mirror) *View {
	v := &View{
		change: make(chan struct{}, 1), close: func() {},
		providers: map[string]*shared{}, quotas: map[string]*ledger.Register{}, workers: map[string]beat{}, lost: map[string]time.Time{},
		since: time.Now(), told: map[string]bool{},
	}
	v.clock = m.Clock()
	v.ahead = time.Until(v.clock.Now())
	return v
}

// Close stops watching and waits for it.
func (v *View) Close() {
	if v.roll != nil {
		v.roll.close()
	}
	v.leave()
	v.close()
}

// Now is the server's time, by which the whole fleet goes.
func (v *View) Now() time.Time { return v.clock.Now() }

// Changed gets a value after something changed; several changes may be one.
func (v *View) Changed() <-chan struct{} { return v.change }

// see takes an entry of the watch. Values that cannot be read count as none.
func (v *View) see(e store.Entry) {
	kind, name, found := strings.Cut(e.Key, ".")
	if !found {
		return
	}
	if kind == "worker" && v.roll != nil {
		return // its own
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
		p := v.entry(name)
		p.register, _ = ledger.Decode(e.Value)
		p.quota, _, _ = ledger.DecodeMoved(e.Value)
	case "quota":
		v.quotas[name], _ = ledger.Decode(e.Value)
	case "circuit":
		v.entry(name).circuit, _ = circuit.Decode(e.Value)
	case "control":
		v.entry(name).control, _ = DecodeControl(e.Value)
		v.entry(name).ordered = e.At
	case "worker":
		old := v.workers[name]
		var w Worker
		gone := e.Value == nil || json.Unmarshal(e.Value, &w) != nil
		var before map[string]bool
		same := !gone && slices.Equal(old.Providers, w.Providers) // the next beat of one that is known
		if !same {
			before = v.named()
		}
		if gone {
			delete(v.workers, name)
		} else {
			age := time.Duration(0)
			if !e.At.IsZero() {
				age = max(0, time.Since(e.At)+v.ahead)
			}
			serves := old.serves
			if !same {
				serves = make(map[string]bool, len(w.Providers))
				for _, p := range w.Providers {
					serves[p] = true
				}
			}
			v.workers[name] = beat{w, serves, time.Now().Add(-age), e.Rev}
		}
		if same {
			return
		}
		after := v.named()
		at := e.At
		if at.IsZero() {
			at = time.Now()
		}
		if ended := old.at.Add(presenceTTL); !old.at.IsZero() && ended.Before(at) {
			at = ended
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
	if v.roll == nil {
		for name := range v.workers {
			if !v.told[store.WorkerKey(name)] {
				v.take("worker", name, store.Entry{})
			}
		}
	}
	for provider := range v.providers {
		for kind, key := range map[string]string{"permits": store.PermitsKey(provider), "circuit": store.CircuitKey(provider), "control": store.ControlKey(provider)} {
			if !v.told[key] {
				v.take(kind, provider, store.Entry{})
			}
		}
	}
	for quota := range v.quotas {
		if !v.told[store.QuotaKey(quota)] {
			v.take("quota", quota, store.Entry{})
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

// named are the providers that some worker's key names, ghosts' included.
func (v *View) named() map[string]bool {
	named := map[string]bool{}
	for _, w := range v.workers {
		for _, p := range w.Providers {
			named[p] = true
		}
	}
	return named
}

func (v *View) served() map[string]bool {
	served := map[string]bool{}
	for _, w := range v.workers {
		for _, p := range w.Providers {
			served[p] = served[p] || w.lives()
		}
	}
	maps.DeleteFunc(served, func(_ string, lives bool) bool { return !lives })
	return served
}

// Providers are all that have a key or a worker.
func (v *View) Providers() []string {
	v.ask()
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
	v.ask()
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.providers[provider] != nil || v.served()[provider]
}

// Workers are those that live.
func (v *View) Workers() []Worker {
	v.ask()
	v.mu.Lock()
	defer v.mu.Unlock()
	var living []Worker
	for _, w := range v.workers {
		if w.lives() {
			living = append(living, w.Worker)
		}
	}
	slices.SortFunc(living, func(x, y Worker) int { return strings.Compare(x.Name, y.Name) })
	return living
}

// Keyless are the providers that no living worker serves and some know: the
// variable that would hold the key, by provider.
func (v *View) Keyless() map[string]string {
	v.ask()
	v.mu.Lock()
	defer v.mu.Unlock()
	keyless := map[string]string{}
	for _, w := range v.workers {
		if w.lives() {
			maps.Copy(keyless, w.Keyless)
		}
	}
	for p := range v.served() {
		delete(keyless, p)
	}
	return keyless
}

// Provider is one provider at a moment of the server's time.
func (v *View) Provider(provider string, now time.Time) Provider {
	v.ask()
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.providers[provider]
	if p == nil {
		p = &shared{circuit: circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}}}
	}
	out := Provider{
		Provider: provider, Circuit: p.circuit, Control: p.control,
		PausedUntil: p.control.PausedUntil(now), Ordered: p.control.changed(p.ordered, now),
	}
	out.Registered = p.register != nil || p.quota != ""
	if r := v.register(p); r != nil {
		if at := r.Hold.Time(); at.After(now) {
			out.HoldUntil = at
		}
		out.Foreign = r.ForeignCalls(ledger.InstantOf(now))
		shapes := v.shapes(provider, p, r, now)
		out.Groups = r.UsageOfGroups(provider, ledger.InstantOf(now))
		out.Windows = r.Usage(shapes, ledger.InstantOf(now))
		out.Quota, out.Sharing = p.quota, r.Members()
		out.AtOnce = r.AtOnce(0, ledger.InstantOf(now))
		if out.AtOnce > 0 {
			out.Taken = r.Taken(ledger.InstantOf(now))
		}
		if len(shapes) > 0 {
			out.NextAt = r.Next(shapes, ledger.Order{Class: ledger.Heavy, Patience: turns.Patience}, ledger.InstantOf(now)).Time()
		}
	}
	last := time.Time{}
	for _, w := range v.workers {
		switch {
		case !w.serves[provider]:
		case w.lives():
			out.Workers = append(out.Workers, w.Worker)
		case w.at.After(last):
			last = w.at
		}
	}
	slices.SortFunc(out.Workers, func(x, y Worker) int { return strings.Compare(x.Name, y.Name) })
	if len(out.Workers) == 0 {
		out.NoneSince = v.since
		if v.left.After(v.since) {
			out.NoneSince = v.left // it may have served any
		}
		if lost, ok := v.lost[provider]; ok {
			out.NoneSince = lost
		} else if !last.IsZero() {
			out.NoneSince = last.Add(presenceTTL)
		}
		if v.blind.After(out.NoneSince) {
			out.NoneSince = v.blind // nobody knows of one, nor of none
		}
	}
	return out
}
