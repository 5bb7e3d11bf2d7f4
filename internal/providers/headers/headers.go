// Package headers reads what an answer's headers tell besides the answer: when
// to come back, how many calls are left, how old the body is. What fits
// nothing is ignored. It is pure.
package headers

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// moments below these are no time of day in that unit, but a span.
const (
	leastUnix   = 1e9  // seconds: 2001
	leastMillis = 1e11 // milliseconds: 1973; as seconds it would be the year 5138
)

// RetryAfter reads both forms of Retry-After; of several values the longest
// that makes sense. asked is false when there is none.
func RetryAfter(header http.Header, now time.Time) (wait time.Duration, asked bool) {
	for i, text := range values(header, "Retry-After") {
		if i == 0 {
			now = served(header, now)
		}
		if one, ok := span(text, now); ok {
			wait, asked = max(wait, one), true
		}
	}
	return wait, asked
}

// served is the moment of the answer by the server's own clock, where it tells.
func served(header http.Header, now time.Time) time.Time {
	date := header.Get("Date")
	if date == "" {
		return now
	}
	if at, err := http.ParseTime(date); err == nil {
		return at
	}
	return now
}

// values are all values of a header: it may be there several times, and
// proxies join values by commas. A date has a comma too.
func values(header http.Header, name string) []string {
	var all []string
	for _, line := range header.Values(name) {
		if _, err := http.ParseTime(strings.TrimSpace(line)); err == nil {
			all = append(all, strings.TrimSpace(line))
			continue
		}
		for value := range strings.SplitSeq(line, ",") {
			all = append(all, strings.TrimSpace(value))
		}
	}
	return all
}

// span reads a time to wait or a moment to wait for: seconds, perhaps with a
// fraction, Unix seconds, Unix milliseconds, RFC 3339 or an HTTP date. A
// moment that has passed is no wait.
func span(text string, now time.Time) (wait time.Duration, ok bool) {
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		switch {
		case !(n >= 0) || strings.ContainsAny(text, "xXpPnN_"): // a number in words or of another base
			return 0, false
		case n >= leastMillis:
			return until(time.UnixMilli(int64(min(n, 1e15))), now), true
		case n >= leastUnix:
			return until(time.Unix(int64(n), 0), now), true
		}
		return time.Duration(n * float64(time.Second)), true
	}
	for _, parse := range []func(string) (time.Time, error){
		http.ParseTime,
		func(s string) (time.Time, error) { return time.Parse(time.RFC3339, s) },
	} {
		if at, err := parse(text); err == nil {
			return until(at, now), true
		}
	}
	return 0, false
}

func until(at, now time.Time) time.Duration { return max(at.Sub(now), 0) }

// Hold is how long an API asks to be left alone.
type Hold struct {
	Wait time.Duration // 0: it does not say
	Sent string        // the headers that said it, word for word, or that mean nothing; "" if there are none
}

const (
	leastLongest   = 15 * time.Minute // what is believed whatever the windows are
	longestOf5xx   = time.Hour        // a server that is down knows little of its limits
	longestHeading = 200              // of Sent, in bytes
)

// HoldOf reads how long a throttled answer of that status asks to wait:
// Retry-After, else on a 429 or another 4xx when the API says that its count
// starts anew. It is believed
// up to the longest window the API is known to have: a slip of the pen must
// not stop an API with a minute's window for a day.
func HoldOf(header http.Header, status int, longestWindow time.Duration, now time.Time, resetNames ...string) Hold {
	var h Hold
	if wait, asked := RetryAfter(header, now); asked {
		h = Hold{wait, quoted(header, "Retry-After")}
	} else if status/100 == 4 {
		h = resets(header, served(header, now), resetNames)
	}
	if h.Sent == "" {
		h.Sent = unread(header, status, resetNames)
	}
	most := max(longestWindow, leastLongest)
	if status >= http.StatusInternalServerError {
		most = longestOf5xx
	}
	h.Wait = min(h.Wait, most)
	return h
}

// resets is the longest wait that the counting headers tell.
func resets(header http.Header, now time.Time, more []string) (h Hold) {
	for _, name := range append([]string{"X-RateLimit-Reset", "RateLimit-Reset"}, more...) {
		for _, text := range values(header, name) {
			if wait, ok := span(text, now); ok && wait >= h.Wait {
				h = Hold{wait, quoted(header, name)}
			}
		}
	}
	for _, count := range structured(header, now) {
		if count.Reset >= 0 && count.Reset >= h.Wait {
			h = Hold{count.Reset, quoted(header, "RateLimit")}
		}
	}
	return h
}

// unread are the headers of which nothing could be made: whoever looks why the
// wait is ours and not the API's has to see them.
func unread(header http.Header, status int, more []string) string {
	names := []string{"Retry-After"}
	if status/100 == 4 {
		names = append(append(names, "X-RateLimit-Reset", "RateLimit-Reset", "RateLimit"), more...)
	}
	for _, name := range names {
		if slices.ContainsFunc(header.Values(name), func(text string) bool { return strings.TrimSpace(text) != "" }) {
			return quoted(header, name)
		}
	}
	return ""
}

// quoted is a header as it was sent.
func quoted(header http.Header, name string) string {
	text := name + ": " + strings.Join(header.Values(name), ", ")
	return text[:min(len(text), longestHeading)]
}
