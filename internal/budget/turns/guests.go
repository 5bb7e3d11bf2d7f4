package turns

import (
	"time"

	"fetchworker/internal/budget/ledger"
)

// guests are the agents that hold places here, calls under way that is, or wait
// for one, or have called lately. Permits are shared out by turns, which says
// nothing of how long a call takes: one agent whose calls take ten seconds would
// come to hold all places, and a quick one of another's would wait for an end.
// So, as soon as half of the places are taken, whoever holds fewest is next; and
// the last places, one for each of the modest who may come back and a quarter at
// the most, are theirs. An agent that is alone has all of them.
type guests struct {
	of   map[string]*guest
	most int // so many, and those who are gone are forgotten
}

// guest is one agent, in all lanes and lines.
type guest struct {
	holds int
	waits int
	began ledger.Instant // the last of its calls
}

const (
	// lately is how long an agent is counted on to come back: who comes less often
	// may have to wait for the end of a call.
	lately = time.Minute
	// fewGuests are worth no look for those who are gone.
	fewGuests = 64
)

func newGuests() *guests { return &guests{of: map[string]*guest{}, most: fewGuests} }

// at is the guest of a name. now may be a little old.
func (g *guests) at(agent string, now ledger.Instant) *guest {
	if one := g.of[agent]; one != nil {
		return one
	}
	if len(g.of) >= g.most {
		for name, one := range g.of {
			if one.holds == 0 && !one.here(now) {
				delete(g.of, name)
			}
		}
		g.most = max(fewGuests, 2*len(g.of))
	}
	one := &guest{}
	g.of[agent] = one
	return one
}

// here reports whether it waits, or may come back any moment.
func (one *guest) here(now ledger.Instant) bool {
	return one.waits > 0 || one.began > 0 && now.Sub(one.began) < lately
}

// space is what is left of the places, for whoever comes next.
type space struct {
	few   int  // who holds fewer is modest
	tight bool // whoever holds fewest is next
	kept  int  // of the places: for the modest
	last  bool // what is left is for them
}

// space looks how much there is, with so many places taken.
func (g *guests) space(taken, places int, now ledger.Instant) space {
	s := space{few: max(places/8, 1), tight: len(g.of) > 1 && 2*taken >= places}
	most := places / 4
	if !s.tight || taken < places-most {
		return s
	}
	for _, one := range g.of {
		if s.kept < most && one.holds < s.few && one.here(now) {
			s.kept++
		}
		if s.kept == most {
			break
		}
	}
	s.last = taken >= places-s.kept
	return s
}

// may reports whether there is a place for someone.
func (s space) may(w *Waiter) bool { return !s.last || w.guest.holds < s.few }

// first is who comes first of a line, -1 if nobody does.
func (s space) first(line []*Waiter) int {
	for i, w := range line {
		if s.may(w) {
			return i
		}
	}
	return -1
}

// room is how many calls could begin at once of those that wait.
func (g *guests) room(taken, places int, now ledger.Instant) int {
	s := g.space(taken, places, now)
	left := places - taken
	room := max(left-s.kept, 0)
	if s.kept == 0 {
		return room
	}
	for _, one := range g.of {
		if room >= left {
			break
		}
		room += min(one.waits, max(s.few-one.holds, 0))
	}
	return min(room, left)
}
