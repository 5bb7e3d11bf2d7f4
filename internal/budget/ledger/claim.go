package ledger

import "time"

// Block is n permits with one validity.
type Block struct {
	From, Until Instant
	N           int    // calls
	Cost        int    // the units that each counts as; 0 is 1
	Group       string // of the operations it is for
	Class       Class  // what it was claimed for; who gets it is decided when the slot comes
	Paced       bool   // only the pacer allowed it: the provider is in demand
	Epoch       int64
}

// Units is how many of the limits' calls the block counts as.
func (b Block) Units() int { return b.N * max(b.Cost, 1) }

// Order is what a claimer wants.
type Order struct {
	Class     Class
	Group     string        // of the operations it is for; empty: only the provider's limits bound it
	Cost      int           // the units that each call counts as; 0 is 1
	Dearer    time.Duration // how much further ahead it may claim for that: see Dearer
	Want      int           // calls
	Shards    []int         // of the interactive requests it is for, in order
	Owner     string        // who claims: whose a trial is
	Trying    bool          // it has a trial under way
	TrialTime time.Duration // how long after the permit's end a trial is believed to be under way
	Took      time.Duration // how long a write takes: what ends sooner is not claimed
	Patience  time.Duration // how long anybody waits for a permit
	Unsure    time.Duration // how wrong the claimer's time may be
}

// Lead is how long before its slot the claimer may claim the first permit. It
// is counted where claims arrive, so that who may claim further ahead goes
// first however far away it is, and whoever is far away has its permit in time.
func (o Order) Lead() time.Duration { return o.Class.Lead() + o.Took/2 + o.Dearer }

func (o Order) units() int { return max(o.Cost, 1) }

// Claim books up to o.want permits and returns the register after it, what it
// booked, and the moment of the first slot for the rest (zero if there is no
// rest). The register given is not changed.
func (r *Register) Claim(shapes []Shape, now Instant, o Order) (*Register, []Block, Instant) {
	next := r.Clone()
	views := next.views(shapes, o.Group, now, o.Unsure)
	at := max(now, r.Hold)
	if tooDear(views, o) {
		return next, nil, at.Add(dearAgain)
	}
	if r.Strikes > 0 {
		// A hold is followed by one trial, which is in the register.
		if r.trial.until > now && (r.trial.owner != o.Owner || o.Trying) {
			return next, nil, r.trial.until.Add(o.Class.horizon())
		}
		o.Want = min(o.Want, 1)
	}
	horizon := o.Class.horizon() + o.Took/2 + o.Dearer
	limit := now.Add(o.Lead()) // for the first; then it fills up to its horizon
	var blocks []Block
	for o.Want > 0 {
		from, until, n, paced := next.slot(views, o, at, now)
		if from > limit {
			return next, blocks, from
		}
		n = min(n, o.Want)
		next.book(views, from, n*o.units(), now, o.Unsure)
		if o.Class <= Heavy {
			o.Shards = next.charge(shapes, o.Shards, n, o.units(), now)
		}
		blocks = append(blocks, Block{From: from, Until: until, N: n, Cost: o.units(), Group: o.Group, Class: o.Class, Paced: paced, Epoch: r.Epoch})
		o.Want -= n
		if r.Strikes > 0 {
			next.trial = trial{owner: o.Owner, until: until.Add(o.TrialTime)}
		}
		at, limit = boundary(views, from), now.Add(horizon)
	}
	return next, blocks, 0
}

// Unpaced is how long a permit is good for where there are no windows.
const Unpaced = 10 * time.Second

// slot finds the first moment from at on that allows a permit in every window:
// when the permit starts and ends, how many there are, and whether only the
// pacer allows them.
func (r *Register) slot(views []view, o Order, at, now Instant) (from, until Instant, n int, paced bool) {
	for {
		next := at
		from, until, n, paced = r.Hold, at.Add(Unpaced), 1<<30, false
		if len(views) > 0 {
			until = 1<<63 - 1
		}
		for i := range views {
			v := &views[i]
			tick := v.at(at)
			from = max(from, v.start(tick))
			until = min(until, v.end(tick).Add(v.Shape.grace))
			if !v.mine {
				continue
			}
			if first := v.first(o, tick, now); first > tick {
				next = max(next, v.start(first))
				continue
			}
			n = min(n, v.allow(o, tick, now)/o.units())
			paced = paced || v.free(tick)-o.leaves(v.Shape) < o.units()
		}
		if next == at && until < now.Add(o.Took+o.Unsure) {
			next = boundary(views, at) // it would lapse before the claim is stored
		}
		if next == at {
			return from, until, n, paced
		}
		at = next
	}
}

// boundary is where the next tick of any window starts.
func boundary(views []view, at Instant) Instant {
	next := Instant(1<<63 - 1)
	for i := range views {
		next = min(next, views[i].end(views[i].at(at)))
	}
	return next
}

// Next is the first moment at which a claimer can have a permit.
func (r *Register) Next(shapes []Shape, o Order, now Instant) Instant {
	next := r.Clone()
	views := next.views(shapes, o.Group, now, o.Unsure)
	if tooDear(views, o) {
		return max(now, r.Hold).Add(dearAgain)
	}
	from, _, _, _ := next.slot(views, o, max(now, r.Hold), now)
	return max(from, now)
}

// Left is how many permits could be had now, of the window with fewest.
func (r *Register) Left(shapes []Shape, now Instant) int {
	next := r.Clone()
	left := -1
	for _, v := range next.views(shapes, "", now, 0) {
		if free := v.left(v.at(now)); v.mine && (left < 0 || free < left) {
			left = free
		}
	}
	return left
}

// leaves is what a claimer leaves to those above it in a window. Where the
// pacer's spacing is longer than anybody waits, an interactive request is not
// delayed by it but sent away for hours, so there it may have all that is free.
func (o Order) leaves(s Shape) int {
	if s.Gap > o.Patience && o.Class <= Replay {
		return 0
	}
	return o.Class.reserve(s.N)
}
