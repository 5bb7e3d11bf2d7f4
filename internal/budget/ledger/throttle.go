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
// none of ours. This can only slow the fleet down.
func (r *Register) Foreign(shapes []Shape, told Told, now Instant) (booked int) {
	for i := range r.windows {
		w := &r.windows[i]
		if told.Per > 0 && w.per != told.Per || told.Per == 0 && w.per < told.Reset && i < len(r.windows)-1 {
			continue
		}
		v := view{window: w, Shape: shapeOf(shapes, w)}
		v.index()
		n := max(v.free(v.at(told.At))-told.Left, 0)
		w.add(v.at(told.At), n)
		w.tat = max(w.tat, now.Add(-slack)).Add(time.Duration(n) * v.Gap)
		return n
	}
	return 0
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
				wait = min(time.Duration(float64(firstHold<<(r.Strikes-1))*(0.8+0.4*jitter)), mostHold)
			}
		}
	}
	if wait = max(wait, least); wait > 0 {
		r.Hold = max(r.Hold, now.Add(wait))
	}
}

// Settled ends a throttle: its trial was answered.
func (r *Register) Settled() { r.Strikes, r.trial = 0, trial{} }

// Release gives a trial that learnt nothing to the next.
func (r *Register) Release(owner string) {
	if r.trial.owner == owner {
		r.trial = trial{}
	}
}
