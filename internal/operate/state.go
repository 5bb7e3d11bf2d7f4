package operate

import (
	"time"

	"fetchworker/internal/browse"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/dlq"
	"fetchworker/internal/wire"
)

// Seen is what a letter's state depends on besides the letter.
type Seen struct {
	Now  time.Time
	held func(dlq.Letter) bool // it does not go now, whatever its time
}

// State is where a letter is on its way: due, waiting, held, released or
// review.
func (v Seen) State(f browse.Found) string {
	switch {
	case f.Stream == wire.StreamReview:
		return "review"
	case f.Stream == wire.StreamReplay:
		return "released"
	case v.held(f.Letter):
		return "held"
	case Waits(f.Letter, v.Now):
		return "waiting"
	default:
		return "due"
	}
}

// Waits reports whether a letter whose gate is open waits for its time. What
// was parked for that gate does not.
func Waits(l dlq.Letter, now time.Time) bool {
	parked := l.Class == wire.ClassCircuitOpen || l.Class == wire.ClassPaused || l.Class == wire.ClassThrottled
	return !parked && l.NotBefore.After(now)
}

// Seen is how letters are seen now. The board is asked once a provider, not
// once a letter.
func (f *Fleet) Seen() Seen {
	type gate struct {
		held     bool
		circuits circuit.Record
	}
	now, known := f.desk.Now(), map[string]gate{}
	return Seen{now, func(l dlq.Letter) bool {
		g, ok := known[l.Provider]
		if !ok {
			reason, _ := f.Held(l.Provider, now)
			g = gate{reason != "", f.Provider(l.Provider, now).Circuit}
			known[l.Provider] = g
		}
		return g.held || covered(g.circuits, l)
	}}
}

// covered is whether a circuit is open for a letter now. The board is asked
// once a provider.
func (f *Fleet) covered() func(dlq.Letter) bool {
	now, known := f.desk.Now(), map[string]circuit.Record{}
	return func(l dlq.Letter) bool {
		r, ok := known[l.Provider]
		if !ok {
			r = f.Provider(l.Provider, now).Circuit
			known[l.Provider] = r
		}
		return covered(r, l)
	}
}

// covered reports whether a circuit is open for a letter.
func covered(circuits circuit.Record, l dlq.Letter) bool {
	if !circuits.AnyHeld() {
		return false
	}
	_, held := circuits.Covers(l.Call())
	return held
}
