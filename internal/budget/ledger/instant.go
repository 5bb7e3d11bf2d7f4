package ledger

import "time"

// Instant is a moment of the server's time, in nanoseconds since 1970. The
// ledger never reads a clock.
type Instant int64

// InstantOf is the zero instant for the zero Time.
func InstantOf(t time.Time) Instant {
	if t.IsZero() {
		return 0
	}
	return Instant(t.UnixNano())
}

// Add is the moment d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub is how long i is after j.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// Time is the zero Time for the zero instant, which means "never" everywhere.
func (i Instant) Time() time.Time {
	if i == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(i))
}
