package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
)

// Control is what an operator has ordered for a provider: the value of
// control.<provider>. What has expired is as if it had never been.
type Control struct {
	Pause   *PauseOrder  `json:"pause,omitempty"`
	Limits  *LimitOrder  `json:"limits,omitempty"`
	Retired *RetireOrder `json:"retired,omitempty"`
	Resumed time.Time    `json:"resumed,omitzero"` // when somebody last had all go on
}

// PauseOrder stops all calls to a provider.
type PauseOrder struct {
	Until  time.Time `json:"until"`
	At     time.Time `json:"at,omitzero"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
}

// LimitOrder replaces a provider's limits.
type LimitOrder struct {
	Limits string    `json:"limits"`         // as ParseLimits reads them
	Until  time.Time `json:"until,omitzero"` // then the worker's own limits hold again; zero: for good
	At     time.Time `json:"at,omitzero"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
}

// RetireOrder says that nobody will serve a provider again, so that what
// waits for it need not. It ends when somebody does.
type RetireOrder struct {
	At     time.Time `json:"at,omitzero"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
}

// changed is when the orders last changed, given when they were stored: an
// order that has ended has changed them too.
func (c Control) changed(stored, now time.Time) time.Time {
	last := stored
	for _, ended := range []time.Time{c.pauseEnds(), c.limitsEnd()} {
		if !ended.IsZero() && !ended.After(now) && ended.After(last) {
			last = ended
		}
	}
	return last
}

func (c Control) pauseEnds() time.Time {
	if c.Pause == nil {
		return time.Time{}
	}
	return c.Pause.Until
}

func (c Control) limitsEnd() time.Time {
	if c.Limits == nil {
		return time.Time{}
	}
	return c.Limits.Until
}

// DecodeControl reads a value of control.<provider>; of none there are no
// orders.
func DecodeControl(value []byte) (Control, error) {
	var c Control
	if len(value) == 0 {
		return c, nil
	}
	if err := json.Unmarshal(value, &c); err != nil {
		return Control{}, fmt.Errorf("control: %w", err)
	}
	return c, nil
}

// PausedUntil is the end of a pause that holds now, or zero.
func (c Control) PausedUntil(now time.Time) time.Time {
	if c.Pause == nil || !now.Before(c.Pause.Until) {
		return time.Time{}
	}
	return c.Pause.Until
}

// InForce are the limits in force now, and when that changes (zero: not by itself).
func (c Control) InForce(own ledger.Limits, now time.Time) (ledger.Limits, time.Time) {
	if c.Limits == nil || (!c.Limits.Until.IsZero() && !now.Before(c.Limits.Until)) {
		return own, time.Time{}
	}
	changed, err := ledger.ParseLimits(c.Limits.Limits)
	if err != nil {
		return own, time.Time{} // SetLimits writes none that cannot be read
	}
	return changed, c.Limits.Until
}

// Pause stops all calls to a provider until a time; the whole fleet obeys
// within a second.
func Pause(ctx context.Context, kv jetstream.KeyValue, provider string, until time.Time, by, reason string) error {
	return changeControl(ctx, kv, provider, func(c *Control) {
		c.Pause = &PauseOrder{Until: until, At: time.Now(), By: by, Reason: reason}
	})
}

// SetLimits changes a provider's limits, live and for the whole fleet, until
// a time; zero means for good. Of a quota they are those of all that share it.
func SetLimits(ctx context.Context, kv jetstream.KeyValue, provider string, l ledger.Limits, until time.Time, by, reason string) error {
	return changeLimits(ctx, kv, provider, &LimitOrder{Limits: l.String(), Until: until, At: time.Now(), By: by, Reason: reason})
}

// ResetLimits gives every worker the limits of its own configuration back.
func ResetLimits(ctx context.Context, kv jetstream.KeyValue, provider string) error {
	return changeLimits(ctx, kv, provider, nil)
}

// changeLimits gives an order for one provider after the other: a crash in
// between leaves some with what was before, and to repeat it is harmless.
func changeLimits(ctx context.Context, kv jetstream.KeyValue, provider string, order *LimitOrder) error {
	all, err := Sharing(ctx, kv, provider)
	if err != nil {
		return err
	}
	for _, p := range all {
		if err := changeControl(ctx, kv, p, func(c *Control) { c.Limits = order }); err != nil {
			return err
		}
	}
	return nil
}

// Retire notes that a provider is given up.
func Retire(ctx context.Context, kv jetstream.KeyValue, provider, by, reason string) error {
	return changeControl(ctx, kv, provider, func(c *Control) {
		c.Retired = &RetireOrder{At: time.Now(), By: by, Reason: reason}
	})
}

// Reinstate ends a Retire. A worker calls it when it begins to serve.
func Reinstate(ctx context.Context, kv jetstream.KeyValue, provider string) error {
	return store.Change(ctx, kv, store.ControlKey(provider), func(value []byte) ([]byte, error) {
		c, err := DecodeControl(value)
		if err != nil || c.Retired == nil {
			return nil, err
		}
		c.Retired = nil
		return json.Marshal(c)
	})
}

func changeControl(ctx context.Context, kv jetstream.KeyValue, provider string, edit func(*Control)) error {
	return store.Change(ctx, kv, store.ControlKey(provider), func(value []byte) ([]byte, error) {
		c, err := DecodeControl(value)
		if err != nil {
			return nil, err
		}
		edit(&c)
		return json.Marshal(c)
	})
}

// Resume ends a pause, closes an open circuit and lifts a hold. The order is
// written last, and also where there was no pause: what was parked for a hold,
// a quota or a key goes when an order has come since. A crash in between leaves
// what is not yet lifted; to repeat it is harmless.
func Resume(ctx context.Context, kv jetstream.KeyValue, provider string) error {
	err := store.Change(ctx, kv, store.CircuitKey(provider), func(value []byte) ([]byte, error) {
		c, err := circuit.Decode(value)
		if err != nil || !c.AnyHeld() {
			return nil, err
		}
		return c.Reset().Encode()
	})
	if err != nil {
		return err
	}
	key, err := permitsOf(ctx, kv, provider)
	if err != nil {
		return err
	}
	err = store.Change(ctx, kv, key, func(value []byte) ([]byte, error) {
		if len(value) == 0 {
			return nil, nil
		}
		r, err := ledger.Decode(value)
		if err != nil || (r.Hold == 0 && r.Strikes == 0) {
			return nil, err
		}
		r.Lift()
		return r.Encode(), nil
	})
	if err != nil {
		return err
	}
	return changeControl(ctx, kv, provider, func(c *Control) { c.Pause, c.Resumed = nil, time.Now() })
}

// permitsOf is the key of the register that counts a provider's permits.
func permitsOf(ctx context.Context, kv jetstream.KeyValue, provider string) (string, error) {
	quota, err := QuotaOf(ctx, kv, provider)
	if err != nil || quota == "" {
		return store.PermitsKey(provider), err
	}
	return store.QuotaKey(quota), nil
}

// QuotaOf is the quota whose register counts a provider's permits; empty: its
// own does.
func QuotaOf(ctx context.Context, kv jetstream.KeyValue, provider string) (string, error) {
	value, _, err := store.Get(ctx, store.At(kv, store.PermitsKey(provider)))
	quota, _, _ := ledger.DecodeMoved(value)
	return quota, err
}

// Sharing are the providers whose permits are counted together with a
// provider's, itself included.
func Sharing(ctx context.Context, kv jetstream.KeyValue, provider string) ([]string, error) {
	key, err := permitsOf(ctx, kv, provider)
	if err != nil || key == store.PermitsKey(provider) {
		return []string{provider}, err
	}
	value, _, err := store.Get(ctx, store.At(kv, key))
	if err != nil {
		return nil, err
	}
	r, err := ledger.Decode(value)
	if err != nil || !r.Has(provider) {
		return []string{provider}, nil //nolint:nilerr // one that is lost is made anew by the next worker; then the order is given again
	}
	return r.Members(), nil
}
