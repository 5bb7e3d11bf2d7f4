package circuit

import (
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"
)

// Breaker is this worker's view of the circuit: gobreaker's state machine,
// put into the state that the fleet's record says. It knows by itself when an
// open circuit has waited long enough, and lets one call through then.
type Breaker struct {
	off    bool
	two    *gobreaker.TwoStepCircuitBreaker[struct{}]
	until  time.Time // what it was put into open for
	opened bool      // the record says open or half-open: a failure trips
}

// NewBreaker is a closed one. failures is after how many of them the circuit
// opens; with none it never does, and lets everything through.
func NewBreaker(failures int) *Breaker {
	b := &Breaker{off: failures <= 0}
	b.reset(time.Hour)
	return b
}

func (b *Breaker) reset(open time.Duration) {
	b.two = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     max(open, 1), // 0 would mean a minute
		// Failures of different requests are counted by the record, for the fleet.
		ReadyToTrip: func(gobreaker.Counts) bool { return b.opened },
		IsExcluded:  func(err error) bool { return errors.Is(err, errNoVerdict) },
	})
}

// Closed reports whether ordinary calls may go. Nothing but the record takes
// the breaker out of closed or back, so there is no need to ask it.
func (b *Breaker) Closed() bool { return b.off || !b.opened }

// Allow lets one call start; done is told how it ended.
func (b *Breaker) Allow() (done func(error), ok bool) {
	if b.off {
		return func(error) {}, true
	}
	done, err := b.two.Allow()
	return done, err == nil
}

// Sees takes what the record says, and no more: a call of this worker's may
// be about to tell of the failure that opened it.
func (b *Breaker) Sees(c Record) { b.opened = c.Held() }

// Follow puts the breaker into the record's state. A probe of this worker's
// own keeps the half-open state that it was claimed in.
func (b *Breaker) Follow(c Record, worker string, now time.Time) {
	b.Sees(c)
	switch {
	case b.off:
	case !c.Held():
		if b.two.State() != gobreaker.StateClosed {
			b.reset(time.Hour)
		}
		b.until = time.Time{}
	case c.State == HalfOpen && c.Prober == worker && now.Before(c.ProbeUntil):
		if b.two.State() == gobreaker.StateOpen { // the two clocks part by a hair
			b.trip(1)
		}
	case !b.until.Equal(c.Until()) || b.two.State() == gobreaker.StateClosed:
		b.until = c.Until()
		b.trip(b.until.Sub(now) - 1) // it is open for longer than its timeout
	}
}

// trip puts the breaker into open.
func (b *Breaker) trip(open time.Duration) {
	b.reset(open)
	if done, err := b.two.Allow(); err == nil {
		done(errCallFailed)
	}
}
