package circuit

import (
	"slices"
	"time"
)

// Blame is what a request's failures are put down to when it would run out of
// retries.
type Blame int

// The three.
const (
	BlameRequest   Blame = iota // others have succeeded meanwhile: it goes to review
	BlameOperation              // others of its operation failed too: that is left alone
	BlameProvider               // nobody else called it, and nothing has succeeded: an outage
)

// LastRetry says what the failures of a call are put down to that began at a
// time and of which the last would be that of its last retry.
func (r Record) LastRetry(c Call, first time.Time) Blame {
	if i := r.index(c.Operation); i >= 0 {
		o := r.Operations[i]
		if o.LastSuccess.After(first) {
			return BlameRequest
		}
		if o.Held() || slices.ContainsFunc(o.Row, func(e Evidence) bool { return e.Call != c.Key }) {
			return BlameOperation
		}
	}
	if r.LastSuccess.After(first) {
		return BlameRequest
	}
	return BlameProvider
}

// Spared opens the circuit that a call's failures are put down to, for what
// they have in common. A circuit that is open already is widened.
func (r Record) Spared(c Call, first, now time.Time, p Policy) Record {
	if p.Failures <= 0 {
		return r
	}
	now = now.UTC()
	blame := r.LastRetry(c, first)
	switch blame {
	case BlameRequest:
		return r
	case BlameOperation:
		r = r.clone()
		o := r.touch(c.Operation)
		o.note(c, kindOdd, now)
		if o.Held() {
			o.widen(c)
			return r
		}
		r.openOperation(o, agentOf(o.Row), "a request would run out of retries, and all others of its operation have failed since its first failure", now, p.Open)
	case BlameProvider:
		r = r.clone()
		if r.Held() {
			r.widen(c)
			return r
		}
		// What else failed meanwhile has a say in whom it is open for.
		row := []Evidence{{Call: c.Key, Agent: c.Agent}}
		for _, o := range r.Operations {
			for _, e := range o.Row {
				if e.At.After(r.LastSuccess) && e.Kind != kindOdd {
					row = append(row, e)
				}
			}
		}
		call := c.Key
		if slices.ContainsFunc(row, func(e Evidence) bool { return e.Call != c.Key }) {
			call = ""
		}
		r.open(agentOf(row), call, "a request would run out of retries, and nothing has succeeded since its first failure", now, p.Open)
	}
	return r
}
