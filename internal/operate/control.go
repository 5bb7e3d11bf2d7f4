package operate

import (
	"context"
	"fmt"
	"time"

	"fetchworker/internal/broker"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/dlq"
)

// Order is an act on a provider.
type Order struct {
	Act    // ActPause, ActResume, ActLimit or ActRetire; Until and Limits as they will be audited
	Limits ledger.Limits
	Reset  bool // ActLimit: back to the workers' own configuration
}

// ServedError says that a provider cannot be retired, for workers serve it.
type ServedError struct {
	Provider string
	Workers  []fleet.Worker
}

func (e *ServedError) Error() string {
	return fmt.Sprintf("%s is served by %d workers", e.Provider, len(e.Workers))
}

// AboveError says that an order allows more calls than a worker's own
// configuration does.
type AboveError struct {
	Provider, Limits, Configured string
}

func (e *AboveError) Error() string {
	return fmt.Sprintf("%s is more than the %s that the workers of %s are configured for", e.Limits, e.Configured, e.Provider)
}

// Control does an act on a provider: recorded, done, announced. A lost
// announcement is told to lost, for the act is done.
func (d *Desk) Control(ctx context.Context, s Signature, o Order, lost func(error)) error {
	if err := RecordAct(ctx, d.JS, s, o.Act); err != nil {
		return err
	}
	if err := d.obey(ctx, s, o); err != nil {
		return err
	}
	if err := dlq.Emit(ctx, d.Log, dlq.Event{
		Kind: budget.KindControl, Provider: o.Provider, ID: s.Run, Time: d.Now(),
		Data: controlEvent{o.Action, s.By, s.Reason, o.Until, o.Act.Limits},
	}); err != nil {
		lost(err)
	}
	return nil
}

func (d *Desk) obey(ctx context.Context, s Signature, o Order) error {
	switch {
	case o.Action == ActPause:
		return fleet.Pause(ctx, d.KV, o.Provider, o.Until, s.By, s.Reason)
	case o.Action == ActResume:
		return fleet.Resume(ctx, d.KV, o.Provider)
	case o.Action == ActLimit && o.Reset:
		return fleet.ResetLimits(ctx, d.KV, o.Provider)
	case o.Action == ActLimit:
		return fleet.SetLimits(ctx, d.KV, o.Provider, o.Limits, o.Until, s.By, s.Reason)
	}
	// The note does nothing while a worker lives; consumers that are left go too.
	if err := fleet.Retire(ctx, d.KV, o.Provider, s.By, s.Reason); err != nil {
		return err
	}
	return broker.RetireProvider(ctx, d.JS, o.Provider)
}

// May refuses to retire a provider that is served, and doubts limits above
// what its workers are configured for.
func (f *Fleet) May(_ context.Context, o Order) error {
	view := f.Provider(o.Provider, f.desk.Now())
	if o.Action == ActRetire && len(view.Workers) > 0 {
		return &ServedError{o.Provider, view.Workers}
	}
	if o.Action != ActLimit || o.Reset {
		return nil
	}
	for _, w := range view.Workers {
		configured, err := ledger.ParseLimits(w.Limits[o.Provider])
		if err == nil && len(configured) > 0 && o.Limits.Above(configured) {
			return &AboveError{o.Provider, o.Limits.String(), configured.String()}
		}
	}
	return nil
}

// controlEvent is the data of a control event.
type controlEvent struct {
	Action string    `json:"action"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Until  time.Time `json:"until,omitzero"`
	Limits string    `json:"limits,omitempty"`
}
