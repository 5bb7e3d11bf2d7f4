package circuit

import (
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"
)

// Breaker is this worker's view of the circuits that are not closed: for each
// gobreaker's state machine, put into the state that the fleet's record says.
// It knows by itself when a circuit has been open for long enough, and lets
// one call through then.
type Breaker struct {
	machines map[string]*machine // by operation; the provider's has no name
}

type machine struct {
	two   *gobreaker.TwoStepCircuitBreaker[struct{}]
	until time.Time // what it was put into open for
}

// NewBreaker is one of closed circuits.
func NewBreaker() *Breaker { return &Breaker{machines: map[string]*machine{}} }

// Allow lets a circuit's probe start; done is told how it ended. Of a closed
// circuit any call may start.
func (b *Breaker) Allow(operation string) (done func(Outcome), ok bool) {
	m := b.machines[operation]
	if m == nil {
		return func(Outcome) {}, true
	}
	told, err := m.two.Allow()
	if err != nil {
		return nil, false
	}
	return func(o Outcome) { told(o.verdict()) }, true
}

// Follow puts every machine into the record's state. A probe of this worker's
// own keeps the half-open state that it was claimed in.
func (b *Breaker) Follow(r Record, worker string, now time.Time) {
	for operation := range b.machines {
		if !r.Of(operation).Held() {
			delete(b.machines, operation)
		}
	}
	if r.Held() {
		b.follow("", r.Circuit, worker, now)
	}
	for _, o := range r.Operations {
		if o.Held() {
			b.follow(o.Name, o.Circuit, worker, now)
		}
	}
}

func (b *Breaker) follow(operation string, c Circuit, worker string, now time.Time) {
	m := b.machines[operation]
	if m == nil {
		m = &machine{}
		b.machines[operation] = m
	}
	switch {
	case c.State == HalfOpen && c.Prober == worker && now.Before(c.ProbeUntil):
		if m.two == nil || m.two.State() == gobreaker.StateOpen { // the two clocks part by a hair
			m.trip(1)
		}
	case m.two == nil || !m.until.Equal(c.Until()) || m.two.State() == gobreaker.StateClosed:
		m.until = c.Until()
		m.trip(m.until.Sub(now) - 1) // it is open for longer than its timeout
	}
}

// trip puts a machine into open, for a while.
func (m *machine) trip(open time.Duration) {
	m.two = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     max(open, 1), // 0 would mean a minute
		// Failures of different calls are counted by the record, for the fleet.
		ReadyToTrip: func(gobreaker.Counts) bool { return true },
		IsExcluded:  func(err error) bool { return errors.Is(err, errNoVerdict) },
	})
	if done, err := m.two.Allow(); err == nil {
		done(errCallFailed)
	}
}
