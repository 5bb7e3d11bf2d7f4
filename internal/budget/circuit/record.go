package circuit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// State is the state of a circuit, the same for the fleet.
type State string

// The states of a circuit. One that was never open has none, which is closed.
const (
	Closed   State = "closed"    // calls go
	HalfOpen State = "half_open" // one probe is on its way
	Open     State = "open"      // no calls; a probe once its time has passed
)

// What a record holds at the most.
const (
	mostOperations = 64 // with evidence, the newest
	mostOpen       = 16 // operations; beyond, the provider
	mostProbes     = 8  // failed probes of a circuit, the newest
	mostOdd        = 4  // odd calls of an operation, the first
)

// version is that of the record's form. The first had none and knew the
// provider's circuit only.
const version = 2

// ErrNewer is what Decode returns for a record of a later version, which
// nobody here may replace.
var ErrNewer = errors.New("written by a newer version")

// Record is what the fleet shares about a provider's health: the value of
// circuit.<provider>. It is written only on a failure, on the success that
// ends a row of them, and by whoever probes, opens or resumes.
//
// The circuit in it is the provider's own. It lies flat in the record, as the
// first version had it: workers of both read each other's.
type Record struct { //nolint:recvcheck // only what works on a clone changes one
	Version int `json:"version,omitempty"`
	Circuit
	LastSuccess time.Time   `json:"last_success,omitzero"` // of any call: the first after each failure
	LastFailure time.Time   `json:"last_failure,omitzero"` //
	Operations  []Operation `json:"operations,omitempty"`  // with evidence, the newest last
	Writer      string      `json:"writer,omitempty"`      // who wrote this
}

// Circuit is one thing that can be open: an operation, or the provider.
type Circuit struct { //nolint:recvcheck // as Record
	State      State     `json:"state,omitempty"`
	Agent      string    `json:"agent,omitempty"`       // open for this agent's calls only
	Call       string    `json:"call,omitempty"`        // open for this one call only
	OpenedAt   time.Time `json:"opened_at,omitzero"`    // when it left closed
	OpenUntil  time.Time `json:"open_until,omitzero"`   // when the next probe is due
	Why        string    `json:"why,omitempty"`         // what opened it
	Prober     string    `json:"prober,omitempty"`      // who holds the probe's lease
	ProbeUntil time.Time `json:"probe_until,omitzero"`  // the lease's end: a prober that died blocks no longer
	Probes     []Probe   `json:"probes,omitempty"`      // that failed, the newest last
	Repeats    int       `json:"repeats,omitempty"`     // failed probes in a row that were the same call
	Spent      int64     `json:"spent_bytes,omitempty"` // what failed probes cost on the wire
}

// Probe is one that failed.
type Probe struct {
	Agent string    `json:"agent"`
	Call  string    `json:"call"`
	At    time.Time `json:"at"`
}

// Operation is the evidence about one operation, and its circuit.
type Operation struct {
	Name string `json:"name"`
	Circuit
	Row         []Evidence `json:"row,omitempty"` // the different calls that failed since the last success
	LastSuccess time.Time  `json:"last_success,omitzero"`
}

// Evidence is a call that failed.
type Evidence struct {
	Call  string    `json:"call"`
	Agent string    `json:"agent,omitempty"` // empty if it failed for several
	Kind  kind      `json:"kind,omitempty"`
	At    time.Time `json:"at"` // the last time
}

// kind is how a call failed.
type kind string

const (
	kindHard         kind = ""
	kindUnreached    kind = "unreached"
	kindUnauthorized kind = "unauthorized"
	kindOdd          kind = "odd"
)

func kindOf(o Outcome) kind {
	switch o { //nolint:exhaustive // the others are no failures
	case Unreached:
		return kindUnreached
	case Unauthorized:
		return kindUnauthorized
	case Odd:
		return kindOdd
	}
	return kindHard
}

// Decode reads a record; no value is a closed circuit, and so is what cannot
// be read, beside the error.
func Decode(value []byte) (Record, error) {
	none := Record{Circuit: Circuit{State: Closed}}
	if len(value) == 0 {
		return none, nil
	}
	var form struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(value, &form); err != nil {
		return none, fmt.Errorf("circuit: %w", err)
	}
	if form.Version > version {
		return none, fmt.Errorf("circuit: version %d: %w", form.Version, ErrNewer)
	}
	r := none
	if err := json.Unmarshal(value, &r); err != nil {
		return none, fmt.Errorf("circuit: %w", err)
	}
	return r, nil
}

