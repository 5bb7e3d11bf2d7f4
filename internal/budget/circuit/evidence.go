package circuit

import (
	"fmt"
	"slices"
	"time"
)

// Policy is what an operator can set.
type Policy struct {
	Failures int           // different calls in a row that open a circuit; 0: never
	Open     time.Duration // how long until a probe
}

// Failed counts a failure. A call that fails again counts once, so one that
// always fails cannot open a circuit by itself. Where a circuit is open for
// something else, the failure widens it.
func (r Record) Failed(c Call, o Outcome, now time.Time, p Policy) Record {
	if p.Failures <= 0 || !o.Failed() {
		return r
	}
	if r.Circuit.Covers(c) || r.Of(c.Operation).Covers(c) {
		return r // it began before the circuit opened, and says nothing new
	}
	now = now.UTC()
	r = r.clone()
	r.LastFailure = now
	op := r.touch(c.Operation)
	op.note(c, kindOf(o), now)
	if !o.hard() {
		return r
	}
	if r.Held() {
		r.widen(c)
	} else if why := r.outage(p); why != "" {
		r.open("", "", why, now, p.Open)
		return r
	}
	switch failures := op.hard(); {
	case op.Held():
		op.widen(c)
	case len(failures) >= p.Failures:
		r.openOperation(op, agentOf(failures), fmt.Sprintf("%d different calls failed in a row", len(failures)), now, p.Open)
	}
	return r.Reconsidered(now, p)
}

// longEnough is for how long nothing may succeed until two open operations are
// an outage. Two that happen to open between two successes are none, and what
// is under way when they open has its say.
const longEnough = time.Second

// Suspect reports whether two operations are open and nothing of the provider
// has succeeded since the first of them opened.
func (r Record) Suspect(now time.Time) bool {
	open := r.openSinceSuccess()
	return !r.Held() && len(open) >= 2 && now.Sub(open[0].OpenedAt) >= longEnough
}

// Reconsidered opens the provider's circuit if it is suspect.
func (r Record) Reconsidered(now time.Time, p Policy) Record {
	if p.Failures <= 0 || !r.Suspect(now) {
		return r
	}
	r = r.clone()
	r.open(agentOfOpen(r.openSinceSuccess()), "", "two operations are open, and nothing has succeeded since the first of them opened", now.UTC(), p.Open)
	return r
}

// openOperation opens an operation's circuit; where the record has no room
// for one more, the provider's instead.
func (r *Record) openOperation(o *Operation, agent, why string, now time.Time, open time.Duration) {
	switch {
	case len(r.OpenOperations()) < mostOpen:
		o.open(agent, "", why, now, open)
	case !r.Held():
		r.open(agent, "", fmt.Sprintf("more than %d operations fail; of %s %s", mostOpen, o.Name, why), now, open)
	}
}

// note puts a failure into the row.
func (o *Operation) note(c Call, k kind, now time.Time) {
	for i := range o.Row {
		e := &o.Row[i]
		if e.Call != c.Key {
			continue
		}
		if e.Agent != c.Agent {
			e.Agent = ""
		}
		if k != kindOdd { // what was evidence once stays so
			e.Kind = k
		}
		e.At = now
		return
	}
	odd := 0
	for _, e := range o.Row {
		if e.Kind == kindOdd {
			odd++
		}
	}
	if k == kindOdd && odd >= mostOdd {
		return
	}
	o.Row = append(o.Row, Evidence{Call: c.Key, Agent: c.Agent, Kind: k, At: now})
}

// hard are the failures that count.
func (o *Operation) hard() []Evidence {
	return slices.DeleteFunc(slices.Clone(o.Row), func(e Evidence) bool { return e.Kind == kindOdd })
}

// agentOf is the one agent whose calls all of these were, if there is one.
func agentOf(row []Evidence) string {
	for _, e := range row {
		if e.Agent != row[0].Agent {
			return ""
		}
	}
	if len(row) == 0 {
		return ""
	}
	return row[0].Agent
}

