package circuit

import (
	"slices"
	"time"
)

// ProbeLeased reports whether somebody probes.
func (c Circuit) ProbeLeased(now time.Time) bool {
	return c.State == HalfOpen && now.Before(c.ProbeUntil)
}

// Due reports whether a probe may be claimed.
func (c Circuit) Due(now time.Time) bool { return c.Held() && !now.Before(c.Until()) }

// Until is when a circuit that is not closed can next be probed.
func (c Circuit) Until() time.Time {
	if c.State == HalfOpen {
		return c.ProbeUntil
	}
	return c.OpenUntil
}

// longestTurn is how long a due probe is left to others than the last prober.
const longestTurn = 4 * time.Second

// MayProbe reports whether a call of those that the circuit is open for may
// be its probe now. After a probe that failed, the next is another's if there
// is another: it may go at once, the same agent's other calls a while later,
// and the same call last.
func (c Circuit) MayProbe(call Call, now time.Time) bool {
	return c.Held() && !now.Before(c.ProbeAt(call))
}

// ProbeAt is when a call may be the probe, as far as is known now.
func (c Circuit) ProbeAt(call Call) time.Time {
	due := c.Until()
	if len(c.Probes) == 0 {
		return due
	}
	last := c.Probes[len(c.Probes)-1]
	// A turn is short where the circuit is open for a short time only.
	turn := min(max(c.OpenUntil.Sub(last.At)/4, 0), longestTurn)
	switch {
	case last.Call == call.Key:
		if c.Call == "" {
			due = due.Add(turn)
		}
		if again := last.At.Add(backOff(c.Repeats)); again.After(due) {
			due = again
		}
	case last.Agent == call.Agent && c.Agent == "":
		due = due.Add(turn / 2)
	}
	return due
}

// Turns is how long ago an agent and a call have probed in vain, for whoever
// chooses the next: 0 if not lately, and the more the later.
func (c Circuit) Turns(call Call) (agent, same int) {
	for i, p := range c.Probes {
		if p.Agent == call.Agent {
			agent = i + 1
		}
		if p.Call == call.Key {
			same = i + 1
		}
	}
	return agent, same
}

// Claimed gives the probe of a circuit to one, if nobody has it.
func (r Record) Claimed(operation string, c Call, prober string, now, until time.Time) Record {
	circuit := r.Of(operation)
	if !circuit.Covers(c) || !circuit.MayProbe(c, now) {
		return r
	}
	r = r.clone()
	k := r.circuit(operation)
	k.State, k.Prober, k.ProbeUntil = HalfOpen, prober, until.UTC()
	return r
}

// Probed ends a probe, which cost some bytes. A 429 is an answer: the circuit
// closes, and the hold that follows does the waiting. A probe that learnt
// nothing frees its lease.
func (r Record) Probed(operation string, c Call, prober string, o Outcome, spent int64, now time.Time, p Policy) Record {
	if o == Success {
		return r.Succeeded(c, now) // whoever's it was
	}
	if k := r.Of(operation); k.State != HalfOpen || k.Prober != prober {
		return r // the lease had ended and another has it
	}
	now = now.UTC()
	r = r.clone()
	k := r.circuit(operation)
	k.State, k.Prober, k.ProbeUntil = Open, "", time.Time{}
	switch {
	case o == Throttled && operation == "":
		r.closeProvider(now)
	case o == Throttled:
		i := r.index(operation)
		r.Operations[i].Row, r.Operations[i].Circuit = nil, Circuit{}
	case o.Failed():
		r.LastFailure = now
		k.failedProbe(c, spent, now, p)
	}
	return r
}

// failedProbe books a probe that failed and sets the time of the next.
func (c *Circuit) failedProbe(call Call, spent int64, now time.Time, p Policy) {
	if n := len(c.Probes); n == 0 || c.Probes[n-1].Call != call.Key {
		c.Repeats = 0
	}
	c.Repeats++
	c.Spent += spent
	c.Probes = append(c.Probes, Probe{Agent: call.Agent, Call: call.Key, At: now})
	if n := len(c.Probes) - mostProbes; n > 0 {
		c.Probes = slices.Delete(c.Probes, 0, n)
	}
	c.OpenUntil = now.Add(p.Open)
}

// A probe that is always the same call may be what fails, whoever is back: it
// costs its bytes each time and finds out little. So it waits for longer and
// longer, and any other call may probe before it.
const (
	patientProbes = 10 // of the same call are as far apart as any
	firstBackOff  = time.Minute
	mostBackOff   = 15 * time.Minute
)

// backOff is how long after so many failures of the same probe the next waits
// at least.
func backOff(repeats int) time.Duration {
	if repeats < patientProbes {
		return 0
	}
	return min(firstBackOff<<min(repeats-patientProbes, 10), mostBackOff)
}
