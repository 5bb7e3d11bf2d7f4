// Package cancel keeps what agents have cancelled, so that from the reply on
// no call begins for any of it, at whatever worker, and through every crash.
//
// What was cancelled is a mark: one value of an agent and a provider, kept in
// the bucket that every worker watches. Everybody judges by it for himself
// (View); a worker that is about to call knows that what it sees is not old
// (Guard); and whoever takes an order replies only when every worker that may
// still call has seen the mark (Desk). Agents that don't cancel have no mark,
// and nothing is asked for them.
package cancel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"fetchworker"
)

// Mark is all that an agent has cancelled of a provider. It names no request:
// it says what was stored before a moment, so it never grows with what is
// cancelled.
type Mark struct {
	// Named is when requests were last cancelled by their ids. Those have
	// their answers: of a request stored before, the answer is looked up
	// before a call begins.
	Named time.Time `json:"named,omitzero"`
	All   []Before  `json:"all,omitempty"`
	// Tell is where a worker says that it has seen this mark.
	Tell string `json:"tell,omitempty"`
}

// Before cancels everything stored before a moment, of an operation and a
// lane; empty: of any.
type Before struct {
	Operation string           `json:"operation,omitempty"`
	Lane      fetchworker.Lane `json:"lane,omitempty"`
	Before    time.Time        `json:"before"`
}

// Request is what a mark is held against.
type Request struct {
	fetchworker.Identity
	Lane   fetchworker.Lane
	Stored time.Time // when it was first stored
}

// Verdict is what a mark says of a request.
type Verdict int

// The verdicts.
const (
	Goes      Verdict = iota // nothing was cancelled that it could be
	Look                     // its answer tells
	Cancelled                // it is cancelled
)

// judge holds the mark against a request.
func (m Mark) judge(r Request) Verdict {
	for _, b := range m.All {
		if r.Stored.Before(b.Before) && (b.Operation == "" || b.Operation == r.Operation) && (b.Lane == "" || b.Lane == r.Lane) {
			return Cancelled
		}
	}
	if r.Stored.Before(m.Named) {
		return Look
	}
	return Goes
}

// mostBefores bounds a mark: an agent that names ever other operations cannot
// make it grow without end.
const mostBefores = 64

// with is the mark with one more order, and without what is older than any
// request can be. An order that comes later may be of an earlier moment: it
// takes back nothing that another was promised.
func (m Mark) with(o Order, before time.Time, maxLife time.Duration) (Mark, error) {
	next := Mark{Named: m.Named}
	for _, b := range m.All {
		within := o.All && (o.Operation == "" || o.Operation == b.Operation) && (o.Lane == "" || o.Lane == b.Lane) && !b.Before.After(before)
		if !within && before.Sub(b.Before) < maxLife {
			next.All = append(next.All, b)
		}
	}
	if !o.All {
		if before.After(next.Named) {
			next.Named = before
		}
		return next, nil
	}
	if len(next.All) >= mostBefores {
		return m, refuse(429, "too many operations are cancelled one by one; cancel all of them together")
	}
	next.All = append(next.All, Before{Operation: o.Operation, Lane: o.Lane, Before: before})
	return next, nil
}

// Order is what an agent asks to have cancelled: some requests of an
// operation by their ids, or all there are.
type Order struct {
	Operation string           `json:"operation,omitempty"`
	IDs       []string         `json:"ids,omitempty"`
	All       bool             `json:"all,omitempty"`
	Lane      fetchworker.Lane `json:"lane,omitempty"`
}

// mostIDs is how many ids one order may name.
const mostIDs = 1000

// decodeOrder reads an order, strictly.
func decodeOrder(body []byte) (Order, error) {
	o, err := readOrder(body)
	if err != nil {
		return o, refuse(400, "an order is {\"operation\":\"…\",\"ids\":[…]} or {\"all\":true}: "+err.Error())
	}
	switch {
	case o.Operation != "" && !fetchworker.ValidToken(o.Operation):
		return o, refuse(400, "operation: 1 to 32 of a-z 0-9 _ -")
	case o.Lane != "" && !o.Lane.Valid():
		return o, refuse(400, "lane: interactive or batch")
	case o.All && len(o.IDs) > 0, !o.All && len(o.IDs) == 0:
		return o, refuse(400, "give ids or all, one of them")
	case !o.All && o.Operation == "":
		return o, refuse(400, "operation: ids belong to one")
	case !o.All && o.Lane != "":
		return o, refuse(400, "lane: only with all")
	case len(o.IDs) > mostIDs:
		return o, refuse(400, fmt.Sprintf("ids: at most %d at a time", mostIDs))
	}
	for _, id := range o.IDs {
		if !fetchworker.ValidID(id) {
			return o, refuse(400, "ids: 1 to 64 of A-Z a-z 0-9 _ - each")
		}
	}
	slices.Sort(o.IDs)
	o.IDs = slices.Compact(o.IDs)
	return o, nil
}

var (
	errNoOrder = errors.New("it is no JSON object, or something follows it")
	// What the fields of an order are, for who wrote another thing.
	orderWants = map[string]string{"operation": "a text", "ids": "a list of texts", "all": "true or false", "lane": "a text"}
)

// readOrder takes the fields by their very names and each once: a decoder takes
// "ALL" for "all" and the last of two, and what is cancelled is so for good.
func readOrder(body []byte) (o Order, err error) {
	into := map[string]any{"operation": &o.Operation, "ids": &o.IDs, "all": &o.All, "lane": &o.Lane}
	dec := json.NewDecoder(bytes.NewReader(body))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return o, errNoOrder
	}
	for dec.More() {
		token, err := dec.Token()
		name, is := token.(string)
		if err != nil || !is {
			return o, errNoOrder
		}
		field, known := into[name]
		if !known {
			return o, fmt.Errorf("%.40q: no such field, or given twice", name)
		}
		delete(into, name)
		var wrong *json.UnmarshalTypeError
		if err := dec.Decode(field); errors.As(err, &wrong) {
			return o, fmt.Errorf("%s: %s", name, orderWants[name])
		} else if err != nil {
			return o, errNoOrder
		}
	}
	if _, err := dec.Token(); err != nil {
		return o, errNoOrder
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return o, errNoOrder
	}
	return o, nil
}

// Reply is what an agent is told: how many of the named are cancelled, and of
// how many a final answer stood already; of all, before what moment.
type Reply struct {
	Cancelled *int       `json:"cancelled,omitempty"`
	Final     *int       `json:"final,omitempty"`
	Before    *time.Time `json:"before,omitempty"`
}

// Refusal says why an order is not obeyed, with the HTTP status that says so.
type Refusal struct { //nolint:errname // it is what the agent is told
	Status int
	Why    string
}

func (r *Refusal) Error() string { return r.Why }

func refuse(status int, why string) *Refusal { return &Refusal{status, why} }

// Detail is what a cancelled request's answer says.
const Detail = "the agent cancelled the request"

func (m Mark) encode() []byte {
	b, _ := json.Marshal(m) // plain fields: cannot fail
	return b
}