// outage says why the provider as a whole is to be left alone at once; no
// reason means that it is not.
func (r *Record) outage(p Policy) string {
	row := r.sinceSuccess()
	failing := map[string]bool{} // operations
	of := make(map[kind]int)     // calls
	var all []Evidence
	for _, f := range row {
		failing[f.operation] = true
		of[f.Kind]++
		all = append(all, f.Evidence)
	}
	switch {
	case of[kindUnreached] >= p.Failures:
		return fmt.Sprintf("%d different calls in a row got no connection", of[kindUnreached])
	case of[kindUnauthorized] >= p.Failures:
		return fmt.Sprintf("the key was refused for %d different calls in a row", of[kindUnauthorized])
	case len(failing) >= max(p.Failures, 2) && agentOf(all) == "":
		return fmt.Sprintf("calls of %d operations failed in a row, for more than one agent", len(failing))
	}
	return ""
}

// failure is evidence with the operation that it is about.
type failure struct {
	Evidence
	operation string
}

// sinceSuccess are the different calls that failed since anything of the
// provider has succeeded.
func (r *Record) sinceSuccess() (row []failure) {
	for _, o := range r.Operations {
		for _, e := range o.hard() {
			if e.At.After(r.LastSuccess) {
				row = append(row, failure{e, o.Name})
			}
		}
	}
	return row
}

// openSinceSuccess are the operations that opened since anything of the
// provider has succeeded, the first of them first.
func (r *Record) openSinceSuccess() []Operation {
	return slices.DeleteFunc(r.OpenOperations(), func(o Operation) bool { return !o.OpenedAt.After(r.LastSuccess) })
}

// agentOfOpen is the one agent that all of these are open for, if there is one.
func agentOfOpen(open []Operation) string {
	agent := open[0].Agent
	if slices.ContainsFunc(open, func(o Operation) bool { return o.Agent != agent }) {
		return ""
	}
	return agent
}

// open opens a circuit for what its failures have in common.
func (c *Circuit) open(agent, call, why string, now time.Time, open time.Duration) {
	*c = Circuit{State: Open, Agent: agent, Call: call, OpenedAt: now, OpenUntil: now.Add(open), Why: why}
}

// widen makes a circuit open for one more call that failed.
func (c *Circuit) widen(failed Call) {
	if c.Covers(failed) {
		return
	}
	c.Call = ""
	if c.Agent != failed.Agent {
		c.Agent = ""
	}
}

// Succeeded ends the row of the call's operation and closes its circuit and
// the provider's, whoever's call it was.
func (r Record) Succeeded(c Call, now time.Time) Record {
	if !r.Awaits(c) {
		return r
	}
	now = now.UTC()
	r = r.clone()
	r.LastSuccess = now
	if i := r.index(c.Operation); i >= 0 {
		o := &r.Operations[i]
		o.Row, o.Circuit, o.LastSuccess = nil, Circuit{}, now
	}
	r.closeProvider(now)
	return r
}

// closeProvider closes the provider's circuit, and lets the operations that
// are open still be probed at once: what failed with it may be back with it.
func (r *Record) closeProvider(now time.Time) {
	if !r.Held() {
		return
	}
	r.Circuit = Circuit{State: Closed}
	for i := range r.Operations {
		if o := &r.Operations[i]; o.State == Open && o.OpenUntil.After(now) {
			o.OpenUntil = now
		}
	}
}

// Calm reports whether it awaits no call at all.
func (r Record) Calm() bool {
	return !r.Held() && !r.LastFailure.After(r.LastSuccess) &&
		!slices.ContainsFunc(r.Operations, func(o Operation) bool { return o.Held() || len(o.Row) > 0 })
}

// Awaits reports whether a success of the call is news: it ends a row of
// failures, or is the first of the provider since one.
func (r Record) Awaits(c Call) bool {
	if r.Held() || r.LastFailure.After(r.LastSuccess) {
		return true
	}
	i := r.index(c.Operation)
	return i >= 0 && (r.Operations[i].Held() || len(r.Operations[i].Row) > 0)
}
