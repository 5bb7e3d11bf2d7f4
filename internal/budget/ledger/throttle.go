package ledger

import "time"

// The waits after 429s without a Retry-After, and the most a Retry-After is
// believed: a header is no reason to stop for a month.
const (
	firstHold = time.Second
	mostHold  = 15 * time.Minute
	mostAfter = 24 * time.Hour
)

// Told is what a provider said of its own count.
type Told struct {
	At    Instant       // when
	Left  int           // calls
	Reset time.Duration // until that count starts anew; 0: it did not say
	Per   time.Duration // of the window it is about; 0: the shortest that can be
}

// Foreign books what a provider counts that we do not: it said that only
// told.Left calls remain of the window of told.Per, or of the one that resets in
// told.Reset (the shortest, if it did not say). A window that we do not keep is
// none of ours. They are booked so that they fall out of the window when
// the provider counts anew. This can only slow the fleet down.
func (r *Register) Foreign(shapes []Shape, told Told, now Instant) (booked int) {
	last := 0 // of the provider's own
	for i := range r.windows {
		if r.windows[i].group == "" {
			last = i
		}
	}
	for i := range r.windows {
		w := &r.windows[i]
		if w.group != "" {
			continue // the provider speaks of all its calls
		}
		if told.Per > 0 && w.per != told.Per || told.Per == 0 && w.per < told.Reset && i < last {
			continue
		}
		s := shapeOf(shapes, w)
		at, reset := s.at(told.At), told.At.Add(s.span)
		if told.Reset > 0 && told.Reset < s.span {
			reset = told.At.Add(told.Reset)
			at = max(min(at, s.at(reset)-s.k+1), w.base) // the last tick that no longer counts after reset
		}
		booked = max(s.N-told.Left-w.sum(at, at+s.k-1), 0)
		if booked > 0 {
			w.add(at, booked)
			w.tat = max(w.tat, s.start(at).Add(time.Duration(booked)*s.Gap))
			r.foreign = Foreign{N: r.ForeignCalls(now).N + booked, Until: reset - reset%Instant(time.Second)}
		}
		return booked
	}
	return 0
}

// ForeignCalls is what the provider last counted beyond us, and zero once it
// counts anew.
func (r *Register) ForeignCalls(now Instant) Foreign {
	if now >= r.foreign.Until {
		return Foreign{}
	}
	return r.foreign
}

// Throttled books a 429. The first, and that of the trial which is owner's, is
// a strike and doubles the wait; calls that were on their way when the hold came
// are not.
func (r *Register) Throttled(now Instant, owner string, after, least time.Duration, jitter float64) {
	wait := min(after, mostAfter)
	if r.Strikes == 0 || (owner != "" && r.trial.owner == owner) {
		r.Strikes++
		r.trial = trial{}
		if wait <= 0 {
			wait = mostHold
			if r.Strikes <= 10 {
				wait = time.Duration(float64(firstHold<<(r.Strikes-1)) * (0.8 + 0.4*jitter)) // at most ten minutes
			}
		}
	}
	if wait = max(wait, least); wait > 0 {
		r.Hold = max(r.Hold, now.Add(wait))
	}
}

// Settled ends a throttle: the trial that owner began was answered. It
// changes nothing if another 429 came meanwhile: that one asks for a trial of
// its own.
func (r *Register) Settled(owner string) {
	if r.trial.owner == owner {
		r.Strikes, r.trial = 0, trial{}
	}
}

// Lift ends a hold and a throttle: a person says so.
func (r *Register) Lift() { r.Hold, r.Strikes, r.trial = 0, 0, trial{} }

// Release gives a trial that learnt nothing to the next.
func (r *Register) Release(owner string) {
	if r.trial.owner == owner {
		r.trial = trial{}
	}
}
