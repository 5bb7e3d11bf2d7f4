package ledger

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Window is one rate limit: in no span of length Per may more than N calls
// arrive at the provider. A provider may have any number of windows.
type Window struct {
	N   int           // calls, 1 to 1,000,000,000
	Per time.Duration // length of the window, a second to 366 days
}

// Limits are all windows of a provider. No windows at all means unlimited.
type Limits []Window

// What a register can hold. People type limits: what is beyond is told.
const (
	mostCalls   = 1_000_000_000
	longest     = 366 * 24 * time.Hour
	mostWindows = 8
)

var errLimit = errors.New(`a limit is written "60/min,2/s": calls, a slash, and s, min, h, d or a length such as 90s`)

// ParseLimits reads "60/min,2/s". Units are s, min, h, d or a Go duration
// such as 12h. "0", "0/min" and "unlimited" mean no limit.
func ParseLimits(text string) (Limits, error) {
	text = strings.TrimSpace(text)
	if text == "unlimited" || text == "0" || text == "0/min" {
		return nil, nil
	}
	var limits Limits
	for part := range strings.SplitSeq(text, ",") {
		count, unit, found := strings.Cut(strings.TrimSpace(part), "/")
		n, err := strconv.Atoi(count)
		if errors.Is(err, strconv.ErrRange) || err == nil && n > mostCalls {
			return nil, fmt.Errorf("limit %q: more than %d calls is no limit: write unlimited", part, mostCalls)
		}
		if !found || err != nil || n < 1 {
			return nil, fmt.Errorf("limit %q: %w", part, errLimit)
		}
		per, err := parseUnit(unit)
		if err != nil || per < time.Second {
			return nil, fmt.Errorf("limit %q: %w", part, errLimit)
		}
		if per > longest {
			return nil, fmt.Errorf("limit %q: no window is longer than 366 days", part)
		}
		limits = append(limits, Window{N: n, Per: per})
	}
	if len(limits) > mostWindows {
		return nil, fmt.Errorf("limit %q: more than %d windows", text, mostWindows)
	}
	return limits, nil
}

func parseUnit(unit string) (time.Duration, error) {
	switch unit {
	case "s", "sec", "second":
		return time.Second, nil
	case "m", "min", "minute":
		return time.Minute, nil
	case "h", "hour":
		return time.Hour, nil
	case "d", "day":
		return 24 * time.Hour, nil
	}
	return time.ParseDuration(unit)
}

// units are the lengths that have a name.
var units = []struct {
	per  time.Duration
	name string
}{{time.Second, "s"}, {time.Minute, "min"}, {time.Hour, "h"}, {24 * time.Hour, "d"}}

// String writes the limits in the form ParseLimits reads.
func (l Limits) String() string {
	if len(l) == 0 {
		return "unlimited"
	}
	parts := make([]string, len(l))
	for i, w := range l {
		unit := w.Per.String()
		if w.Per%time.Minute == 0 {
			unit = strings.TrimSuffix(unit, "0s") // 12h, not 12h0m0s
		}
		if w.Per%time.Hour == 0 {
			unit = strings.TrimSuffix(unit, "0m")
		}
		for _, u := range units {
			if u.per == w.Per {
				unit = u.name
			}
		}
		parts[i] = fmt.Sprintf("%d/%s", w.N, unit)
	}
	return strings.Join(parts, ",")
}

// Same reports whether limits have the windows of others, in whatever order.
func (l Limits) Same(others Limits) bool {
	return slices.Equal(l.sorted(), others.sorted())
}

func (l Limits) sorted() Limits {
	return slices.SortedFunc(slices.Values(l), func(a, b Window) int {
		return cmp.Or(cmp.Compare(a.Per, b.Per), cmp.Compare(a.N, b.N))
	})
}

// Above reports whether the limits let more calls through than others do, in
// any window of theirs.
func (l Limits) Above(others Limits) bool {
	for _, w := range others {
		most := -1 // no window of ours bounds it
		for _, ours := range l {
			// So many of our windows begin in one of theirs.
			calls := ours.N * int((w.Per+ours.Per-1)/ours.Per)
			if most < 0 || calls < most {
				most = calls
			}
		}
		if most < 0 || most > w.N {
			return true
		}
	}
	return false
}
