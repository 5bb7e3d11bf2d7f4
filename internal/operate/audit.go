package operate

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The acts of a person, the <action> of fetch.audit.<action>.<provider>.
const (
	ActReplay  = "replay"
	ActRequeue = "requeue"
	ActDiscard = "discard"
	ActCancel  = "cancel"
	ActPause   = "pause"
	ActResume  = "resume"
	ActLimit   = "limit"
	ActRetire  = "retire"
)

// Actions are all acts of a person.
func Actions() []string {
	return []string{ActReplay, ActRequeue, ActDiscard, ActCancel, ActPause, ActResume, ActLimit, ActRetire}
}

// Signature says in whose name an act is done, and why.
type Signature struct {
	By       string // as the person says
	NATSUser string // as the server knows the person; empty without auth
	Reason   string
	Run      string // the same for all acts of one command
}

// Act is one line of the audit: who did what to which message or provider,
// when and why. It is stored before the act, so it tells what was about to be
// done; a crash right after it leaves the act undone, never unrecorded.
type Act struct {
	At       time.Time `json:"at"`
	Action   string    `json:"action"`
	Provider string    `json:"provider"`
	By       string    `json:"by"`
	NATSUser string    `json:"nats_user,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Run      string    `json:"run"`

	// of a message
	Operation  string           `json:"operation,omitempty"`
	Agent      string           `json:"agent,omitempty"`
	ID         string           `json:"id,omitempty"`
	Lane       fetchworker.Lane `json:"lane,omitempty"`
	Generation int              `json:"generation,omitempty"` // before the act
	Class      wire.Class       `json:"class,omitempty"`
	Error      string           `json:"error,omitempty"` // redacted
	// Original is the request's body before an edit: text that is a JSON
	// document as a string, so that a broken body is kept as it was.
	Original string `json:"original,omitempty"`
	// Superseded: a later generation was at work or answered; the item was only deleted.
	Superseded bool `json:"superseded,omitempty"`
	// Outcome says that an act which an earlier line records was not done:
	// taken, for somebody else was faster, or superseded.
	Outcome Fate `json:"outcome,omitempty"`

	// Stored is when the stream took the line, which is what a filter goes by.
	Stored time.Time `json:"-"`
	// Unreadable says of a stored line that it cannot be read, and why.
	Unreadable string `json:"unreadable,omitempty"`

	// of a provider
	Until  time.Time `json:"until,omitzero"`   // pause, limit: when it ends
	Limits string    `json:"limits,omitempty"` // limit: the new ones
}

// RecordAct stores an act. Only after it returns nil may the act be done.
func RecordAct(ctx context.Context, js jetstream.JetStream, s Signature, a Act) error {
	return recordAct(ctx, js, s, a, rand.Text())
}

// recordAct stores an act once under an id, however often it is sent.
func recordAct(ctx context.Context, js jetstream.JetStream, s Signature, a Act, id string) error {
	a.At = time.Now().UTC()
	a.By, a.NATSUser, a.Reason, a.Run = s.By, s.NATSUser, s.Reason, s.Run
	body, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("audit %s: %w", a.Action, err)
	}
	m := nats.NewMsg(wire.AuditSubject(a.Action, a.Provider))
	m.Header.Set(wire.HeaderContentType, "application/json")
	m.Header.Set(nats.MsgIdHdr, id)
	m.Data = body
	if _, err := js.PublishMsg(ctx, m, jetstream.WithExpectStream(wire.StreamAudit)); err != nil {
		return fmt.Errorf("audit %s: nothing was done, for the audit could not be stored: %w", a.Action, err)
	}
	return nil
}

// ActFilter selects acts. An empty field selects all.
type ActFilter struct {
	Action, Provider, Operation, Agent, ID, By string

	Run          string // of one command, or one act of the page
	Class        wire.Class
	Since, Until time.Time

	// Looked is told when each line that is looked at was stored, also of one that
	// does not match; false ends the search. Nil: it goes to the end.
	Looked func(stored time.Time) bool
}

func (f ActFilter) matches(a Act) bool {
	return (f.Operation == "" || f.Operation == a.Operation) && (f.Class == "" || f.Class == a.Class) &&
		(f.Agent == "" || f.Agent == a.Agent) && (f.ID == "" || f.ID == a.ID) &&
		(f.By == "" || f.By == a.By) && (f.Run == "" || f.Run == a.Run)
}

// Acts yields the acts that the filter selects, the newest first.
func Acts(ctx context.Context, b *browse.Browser, f ActFilter) iter.Seq2[Act, error] {
	return func(yield func(Act, error) bool) {
		edge, err := b.Edge(ctx, wire.StreamAudit)
		if err != nil {
			yield(Act{}, err)
			return
		}
		action, provider := f.Action, f.Provider
		if action == "" {
			action = "*"
		}
		if provider == "" {
			provider = "*"
		}
		for raw, err := range b.Backwards(ctx, wire.StreamAudit, wire.AuditSubject(action, provider), edge) {
			if err != nil {
				yield(Act{}, err)
				return
			}
			if raw.Time.Before(f.Since) || f.Looked != nil && !f.Looked(raw.Time) {
				return
			}
			if !f.Until.IsZero() && !raw.Time.Before(f.Until) {
				continue
			}
			var a Act
			if err := json.Unmarshal(raw.Data, &a); err != nil {
				a = Act{At: raw.Time, Unreadable: fmt.Sprintf("sequence %d of %s: %v", raw.Sequence, wire.StreamAudit, err)}
			}
			a.Stored = raw.Time
			if (a.Unreadable != "" || f.matches(a)) && !yield(a, nil) {
				return
			}
		}
	}
}
