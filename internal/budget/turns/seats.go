package turns

import (
	"time"

	"fetchworker/internal/budget/ledger"
)

// A seat is renewed while it is used, so that it is never over before a call
// that begins now might be.
const (
	seatSpare = 10 * time.Second // what a seat lasts beyond the longest call
	seatRenew = 5 * time.Second  // what is left of that when it is renewed
)

// seats is a worker's share of the calls that a fleet makes at once.
type seats struct {
	most   int            // calls of the whole fleet at once; 0: what the register says
	known  int            // what that was when the register was last known
	gaveUp int            // calls ended whose seats are for others, and that the register does not know of
	cap    int            // no more than so many: a write says so that may be stored or not; -1: none
	doubt  int            // cap without the write that is on its way
	since  uint64         // the revision that the last of those writes replaces
	back   bool           // the register was set back: who has which seats is not known
	after  ledger.Instant // and will be then
}

// undoubt ends the doubt about a write whose outcome nobody heard: it is in the
// register that replaced the same one, or it never will be.
func (p *Planner) undoubt() {
	if !p.writing && p.reg != nil && p.rev > p.seats.since {
		p.seats.cap = -1
	}
}

// AtOnce bounds how many calls the fleet makes at once. It is called once,
// before anything else.
func (p *Planner) AtOnce(n int) { p.seats.most = n }

// Seats are how many calls the fleet may make at once, how many are under way
// or may be, and how many of these are this worker's; most 0: any number.
func (p *Planner) Seats(now ledger.Instant) (most, taken, ours int) {
	if most = p.mostAtOnce(now); most > 0 && p.reg != nil {
		taken = p.reg.Taken(now)
		ours, _ = p.reg.Seats(p.name)
	}
	return most, taken, ours
}

func (p *Planner) mostAtOnce(now ledger.Instant) int {
	if p.reg != nil {
		p.seats.known = p.reg.AtOnce(p.seats.most, now)
	} else if p.seats.most > 0 {
		p.seats.known = p.seats.most
	}
	return p.seats.known
}

// seated is until when the seats here are good, and how many there are for
// calls that begin now. Where nobody counts them until is zero.
func (p *Planner) seated(now ledger.Instant) (n int, until ledger.Instant) {
	if p.mostAtOnce(now) == 0 {
		return p.slots, 0
	}
	if p.reg == nil || p.seats.back || now < p.seats.after {
		return 0, 0
	}
	n, until = p.reg.Seats(p.name)
	if now.Add(p.unsure+p.trialTime) > until {
		return 0, until
	}
	n -= p.seats.gaveUp
	if p.seats.cap >= 0 {
		n = min(n, p.seats.cap)
	}
	return min(max(n, 0), p.slots), until
}

// places is how many calls may be under way here.
func (p *Planner) places(now ledger.Instant) int {
	n, _ := p.seated(now)
	return n
}

// seatOrder is what the worker would have, and keeps in any case.
func (p *Planner) seatOrder(now ledger.Instant) ledger.SeatOrder {
	o := ledger.SeatOrder{
		Owner: p.name, Most: p.seats.most, Use: p.out, Want: min(p.out+p.Queued(), max(p.slots, p.out)), Ended: p.seats.gaveUp > 0,
		Term: p.trialTime + seatSpare, Unsure: p.unsure,
	}
	if now < p.seats.after {
		o.Want = o.Use
	}
	return o
}

// unseat gives a call's seat up when it ends, where others have waited longer
// for one.
func (p *Planner) unseat() {
	if most := p.seats.known; most > 0 && p.reg != nil && !p.reg.Fair(p.name, most, p.seen) {
		p.seats.gaveUp++
	}
}

// seatsDue reports whether the register should be told of seats, and if not,
// when to look again.
func (p *Planner) seatsDue(now ledger.Instant) (is bool, wake ledger.Instant) {
	if p.seats.back { // from now on, as from when it was lost
		p.seats.back, p.seats.after = false, now.Add(p.trialTime+seatSpare)
	}
	most := p.mostAtOnce(now)
	have, until := p.reg.Seats(p.name)
	wanted := p.reg.Wanted(p.name)
	if most == 0 && have+wanted == 0 {
		return false, 0
	}
	o := p.seatOrder(now)
	may, again := p.reg.MaySit(o, now)
	want := min(o.Want, most)
	switch {
	case p.seats.gaveUp > 0, may > have, want > have && want > wanted:
		p.due.seats = 0
		return true, 0
	case want < have || want < wanted: // perhaps somebody asks soon
		if p.due.seats == 0 {
			p.due.seats = p.soon(now)
		}
		return now >= p.due.seats, p.due.seats
	}
	p.due.seats = 0
	if want == 0 {
		return false, 0
	}
	renew := until.Add(-p.trialTime - seatRenew)
	if now < p.seats.after {
		again = earliest(again, p.seats.after)
	}
	return now >= renew, earliest(again, renew)
}
