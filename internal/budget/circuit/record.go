package circuit

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// State is the state of a provider's circuit, the same for the fleet.
type State string

// The states of a circuit.
const (
	Closed   State = "closed"    // calls go
	HalfOpen State = "half_open" // one probe is on its way
	Open     State = "open"      // no calls; a probe once its time has passed
)

// Record is what the fleet shares about a provider's health: the value of
// circuit.<provider>. It is written only on a failure, on the success that
// ends a row of them, and by whoever probes, trips or resumes.
type Record struct {
	State       State     `json:"state"`
	Row         []string  `json:"row,omitempty"`         // the different requests that failed since the last success
	LastSuccess time.Time `json:"last_success,omitzero"` // as far as it was written
	LastFailure time.Time `json:"last_failure,omitzero"` //
	OpenedAt    time.Time `json:"opened_at,omitzero"`    // when it left closed
	OpenUntil   time.Time `json:"open_until,omitzero"`   // when the next probe is due
	Why         string    `json:"why,omitempty"`         // what opened it
	Prober      string    `json:"prober,omitempty"`      // who holds the probe's lease
	ProbeUntil  time.Time `json:"probe_until,omitzero"`  // the lease's end: a prober that died blocks no longer
	Writer      string    `json:"writer,omitempty"`      // who wrote this
}

// Decode reads a record; no value is a closed circuit.
func Decode(value []byte) (Record, error) {
	c := Record{State: Closed}
	if len(value) == 0 {
		return c, nil
	}
	if err := json.Unmarshal(value, &c); err != nil {
		return Record{State: Closed}, fmt.Errorf("circuit: %w", err)
	}
	return c, nil
}

// Held reports whether the circuit refuses ordinary calls.
func (c Record) Held() bool { return c.State == Open || c.State == HalfOpen }

// ProbeLeased reports whether somebody probes.
func (c Record) ProbeLeased(now time.Time) bool {
	return c.State == HalfOpen && now.Before(c.ProbeUntil)
}

// Due reports whether a probe may be claimed.
func (c Record) Due(now time.Time) bool { return c.Held() && !now.Before(c.Until()) }

// Until is when a circuit that is not closed can next be probed.
func (c Record) Until() time.Time {
	if c.State == HalfOpen {
		return c.ProbeUntil
	}
	return c.OpenUntil
}

// Failed counts a failure. A request that fails again counts once, so one
// that always fails cannot open a circuit by itself.
func (c Record) Failed(request string, now time.Time, most int, open time.Duration) Record {
	if most <= 0 || c.State != Closed || (request != "" && slices.Contains(c.Row, request)) {
		return c
	}
	c.Row = append(slices.Clip(c.Row), request)
	c.LastFailure = now
	if len(c.Row) < most {
		return c
	}
	return c.Tripped(fmt.Sprintf("%d different requests failed in a row", len(c.Row)), now, open)
}

// Succeeded ends a row of failures.
func (c Record) Succeeded(now time.Time) Record {
	if c.State != Closed || len(c.Row) == 0 {
		return c
	}
	c.Row, c.LastSuccess = nil, now
	return c
}

// Tripped opens the circuit.
func (c Record) Tripped(why string, now time.Time, open time.Duration) Record {
	if c.State == Closed {
		c.OpenedAt = now
	}
	c.State, c.OpenUntil, c.Why = Open, now.Add(open), why
	c.Row, c.Prober, c.ProbeUntil = nil, "", time.Time{}
	return c
}

// Claimed gives the probe to one, if nobody has it.
func (c Record) Claimed(prober string, now, until time.Time) Record {
	if !c.Due(now) {
		return c
	}
	c.State, c.Prober, c.ProbeUntil = HalfOpen, prober, until
	return c
}

// Probed ends a probe. A 429 is an answer: the circuit closes, and the hold
// that follows does the waiting. A probe that learnt nothing frees its lease.
func (c Record) Probed(prober string, o Outcome, now time.Time, open time.Duration) Record {
	if c.State != HalfOpen || c.Prober != prober {
		return c // the lease had ended and another has it
	}
	switch o {
	case Success:
		c.LastSuccess = now
		return c.Reset()
	case Throttled:
		return c.Reset()
	case Failure:
		c.LastFailure = now
		return c.Tripped(c.Why, now, open)
	case Unused, Neutral:
	}
	c.State, c.Prober, c.ProbeUntil = Open, "", time.Time{}
	return c
}

// Reset is the circuit after a probe or an operator closed it.
func (c Record) Reset() Record {
	return Record{State: Closed, LastSuccess: c.LastSuccess, LastFailure: c.LastFailure}
}

func (c Record) Equal(d Record) bool {
	return c.State == d.State && slices.Equal(c.Row, d.Row) && c.LastSuccess.Equal(d.LastSuccess) &&
		c.OpenUntil.Equal(d.OpenUntil) && c.Prober == d.Prober && c.ProbeUntil.Equal(d.ProbeUntil)
}
