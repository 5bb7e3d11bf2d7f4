package headers

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// FuzzHeaders: whatever an answer's headers say, a hold is bounded and can be
// shown, counts are none or whole, and an age is none or past.
func FuzzHeaders(f *testing.F) {
	for _, seed := range []string{
		"Retry-After: 120", "Retry-After: Tue, 01 Jan 2055 00:00:00 GMT\nDate: Fri, 13 Feb 2026 12:00:00 GMT", "Retry-After: 1e400",
		"X-Ratelimit-Limit: 60\nX-Ratelimit-Remaining: 3\nX-Ratelimit-Reset: 1770984030", "Ratelimit: \"a\";r=0;t=5, \"b\";r=1;t=20\nRatelimit-Policy: \"b\";q=7;w=60",
		"Ratelimit: limit=100, remaining=50, reset=30", "Age: 600\nDate: Fri, 13 Feb 2026 11:56:00 GMT", "Age: 99999999999999999999", "X-Ratelimit-Reset: -1\nX-Ratelimit-Remaining: 0",
	} {
		f.Add(seed, 429)
	}
	f.Fuzz(func(t *testing.T, text string, status int) {
		h := http.Header{}
		for line := range strings.SplitSeq(text, "\n") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				h.Add(name, value)
			}
		}
		hold := HoldOf(h, status, time.Minute, now)
		if hold.Wait < 0 || hold.Wait > longestOf5xx || len(hold.Sent) > longestHeading {
			t.Fatalf("%q: %+v", text, hold)
		}
		if status < 500 && hold.Wait > leastLongest {
			t.Fatalf("%q: %+v for a window of a minute", text, hold)
		}
		for _, c := range Counts(h, now) {
			if c.Remaining < -1 || c.Limit < -1 || c.Reset < -1 || c.Window < 0 {
				t.Fatalf("%q: %+v", text, c)
			}
		}
		if age := Age(h, now.Add(-time.Second), now); age < 0 || age > longestAge+time.Second {
			t.Fatalf("%q: %v old", text, age)
		}
	})
}
