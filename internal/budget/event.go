package budget

import (
	"errors"
	"fmt"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
)

// ClosedError is why a provider may not be called now, and until when.
type ClosedError struct {
	Reason fetchworker.Reason // circuit_open, paused, throttled or quota
	Until  time.Time          // the server's time; zero if nobody can know

	// Of circuit_open: what the circuit is open for.
	Operation string // empty: all of the provider's
	Agent     string // empty: everybody's calls
	Detail    string // in words, with the reason
}

func (e *ClosedError) Error() string {
	if e.Until.IsZero() {
		return fmt.Sprintf("provider closed: %s", e.Reason)
	}
	return fmt.Sprintf("provider closed until %s: %s", e.Until.UTC().Format(time.RFC3339), e.Reason)
}

// The errors of a gate.
var (
	ErrLapsed = errors.New("permit lapsed") // it is too late to start, or the circuit opened, a pause or a hold came: ask again
	ErrShut   = errors.New("gate closed")   // Close was called
)

// Outcome is how a call ended, as far as the gate cares.
type Outcome = circuit.Outcome

// The outcomes.
const (
	Unused       = circuit.Unused
	Success      = circuit.Success
	Failure      = circuit.Failure
	Unreached    = circuit.Unreached
	Unauthorized = circuit.Unauthorized
	Odd          = circuit.Odd
	Throttled    = circuit.Throttled
	Neutral      = circuit.Neutral
)

// Report is what became of a permit.
type Report struct {
	Outcome    Outcome
	Bytes      int64         // that the call cost on the wire
	RetryAfter time.Duration // throttled: what the provider asked for, 0 if nothing
	MinHold    time.Duration // throttled: at least this long
	Sent       string        // throttled: the headers that asked for it, word for word
	Remaining  int           // calls left by the provider's own count, -1 if it does not say
	Reset      time.Duration // when that count starts anew, 0 if it does not say
	Window     time.Duration // the length of the window it is about; 0: the shortest that can be
}

// Event is something an operator wants to know. Every worker of the fleet
// sees most of them; the one that made it happen says Mine, and only that one
// should publish it.
type Event struct {
	Kind     string    `json:"kind"`     // circuit, throttle, budget, control
	Severity string    `json:"severity"` // info, warning, error
	Provider string    `json:"provider"`
	Worker   string    `json:"worker"`
	Time     time.Time `json:"time"` // the server's
	Mine     bool      `json:"-"`

	State     circuit.State `json:"state,omitempty"`     // circuit: what it is now
	Operation string        `json:"operation,omitempty"` // circuit: whose it is; empty: the provider's
	Agent     string        `json:"agent,omitempty"`     // circuit: open for this agent's calls only
	Why       string        `json:"why,omitempty"`
	Until     time.Time     `json:"until,omitzero"`       // circuit, throttle, pause: when it ends
	Strikes   int           `json:"strikes,omitempty"`    // throttle: 429s in a row
	Sent      string        `json:"sent,omitempty"`       // throttle: the headers that asked for it, word for word
	Wait      string        `json:"wait,omitempty"`       // throttle: what was made of them, a Go duration
	Percent   int           `json:"percent,omitempty"`    // budget: the threshold passed
	Used      int64         `json:"used_bytes,omitempty"` // budget
	Limit     int64         `json:"limit_bytes,omitempty"`
	Month     string        `json:"month,omitempty"`
	Limits    string        `json:"limits,omitempty"` // control: the limits in force
	By        string        `json:"by,omitempty"`     // control: who
	Calls     int           `json:"calls,omitempty"`  // throttle: that are not ours
}

// The kinds and severities of events.
const (
	KindCircuit  = "circuit"
	KindThrottle = "throttle"
	KindBudget   = "budget"
	KindControl  = "control"

	SeverityInfo    = "info"
	SeverityWarning = "warning"
	SeverityError   = "error"
)

// Observer is told of events, one after the other, on a goroutine of the
// gate: it must not wait.
type Observer func(Event)
