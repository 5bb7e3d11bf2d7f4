package operate

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"fetchworker/internal/budget/store"
	"fetchworker/internal/usage"
	"fetchworker/internal/wire"
)

// Used is what somebody had: of one provider, agent or UTC day, or of all of
// them where the field is empty.
type Used struct {
	Day      string `json:"day,omitempty"` // yyyy-mm-dd
	Provider string `json:"provider,omitempty"`
	Agent    string `json:"agent,omitempty"`
	Calls    int64  `json:"calls"`
	Bytes    int64  `json:"bytes"`
	OK       int64  `json:"ok"`
	Cached   int64  `json:"cached"`
	Stale    int64  `json:"stale"`
	Failed   int64  `json:"failed"`
}

func (u *Used) count(what string) *int64 {
	switch what {
	case usage.Calls:
		return &u.Calls
	case usage.Bytes:
		return &u.Bytes
	case usage.OK:
		return &u.OK
	case usage.Cached:
		return &u.Cached
	case usage.Stale:
		return &u.Stale
	case usage.Failed:
		return &u.Failed
	}
	return new(int64) // of a newer version
}

// Cause is how many calls of an operation failed for one cause since a time.
type Cause struct {
	Provider  string `json:"provider"`
	Operation string `json:"operation"`
	Cause     string `json:"cause"` // the class, and the HTTP status or what broke: transient-503
	Count     int64  `json:"count"`
}

// UsageFilter selects counters. An empty field selects all.
type UsageFilter struct {
	Provider, Agent string
	Since           time.Time // whole UTC days, that of this moment included
}

// Usage reads who had what, a row a day, provider and agent, in that order.
func (d *Desk) Usage(ctx context.Context, f UsageFilter) ([]Used, error) {
	rows := map[[3]string]*Used{}
	err := d.counters(ctx, "fetch.usage", f.Provider, f.Agent, f.Since, func(t []string, n int64) {
		key := [3]string{t[4], t[2], t[3]}
		if rows[key] == nil {
			rows[key] = &Used{Day: key[0], Provider: key[1], Agent: key[2]}
		}
		*rows[key].count(t[5]) += n
	})
	list := make([]Used, 0, len(rows))
	for _, u := range rows {
		list = append(list, *u)
	}
	slices.SortFunc(list, func(a, b Used) int {
		return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Agent, b.Agent))
	})
	return list, err
}

// Causes reads what failed, the most frequent first.
func (d *Desk) Causes(ctx context.Context, f UsageFilter) ([]Cause, error) {
	sums := map[Cause]int64{}
	err := d.counters(ctx, "fetch.cause", f.Provider, "", f.Since, func(t []string, n int64) {
		sums[Cause{Provider: t[2], Operation: t[3], Cause: t[5]}] += n
	})
	list := make([]Cause, 0, len(sums))
	for c, n := range sums {
		c.Count = n
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Cause) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Cause, b.Cause))
	})
	return list, err
}

// counters walks the counters of a kind. A counter's message is as old as its
// last increment, so none of a day that matters is older than its day.
func (d *Desk) counters(ctx context.Context, kind, provider, whose string, since time.Time, each func(tokens []string, n int64)) error {
	edge, err := d.Edge(ctx, wire.StreamUsage)
	if err != nil {
		return err
	}
	if since.IsZero() {
		since = edge.At.Add(-401 * 24 * time.Hour)
	}
	first := since.UTC().Truncate(24 * time.Hour)
	day := "*"
	if today := edge.At.UTC().Format(time.DateOnly); first.Format(time.DateOnly) == today {
		day = today
	}
	subject := kind + "." + cmp.Or(provider, "*") + "." + cmp.Or(whose, "*") + "." + day + ".*"
	for raw, err := range d.Messages(ctx, wire.StreamUsage, subject, first, edge) {
		if err != nil {
			return err
		}
		tokens := strings.Split(raw.Subject, ".")
		if tokens[4] < first.Format(time.DateOnly) {
			continue
		}
		n, err := store.Total(raw.Data)
		if err != nil {
			return fmt.Errorf("%s: %w", raw.Subject, err)
		}
		each(tokens, n)
	}
	return nil
}

// By are what usage can be summed by.
func By() []string { return []string{"agent", "provider", "day", "cause"} }

// SumBy sums rows by agent, provider or day, the most calls first, days in
// order; by anything else by agent and provider.
func SumBy(rows []Used, by string) []Used {
	sums := map[Used]*Used{}
	for _, u := range rows {
		key := Used{Provider: u.Provider, Agent: u.Agent}
		switch by {
		case "agent":
			key.Provider = ""
		case "provider":
			key.Agent = ""
		case "day":
			key = Used{Day: u.Day}
		}
		s := sums[key]
		if s == nil {
			s = &Used{Day: key.Day, Provider: key.Provider, Agent: key.Agent}
			sums[key] = s
		}
		for _, what := range []string{usage.Calls, usage.Bytes, usage.OK, usage.Cached, usage.Stale, usage.Failed} {
			*s.count(what) += *u.count(what)
		}
	}
	list := make([]Used, 0, len(sums))
	for _, s := range sums {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b Used) int {
		return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(b.Calls, a.Calls), cmp.Compare(b.OK+b.Cached, a.OK+a.Cached),
			cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Agent, b.Agent))
	})
	return list
}
