package budget

import (
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"
)

// breaker is this worker's view of the circuit: gobreaker's state machine,
// put into the state that the fleet's record says. It knows by itself when an
// open circuit has waited long enough, and lets one call through then.
type breaker struct {
	off    bool
	two    *gobreaker.TwoStepCircuitBreaker[struct{}]
	until  time.Time // what it was put into open for
	opened bool      // the record says open or half-open: a failure trips
}

var (
	errCallFailed = errors.New("call failed")
	errNoVerdict  = errors.New("says nothing about the provider")
)

// breakerResult is an outcome in gobreaker's words.
func breakerResult(o Outcome) error {
	switch o {
	case Success:
		return nil
	case Failure:
		return errCallFailed
	case Unused, Throttled, Neutral:
	}
	return errNoVerdict
}

func newBreaker(s Settings) *breaker {
	b := &breaker{off: s.CircuitFailures <= 0}
	b.reset(time.Hour)
	return b
}

func (b *breaker) reset(open time.Duration) {
	b.two = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     max(open, 1), // 0 would mean a minute
		// Failures of different requests are counted by the record, for the fleet.
		ReadyToTrip: func(gobreaker.Counts) bool { return b.opened },
		IsExcluded:  func(err error) bool { return errors.Is(err, errNoVerdict) },
	})
}

// closed reports whether ordinary calls may go. Nothing but the record takes
// the breaker out of closed or back, so there is no need to ask it.
func (b *breaker) closed() bool { return b.off || !b.opened }

// allow lets one call start; done is told how it ended.
func (b *breaker) allow() (done func(error), ok bool) {
	if b.off {
		return func(error) {}, true
	}
	done, err := b.two.Allow()
	return done, err == nil
}

// follow puts the breaker into the record's state. A probe of this worker's
// own keeps the half-open state that it was claimed in.
func (b *breaker) follow(c Circuit, worker string, now time.Time) {
	b.opened = c.Held()
	switch {
	case b.off:
	case !c.Held():
		if b.two.State() != gobreaker.StateClosed {
			b.reset(time.Hour)
		}
		b.until = time.Time{}
	case c.State == CircuitHalfOpen && c.Prober == worker && now.Before(c.ProbeUntil):
		if b.two.State() == gobreaker.StateOpen { // the two clocks part by a hair
			b.trip(1)
		}
	case !b.until.Equal(c.until()) || b.two.State() == gobreaker.StateClosed:
		b.until = c.until()
		b.trip(b.until.Sub(now) - 1) // it is open for longer than its timeout
	}
}

// trip puts the breaker into open.
func (b *breaker) trip(open time.Duration) {
	b.reset(open)
	if done, err := b.two.Allow(); err == nil {
		done(errCallFailed)
	}
}
