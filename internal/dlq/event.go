package dlq

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"fetchworker"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Event is something an operator wants to know: a CloudEvents 1.0 event in
// JSON, kept for a week.
type Event struct {
	Kind     string // circuit, budget, throttle, review, control
	Provider string
	ID       string // names the fact: told twice within two minutes it is stored once
	Subject  string // what of the provider it is about, a request id for instance; may be empty
	Time     time.Time
	Data     any
}

// Emit stores an event.
func Emit(ctx context.Context, log *record.Log, e Event) error {
	id := e.Kind + "." + e.Provider + "." + e.ID
	body, err := json.Marshal(struct {
		SpecVersion string    `json:"specversion"`
		ID          string    `json:"id"`
		Source      string    `json:"source"`
		Type        string    `json:"type"`
		Time        time.Time `json:"time"`
		Subject     string    `json:"subject,omitempty"`
		ContentType string    `json:"datacontenttype"`
		Data        any       `json:"data"`
	}{"1.0", id, "/fetch/" + e.Provider, "fetch.event." + e.Kind, e.Time.UTC(), e.Subject, "application/json", e.Data})
	if err != nil {
		return fmt.Errorf("%s event of %s: %w", e.Kind, e.Provider, err)
	}
	m := nats.NewMsg(wire.EventSubject(e.Kind, e.Provider))
	m.Header.Set(wire.HeaderContentType, "application/cloudevents+json")
	m.Header.Set(jetstream.MsgIDHeader, id)
	m.Data = body
	return log.Append(ctx, "event", fetchworker.StreamEvents, m)
}
