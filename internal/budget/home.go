package budget

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/wait"
)

// A provider's permits are counted in its own register, or in that of a quota
// that it shares with others. What stands under its own key says where, and a
// worker whose catalogue says otherwise moves them there, or leaves the
// provider to those who do as it says. See docs/adr/0092.

// homeEach is how often a worker looks again whether it may move a provider's
// permits: those who want them where they are may have gone.
const homeEach = 5 * time.Second

// register is where the permits of a provider are counted that has a quota or
// none.
func register(kv jetstream.KeyValue, provider, quota string) store.Cell {
	if quota != "" {
		return store.At(kv, store.QuotaKey(quota))
	}
	return store.At(kv, store.PermitsKey(provider))
}

// owner is whose a trial, or a call at once, is in the register.
func (s Settings) owner() string {
	if s.Quota == "" {
		return s.Worker
	}
	return ledger.Scoped(s.Provider, s.Worker)
}

// moveHome sees to it that permits are counted where the catalogue says,
// whenever they are not.
func (g *Gate) moveHome(ctx context.Context) {
	for {
		select {
		case <-g.astray:
		case <-ctx.Done():
			return
		}
		for try := 0; ; try++ {
			at, why, err := g.settle(ctx)
			if err == nil {
				g.mu.Lock()
				next := g.unable
				next.elsewhere = why
				g.cannot(next)
				g.pump(g.clock.Read())
				g.mu.Unlock()
			}
			if err == nil && why == "" {
				g.learnt(at)
				break
			}
			pause := homeEach
			if err != nil {
				pause = wait.Jitter(0, 20*time.Millisecond<<min(try, 6))
			}
			if wait.For(ctx, pause) != nil {
				return
			}
		}
	}
}

// learnt looks at the register again that permits are counted in from now on.
func (g *Gate) learnt(at store.Entry) {
	if at.Value == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seePermits(at.Value, at.Rev)
	g.pump(g.clock.Read())
}

// errTimeUnknown says that nothing can be decided before the time is known.
var errTimeUnknown = errors.New("the server's time is not known yet")

// settle makes one attempt, and tells what the register is then, or why this
// worker leaves the provider to others. It may be broken off anywhere, and
// repeated by anybody: each step leaves fewer who may claim than there were.
func (g *Gate) settle(ctx context.Context) (at store.Entry, why string, err error) {
	now := g.clock.Read()
	if !now.OK {
		return at, "", errTimeUnknown
	}
	own := store.At(g.kv, store.PermitsKey(g.s.Provider))
	value, rev, err := store.Get(ctx, own)
	if err != nil {
		return at, "", err
	}
	quota, had, moved := ledger.DecodeMoved(value)
	switch {
	case moved && quota == g.s.Quota:
		return g.join(ctx, home{own, rev, had, true}, now.At)
	case moved:
		who, err := g.wantedIn(ctx, quota)
		if err != nil {
			return at, "", err
		}
		if who != "" {
			return at, fmt.Sprintf("its permits are counted in the quota %s, as the catalogue of %s says, and this worker's does not", quota, who), nil
		}
		if g.found != rev { // whoever has just started says so soon
			g.found = rev
			return at, fmt.Sprintf("its permits are counted in the quota %s, and this worker's catalogue does not say so: looking whether anybody's does", quota), nil
		}
		return at, "", g.moveOut(ctx, own, rev, quota, now.At)
	case g.s.Quota == "":
		return store.Entry{Value: value, Rev: rev}, "", nil
	}
	r, err := ledger.Decode(value)
	if errors.Is(err, ledger.ErrNewer) {
		return at, err.Error(), nil
	}
	if err != nil { // gone, though the provider was served: it counts as full
		r = ledger.Lost(newEpoch(), ledger.NewShapes(g.s.Limits), 0, now.At)
	}
	if err := g.create(ctx); err != nil {
		return at, "", err
	}
	return g.join(ctx, home{own, rev, r.Encode(), false}, now.At)
}

