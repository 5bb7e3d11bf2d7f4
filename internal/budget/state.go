package budget

import (
	"time"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/meter"
)

// State is a gate as it is now, without a round trip.
type State struct {
	Now time.Time // the server's

	Circuit     circuit.State       // the provider's
	OpenUntil   time.Time           // when a probe of it is due
	Operations  []circuit.Operation // whose own circuits are not closed
	PausedUntil time.Time
	HoldUntil   time.Time // a 429's hold

	BytesUsed, BytesLimit int64 // of the month; limit 0: none
	MonthEnds             time.Time

	Limits   ledger.Limits // in force
	Left     int           // permits that could be had now; -1: unlimited, or not known
	NextAt   time.Time     // when an interactive request with others behind it can have one
	InHand   int           // permits claimed and not used yet
	InFlight int

	Quota  string // that the provider shares with others; empty: none
	AtOnce int    // calls that the fleet may make at once; 0: any number
	Taken  int    // of them: under way, or about to be, in the whole fleet
	Seats  int    // of these: this worker's

	Waiting int

	Writes    int64 // of the permits register since Open
	Conflicts int64 // those of them that were not, or perhaps not, stored
	Lapsed    int64 // permits claimed since Open that lapsed before they could be used
	Foreign   int64 // calls that the provider counted and nobody here made, as far as this worker booked them

	Unsure time.Duration // how wrong the server's time may be, as it is known here
	Unable string        // why this worker cannot call the provider; empty: it can
}

// State is a snapshot.
func (g *Gate) State() State {
	used, limit := g.bytes.Seen()
	g.mu.Lock()
	defer g.mu.Unlock()
	at := g.clock.Now()
	now := ledger.InstantOf(at)
	c := g.circuit.record()
	s := State{
		Now: at, Circuit: c.State, Operations: c.OpenOperations(), PausedUntil: g.control.PausedUntil(at),
		BytesUsed: used, BytesLimit: limit, MonthEnds: meter.NextMonth(at),
		Left: g.planner.Left(now), InHand: g.planner.InHand(), InFlight: g.planner.UnderWay(), Waiting: g.planner.Queued(),
	}
	s.Writes, s.Conflicts, s.Lapsed = g.planner.Traffic()
	s.Foreign, s.Unsure = g.foreign, g.planner.Unsure()
	if err := g.unable.err(); err != nil {
		s.Unable = err.Error()
	}
	s.Quota = g.s.Quota
	s.AtOnce, s.Taken, s.Seats = g.planner.Seats(now)
	s.Limits, _ = g.control.InForce(g.s.Limits, at)
	if c.Held() {
		s.OpenUntil = c.Until()
	}
	if r := g.planner.Prospect(now); r != nil {
		if r.Hold > now {
			s.HoldUntil = r.Hold.Time()
		}
		s.NextAt = g.planner.Soonest(ledger.Heavy, now).Time()
	}
	return s
}

// Now is the server's time.
func (g *Gate) Now() time.Time { return g.clock.Now() }
