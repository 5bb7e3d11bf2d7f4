package operate

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/wire"
)

// Event is something that happened to a provider, or to a request of it, as it
// was told: a CloudEvent.
type Event struct {
	ID      string          `json:"id"`
	Type    string          `json:"type"` // fetch.event.circuit
	Time    time.Time       `json:"time"`
	Subject string          `json:"subject,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`

	Kind     string `json:"kind"`
	Provider string `json:"provider"`
	// Stored is when the stream took it, which is what a filter goes by.
	Stored time.Time `json:"-"`
	// Unreadable says of a stored event that it cannot be read, and why.
	Unreadable string `json:"unreadable,omitempty"`
}

// EventFilter selects events. An empty field selects all.
type EventFilter struct {
	Kind, Provider string
	Since, Until   time.Time
}

// Kinds are the kinds of events.
func Kinds() []string { return []string{"circuit", "throttle", "budget", "control", "review"} }

// Events yields the events that the filter selects, the newest first.
func (d *Desk) Events(ctx context.Context, f EventFilter) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		edge, err := d.Edge(ctx, fetchworker.StreamEvents)
		if err != nil {
			yield(Event{}, err)
			return
		}
		subject := wire.EventSubject(cmp.Or(f.Kind, "*"), cmp.Or(f.Provider, "*"))
		for raw, err := range d.Backwards(ctx, fetchworker.StreamEvents, subject, edge) {
			if err != nil {
				yield(Event{}, err)
				return
			}
			if raw.Time.Before(f.Since) {
				return
			}
			if !f.Until.IsZero() && !raw.Time.Before(f.Until) {
				continue
			}
			var e Event
			if err := json.Unmarshal(raw.Data, &e); err != nil {
				e = Event{Time: raw.Time, Unreadable: fmt.Sprintf("sequence %d: %v", raw.Sequence, err)}
			}
			e.Stored = raw.Time
			if t := strings.Split(raw.Subject, "."); len(t) == 4 {
				e.Kind, e.Provider = t[2], t[3]
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Of is the request that an event is about; nil where it is about none.
func (e Event) Of() *fetchworker.Identity {
	var d struct{ Operation, Agent, ID string }
	if json.Unmarshal(e.Data, &d) != nil || d.ID == "" || d.Agent == "" || d.Operation == "" { //nolint:musttag // the keys are these names in small letters
		return nil
	}
	return &fetchworker.Identity{Provider: e.Provider, Operation: d.Operation, Agent: d.Agent, ID: d.ID}
}

// Says is what an event tells, in a line.
func (e Event) Says() string {
	if e.Unreadable != "" {
		return "cannot be read: " + e.Unreadable
	}
	var d struct {
		State, Operation, Agent, Why, Sent, Month, Limits, By, Reason, Action, Code, Error, ID string
		Until                                                                                  time.Time
		Percent, Strikes                                                                       int
	}
	if json.Unmarshal(e.Data, &d) != nil { //nolint:musttag // the keys are these names in small letters
		return string(e.Data)
	}
	parts := []string{d.Action, d.State, d.Operation, d.Agent}
	if d.ID != "" {
		parts = append(parts, "/"+d.ID)
	}
	if d.Percent > 0 {
		parts = append(parts, fmt.Sprintf("%d %% of %s", d.Percent, d.Month))
	}
	parts = append(parts, d.Limits, d.Code, cmp.Or(d.Why, d.Reason, d.Error))
	if !d.Until.IsZero() {
		parts = append(parts, "until "+d.Until.UTC().Format(time.DateTime+"Z"))
	}
	if d.By != "" {
		parts = append(parts, "by "+d.By)
	}
	return strings.ReplaceAll(strings.Join(strings.Fields(strings.Join(parts, " ")), " "), " /", "/")
}
