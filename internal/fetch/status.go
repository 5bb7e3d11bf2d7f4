package fetch

import (
	"context"
	"fmt"
	"time"

	"fetchworker/internal/budget/circuit"
)

// Status is one provider as a worker sees it, for people and their tools.
type Status struct {
	Provider    string          `json:"provider"`
	Circuit     circuit.State   `json:"circuit"`
	OpenUntil   time.Time       `json:"open_until,omitzero"`
	Operations  []OpenOperation `json:"open_operations,omitempty"` // whose own circuits are not closed
	PausedUntil time.Time       `json:"paused_until,omitzero"`
	HoldUntil   time.Time       `json:"hold_until,omitzero"`
	Limits      string          `json:"limits"`
	Quota       string          `json:"quota,omitempty"`         // that the provider shares with others
	AtOnce      int             `json:"at_once,omitempty"`       // calls of the whole fleet that may be under way at once
	AtOnceTaken int             `json:"at_once_taken,omitempty"` // of them: under way, or about to be
	PermitsLeft int             `json:"permits_left"`            // -1: unlimited, or not known
	InFlight    int             `json:"in_flight"`               // calls of this worker
	Unable      string          `json:"unable,omitempty"`        // why this worker cannot call the provider at all
	Lapsed      int64           `json:"permits_lapsed"`          // claimed by this worker, and too late to be used
	Waiting     int             `json:"waiting"`                 // requests of this worker that wait for a permit
	BytesUsed   int64           `json:"bytes_used"`              // of the month, by the fleet
	BytesLimit  int64           `json:"bytes_limit"`             // 0: none
}

// OpenOperation is an operation whose circuit is not closed.
type OpenOperation struct {
	Operation string        `json:"operation"` // of get with its path
	Circuit   circuit.State `json:"circuit"`
	Agent     string        `json:"agent,omitempty"` // open for this agent's calls only
	Until     time.Time     `json:"until"`           // when a probe is due
	Why       string        `json:"why,omitempty"`
}

// StatusOf is all that a worker serves, without a round trip.
func StatusOf(serve []Served) []Status {
	list := make([]Status, len(serve))
	for i, sv := range serve {
		s := sv.Gate.State()
		list[i] = Status{
			Provider: sv.Provider.Name, Circuit: s.Circuit,
			OpenUntil: s.OpenUntil, PausedUntil: s.PausedUntil, HoldUntil: s.HoldUntil,
			Limits: s.Limits.String(), PermitsLeft: s.Left, InFlight: s.InFlight, Waiting: s.Waiting,
			Quota: s.Quota, AtOnce: s.AtOnce, AtOnceTaken: s.Taken,
			Unable: s.Unable, Lapsed: s.Lapsed,
			BytesUsed: s.BytesUsed, BytesLimit: s.BytesLimit,
		}
		for _, o := range s.Operations {
			list[i].Operations = append(list[i].Operations, OpenOperation{o.Name, o.State, o.Agent, o.Until(), o.Why})
		}
	}
	return list
}

// Ready says why this worker can take no work at the moment, or not all of it,
// nil if it can.
func (w *Worker) Ready(ctx context.Context) error {
	if err := w.stores.fresh(ctx); err != nil {
		return err
	}
	for _, s := range w.intake.Shards {
		if err := s.Down(); err != nil {
			return fmt.Errorf("consumer %s: %w", s.Consumer, err)
		}
	}
	return nil
}
