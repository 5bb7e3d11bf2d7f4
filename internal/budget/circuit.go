package budget

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// CircuitState is the state of a provider's circuit, the same for the fleet.
type CircuitState string

// The states of a circuit.
const (
	CircuitClosed   CircuitState = "closed"    // calls go
	CircuitHalfOpen CircuitState = "half_open" // one probe is on its way
	CircuitOpen     CircuitState = "open"      // no calls; a probe once its time has passed
)

// Circuit is what the fleet shares about a provider's health: the value of
// circuit.<provider>. It is written only on a failure, on the success that
// ends a row of them, and by whoever probes, trips or resumes.
type Circuit struct {
	State       CircuitState `json:"state"`
	Row         []string     `json:"row,omitempty"`         // the different requests that failed since the last success
	LastSuccess time.Time    `json:"last_success,omitzero"` // as far as it was written
	LastFailure time.Time    `json:"last_failure,omitzero"` //
	OpenedAt    time.Time    `json:"opened_at,omitzero"`    // when it left closed
	OpenUntil   time.Time    `json:"open_until,omitzero"`   // when the next probe is due
	Why         string       `json:"why,omitempty"`         // what opened it
	Prober      string       `json:"prober,omitempty"`      // who holds the probe's lease
	ProbeUntil  time.Time    `json:"probe_until,omitzero"`  // the lease's end: a prober that died blocks no longer
	Writer      string       `json:"writer,omitempty"`      // who wrote this
}

func decodeCircuit(value []byte) (Circuit, error) {
	c := Circuit{State: CircuitClosed}
	if len(value) == 0 {
		return c, nil
	}
	if err := json.Unmarshal(value, &c); err != nil {
		return Circuit{State: CircuitClosed}, fmt.Errorf("circuit: %w", err)
	}
	return c, nil
}

// Held reports whether the circuit refuses ordinary calls.
func (c Circuit) Held() bool { return c.State == CircuitOpen || c.State == CircuitHalfOpen }

// ProbeLeased reports whether somebody probes.
func (c Circuit) ProbeLeased(now time.Time) bool {
	return c.State == CircuitHalfOpen && now.Before(c.ProbeUntil)
}

// Due reports whether a probe may be claimed.
func (c Circuit) Due(now time.Time) bool { return c.Held() && !now.Before(c.until()) }

// until is when a circuit that is not closed can next be probed.
func (c Circuit) until() time.Time {
	if c.State == CircuitHalfOpen {
		return c.ProbeUntil
	}
	return c.OpenUntil
}

// failed counts a failure. A request that fails again counts once, so one
// that always fails cannot open a circuit by itself.
func (c Circuit) failed(request string, now time.Time, most int, open time.Duration) Circuit {
	if most <= 0 || c.State != CircuitClosed || (request != "" && slices.Contains(c.Row, request)) {
		return c
	}
	c.Row = append(slices.Clip(c.Row), request)
	c.LastFailure = now
	if len(c.Row) < most {
		return c
	}
	return c.tripped(fmt.Sprintf("%d different requests failed in a row", len(c.Row)), now, open)
}

// succeeded ends a row of failures.
func (c Circuit) succeeded(now time.Time) Circuit {
	if c.State != CircuitClosed || len(c.Row) == 0 {
		return c
	}
	c.Row, c.LastSuccess = nil, now
	return c
}

// tripped opens the circuit.
func (c Circuit) tripped(why string, now time.Time, open time.Duration) Circuit {
	if c.State == CircuitClosed {
		c.OpenedAt = now
	}
	c.State, c.OpenUntil, c.Why = CircuitOpen, now.Add(open), why
	c.Row, c.Prober, c.ProbeUntil = nil, "", time.Time{}
	return c
}

// claimed gives the probe to one, if nobody has it.
func (c Circuit) claimed(prober string, now, until time.Time) Circuit {
	if !c.Due(now) {
		return c
	}
	c.State, c.Prober, c.ProbeUntil = CircuitHalfOpen, prober, until
	return c
}

// probed ends a probe. A 429 is an answer: the circuit closes, and the hold
// that follows does the waiting. A probe that learnt nothing frees its lease.
func (c Circuit) probed(prober string, o Outcome, now time.Time, open time.Duration) Circuit {
	if c.State != CircuitHalfOpen || c.Prober != prober {
		return c // the lease had ended and another has it
	}
	switch o {
	case Success:
		c.LastSuccess = now
		return c.closed()
	case Throttled:
		return c.closed()
	case Failure:
		c.LastFailure = now
		return c.tripped(c.Why, now, open)
	case Unused, Neutral:
	}
	c.State, c.Prober, c.ProbeUntil = CircuitOpen, "", time.Time{}
	return c
}

// closed is the circuit after a probe or an operator closed it.
func (c Circuit) closed() Circuit {
	return Circuit{State: CircuitClosed, LastSuccess: c.LastSuccess, LastFailure: c.LastFailure}
}

func (c Circuit) equal(d Circuit) bool {
	return c.State == d.State && slices.Equal(c.Row, d.Row) && c.LastSuccess.Equal(d.LastSuccess) &&
		c.OpenUntil.Equal(d.OpenUntil) && c.Prober == d.Prober && c.ProbeUntil.Equal(d.ProbeUntil)
}
