package intake

import "time"

// A worker looks ahead: it holds some messages of a shard that wait for their
// turn, so that none has to be asked for in the moment it could start. How
// many is what a heavy agent can put before a neighbour of its shard, so it
// follows the pace at which requests really start: as many as start while more
// are fetched, and in a moment besides; never more than start in a tenth of a
// second, nor than the provider's limits let start in one. Where permits are
// scarce that is two. (A fixed two held one agent without a limit at two messages
// a round trip, a sixth of what a bare loop does. A tenth of a second's always
// kept the requests of many busy agents waiting for their turn for so long that
// each looked into the cache once more: with sixteen of them a third of the CPU.)
const (
	lookAhead       = 2
	lookAheadReplay = 4 // the replay consumer is one for all agents
	lookAheadMost   = 128
	paceOver        = 100 * time.Millisecond
	moment          = 40 * time.Millisecond
	// lookAheadFew is not worth being made less: each message would be asked for
	// by itself.
	lookAheadFew = 16
)

// pace counts starts in the present tenth of a second.
type pace struct {
	since  time.Time
	starts int
}

// quicken makes the look-ahead follow the pace of the starts, this one
// included: up at once, down when a tenth of a second is over.
func (s *Shard) quicken(now time.Time) {
	p := &s.pace
	if over := now.Sub(p.since); over >= paceOver {
		if s.ahead = s.least; over < 2*paceOver {
			s.ahead = s.bound(p.starts)
		}
		*p = pace{since: now}
	}
	p.starts++
	s.ahead = max(s.ahead, s.bound(p.starts))
}

// bound is the look-ahead for so many starts in a tenth of a second.
func (s *Shard) bound(starts int) int {
	most := int(min(s.rate()*paceOver.Seconds(), lookAheadMost))
	soon := int(time.Duration(starts) * min(s.trip+moment, paceOver) / paceOver)
	soon = max(soon, min(starts, lookAheadFew))
	return max(s.least, min(soon, most))
}

// took notes how long the first message of a request took to come. While nothing
// waits that says little: it counts for less the longer it was, and a short one
// at once.
func (s *Shard) took(trip time.Duration) {
	if trip = min(trip, paceOver); trip < s.trip {
		s.trip = trip
	} else {
		s.trip += (trip - s.trip) / 16
	}
}