// home is what stands under a provider's own key.
type home struct {
	cell  store.Cell
	rev   uint64
	had   []byte // the register that the provider has, or had
	moved bool   // a quota's counts its permits
}

// create creates the quota's register before anybody's permits are counted in
// it: one that is missing later has been lost.
func (g *Gate) create(ctx context.Context) error {
	if value, _, err := store.Get(ctx, g.cell); err != nil || value != nil {
		return err
	}
	_, err := store.Put(ctx, g.cell, ledger.New(newEpoch()).Encode(), 0)
	if errors.Is(err, store.ErrStale) {
		return nil
	}
	return err
}

// join makes the provider a member of the quota, with what its own register
// remembered. The word under its own key is written after the quota's register
// was read and before it is: another who moves the provider out meanwhile writes
// them in the other order, so that only one of the two gets through.
func (g *Gate) join(ctx context.Context, h home, now ledger.Instant) (at store.Entry, why string, err error) {
	shapes := ledger.NewShapes(g.s.Limits)
	before, err := ledger.Decode(h.had)
	if err != nil {
		before = ledger.Lost(newEpoch(), shapes, 0, now)
	}
	value, rev, err := store.Get(ctx, g.cell)
	if err != nil {
		return at, "", err
	}
	r, err := ledger.Decode(value)
	switch {
	case errors.Is(err, ledger.ErrNewer):
		return at, err.Error(), nil
	case err != nil:
		r = ledger.Lost(newEpoch(), shapes, 0, now)
	}
	joins := r.Absorb(before, g.s.Provider, now)
	if joins || !h.moved { // from here on nobody claims in the provider's own register
		if _, err := store.Put(ctx, h.cell, ledger.EncodeMoved(g.s.Quota, h.had), h.rev); err != nil {
			return at, "", err
		}
	}
	if !joins {
		return store.Entry{Value: value, Rev: rev}, "", nil
	}
	value = r.Encode()
	rev, err = store.Put(ctx, g.cell, value, rev)
	return store.Entry{Value: value, Rev: rev}, "", err
}

// moveOut ends that the provider's permits are counted in a quota: from the first
// step on nobody claims there for it, and after the second in its own register
// again.
func (g *Gate) moveOut(ctx context.Context, own store.Cell, rev uint64, quota string, now ledger.Instant) error {
	cell := store.At(g.kv, store.QuotaKey(quota))
	value, quotaRev, err := store.Get(ctx, cell)
	if err != nil {
		return err
	}
	r, err := ledger.Decode(value)
	if errors.Is(err, ledger.ErrNewer) {
		return err
	}
	if err != nil {
		r = ledger.Lost(newEpoch(), ledger.NewShapes(g.s.Limits), 0, now)
	}
	r.Expel(g.s.Provider) // and written in any case: whoever is about to join has read what was before
	if _, err := store.Put(ctx, cell, r.Encode(), quotaRev); err != nil {
		return err
	}
	part := r.Part(g.s.Provider, newEpoch())
	if _, err := store.Put(ctx, own, part.Encode(), rev); err != nil {
		return err
	}
	return errMoved // look again: there may be another quota to move to
}

var errMoved = errors.New("moved")

// wantedIn is a worker that lives and whose catalogue says that the provider's
// permits are counted in a quota; empty: there is none.
func (g *Gate) wantedIn(ctx context.Context, quota string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, store.WriteTimeout)
	defer cancel()
	workers, err := fleet.Living(ctx, g.kv)
	if err != nil {
		return "", err
	}
	for _, w := range workers {
		if w.Name != g.s.Worker && w.Quotas[g.s.Provider] == quota {
			return w.Name, nil
		}
	}
	return "", nil
}

// seeHome takes what stands under the provider's own key, where permits are
// counted in a quota.
func (g *Gate) seeHome(e store.Entry) {
	if quota, _, moved := ledger.DecodeMoved(e.Value); !moved || quota != g.s.Quota {
		wait.Signal(g.astray)
	}
}
