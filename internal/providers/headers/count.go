package headers

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Count is what an API tells of one of its own windows.
type Count struct {
	Limit     int           // calls in the window; -1 if it does not say
	Remaining int           // calls left in it; -1 if it does not say
	Reset     time.Duration // until it starts anew; -1 if it does not say
	Window    time.Duration // its length; 0 if it does not say
}

// Names are the headers in which an API tells its count.
type Names struct{ Limit, Remaining, Reset string }

var usual = []Names{
	// In canonical form: any other is made canonical at each look.
	{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"},
	{"Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset"},
}

// Counts are the counts an answer tells, under the names that are usual, and
// in the form RateLimit: "default";r=50;t=30.
func Counts(header http.Header, now time.Time) []Count {
	var counts []Count
	for _, names := range usual {
		if count, told := CountUnder(header, names, now); told {
			counts = append(counts, count)
		}
	}
	return append(counts, structured(header, now)...)
}

// CountUnder reads a count under certain names.
func CountUnder(header http.Header, names Names, now time.Time) (count Count, told bool) {
	remaining, ok := whole(header.Get(names.Remaining))
	if !ok {
		return Count{}, false
	}
	count = Count{Limit: -1, Remaining: remaining, Reset: -1}
	// A limit may carry its windows: 100, 100;w=60.
	limit, params, _ := strings.Cut(first(header.Get(names.Limit)), ";")
	if n, ok := whole(limit); ok {
		count.Limit = n
	}
	if w, ok := whole(param(params, "w")); ok {
		count.Window = time.Duration(w) * time.Second
	}
	if wait, ok := span(strings.TrimSpace(header.Get(names.Reset)), served(header, now)); ok {
		count.Reset = wait
	}
	return count, true
}

// structured reads the header RateLimit of the IETF's drafts, in the form of
// today ("default";r=50;t=30, with the limit in RateLimit-Policy) and of
// before (limit=100, remaining=50, reset=30).
func structured(header http.Header, now time.Time) []Count {
	line := strings.Join(header.Values("Ratelimit"), ",")
	if line == "" {
		return nil
	}
	now = served(header, now)
	if strings.Contains(line, "remaining=") {
		flat := strings.ReplaceAll(line, ",", ";")
		if count, ok := countOf(flat, "limit", "remaining", "reset", now); ok {
			return []Count{count}
		}
		return nil
	}
	var counts []Count
	for item := range strings.SplitSeq(line, ",") {
		name, params, _ := strings.Cut(item, ";")
		count, ok := countOf(params, "q", "r", "t", now)
		if !ok {
			continue
		}
		for policy := range strings.SplitSeq(strings.Join(header.Values("Ratelimit-Policy"), ","), ",") {
			of, params, _ := strings.Cut(policy, ";")
			if strings.TrimSpace(of) != strings.TrimSpace(name) {
				continue
			}
			if n, ok := whole(param(params, "q")); ok {
				count.Limit = n
			}
			if w, ok := whole(param(params, "w")); ok {
				count.Window = time.Duration(w) * time.Second
			}
		}
		counts = append(counts, count)
	}
	return counts
}

func countOf(params, limit, remaining, reset string, now time.Time) (Count, bool) {
	count := Count{Limit: -1, Remaining: -1, Reset: -1}
	if n, ok := whole(param(params, limit)); ok {
		count.Limit = n
	}
	n, left := whole(param(params, remaining))
	if left {
		count.Remaining = n
	}
	wait, resets := span(param(params, reset), now)
	if resets {
		count.Reset = wait
	}
	return count, left || resets
}

// param is the value of a parameter in a;b=c.
func param(params, name string) string {
	for one := range strings.SplitSeq(params, ";") {
		if key, value, ok := strings.Cut(one, "="); ok && strings.TrimSpace(key) == name {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return ""
}

func first(line string) string {
	text, _, _ := strings.Cut(line, ",")
	return strings.TrimSpace(text)
}

// whole reads a count: digits only.
func whole(text string) (int, bool) {
	if text == "" {
		return 0, false // nearly always, and an error costs memory
	}
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0, false
	}
	return int(min(n, 1<<30)), true
}