// Encode is the form that Decode reads.
func (r Record) Encode() ([]byte, error) {
	r.Version = version
	if r.State == "" {
		r.State = Closed
	}
	value, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("circuit: %w", err)
	}
	return value, nil
}

// Equal reports whether two records say the same, whoever wrote them.
func (r Record) Equal(other Record) bool {
	r.Writer, other.Writer = "", ""
	a, errA := r.Encode()
	b, errB := other.Encode()
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// Held reports whether the circuit refuses the calls that it is open for.
func (c Circuit) Held() bool { return c.State == Open || c.State == HalfOpen }

// ForAll reports whether it refuses everybody's calls. Of an operation's
// circuit that is all of its calls, of the provider's every call.
func (c Circuit) ForAll() bool { return c.Held() && c.Agent == "" && c.Call == "" }

// What tells people what a circuit is open for, and why.
func (c Circuit) What(operation string) string {
	name := operation
	if name == "" {
		name = "the provider"
	}
	text := "the circuit of " + name + " is open"
	switch {
	case c.Call != "":
		text += " for this call"
	case c.Agent != "":
		text += " for calls of " + c.Agent
	}
	if c.Why != "" {
		text += ": " + c.Why
	}
	return text
}

// Of is a circuit by its operation's name; that of the provider has none.
func (r Record) Of(operation string) Circuit {
	if operation == "" {
		return r.Circuit
	}
	if i := r.index(operation); i >= 0 {
		return r.Operations[i].Circuit
	}
	return Circuit{}
}

// OpenOperations are those whose circuits are not closed, the oldest first.
func (r Record) OpenOperations() []Operation {
	var open []Operation
	for _, o := range r.Operations {
		if o.Held() {
			open = append(open, o)
		}
	}
	slices.SortStableFunc(open, func(a, b Operation) int { return a.OpenedAt.Compare(b.OpenedAt) })
	return open
}

// AnyHeld reports whether any circuit is not closed.
func (r Record) AnyHeld() bool {
	return r.Held() || slices.ContainsFunc(r.Operations, func(o Operation) bool { return o.Held() })
}

func (r Record) index(operation string) int {
	return slices.IndexFunc(r.Operations, func(o Operation) bool { return o.Name == operation })
}

// circuit is one to be changed; nil if nothing is known of the operation.
func (r *Record) circuit(operation string) *Circuit {
	if operation == "" {
		return &r.Circuit
	}
	if i := r.index(operation); i >= 0 {
		return &r.Operations[i].Circuit
	}
	return nil
}

// clone is a copy that can be changed.
func (r Record) clone() Record {
	r.Probes = slices.Clone(r.Probes)
	r.Operations = slices.Clone(r.Operations)
	for i := range r.Operations {
		r.Operations[i].Row = slices.Clone(r.Operations[i].Row)
		r.Operations[i].Probes = slices.Clone(r.Operations[i].Probes)
	}
	return r
}

// touch is an operation's entry, made the newest. The oldest that is not open
// makes room.
func (r *Record) touch(operation string) *Operation {
	o := Operation{Name: operation}
	if i := r.index(operation); i >= 0 {
		o = r.Operations[i]
		r.Operations = slices.Delete(r.Operations, i, i+1)
	} else if len(r.Operations) >= mostOperations {
		if i := slices.IndexFunc(r.Operations, func(o Operation) bool { return !o.Held() }); i >= 0 {
			r.Operations = slices.Delete(r.Operations, i, i+1)
		}
	}
	r.Operations = append(r.Operations, o)
	return &r.Operations[len(r.Operations)-1]
}

// Reset is the record after an operator closed every circuit: what is known
// of successes stays, evidence does not.
func (r Record) Reset() Record {
	return Record{Circuit: Circuit{State: Closed}, LastSuccess: r.LastSuccess, LastFailure: r.LastFailure}
}

// Change is a circuit that opened, closed, is being probed, or is open for
// something else than before.
type Change struct {
	Operation     string // empty: the provider's
	Before, After Circuit
}

// Changes are the circuits in which two records differ.
func Changes(before, after Record) []Change {
	var changes []Change
	compare := func(operation string) {
		b, a := before.Of(operation), after.Of(operation)
		if b.Held() != a.Held() || a.Held() && (b.State != a.State || b.Agent != a.Agent || b.Call != a.Call || b.Spent != a.Spent) {
			changes = append(changes, Change{operation, b, a})
		}
	}
	compare("")
	for _, o := range after.Operations {
		compare(o.Name)
	}
	for _, o := range before.Operations {
		if after.index(o.Name) < 0 {
			compare(o.Name)
		}
	}
	return changes
}
