package operate

import (
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
)

// Seen is what a letter's state depends on besides the letter.
type Seen struct {
	Now  time.Time
	held func(provider string) bool // its letters do not go now, whatever their time
}

// State is where a letter is on its way: due, waiting, held, released or
// review.
func (v Seen) State(f browse.Found) string {
	switch {
	case f.Stream == fetchworker.StreamReview:
		return "review"
	case f.Stream == fetchworker.StreamReplay:
		return "released"
	case v.held(f.Provider):
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
	parked := l.Class == fetchworker.ClassCircuitOpen || l.Class == fetchworker.ClassPaused
	return !parked && l.NotBefore.After(now)
}

// Seen is how letters are seen now. The board is asked once a provider, not
// once a letter.
func (f *Fleet) Seen() Seen {
	now, known := f.desk.Now(), map[string]bool{}
	return Seen{now, func(provider string) bool {
		held, ok := known[provider]
		if !ok {
			reason, _ := f.Held(provider, now)
			held = reason != ""
			known[provider] = held
		}
		return held
	}}
}
