package e2e

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"fetchworker"
)

// errNotWell: the answer is not what was asked for.
var errNotWell = errors.New("answered")

// laps are where one request after another spent its time, so that a table of
// what it takes says also whom it waits for.
type laps struct{ all []lap }

type lap struct {
	symbol                        string
	began, stored, answered, came time.Time
}

// fetch asks for one thing and notes when it got how far.
func (l *laps) fetch(ctx context.Context, agent *fetchworker.Client, r fetchworker.Request, symbol string) error {
	one := lap{symbol: symbol, began: time.Now()}
	asked, err := agent.Ask(ctx, r)
	if err != nil {
		return err
	}
	defer asked.Leave()
	one.stored = time.Now()
	a, err := asked.Final(ctx)
	if err != nil {
		return err
	}
	one.answered, one.came = a.Time, time.Now()
	if a.Status != fetchworker.StatusOK {
		return fmt.Errorf("%w: %s", errNotWell, a.Status)
	}
	l.all = append(l.all, one)
	return nil
}

// since are the laps that began at a time or later.
func (l *laps) since(from time.Time) *laps {
	var later laps
	for _, one := range l.all {
		if !one.began.Before(from) {
			later.all = append(later.all, one)
		}
	}
	return &later
}

// p50 and p99 are what the whole way took.
func (l *laps) p50() time.Duration { return share(l.took(lap.whole), 50) }
func (l *laps) p99() time.Duration { return share(l.took(lap.whole), 99) }

func (l lap) whole() time.Duration { return l.came.Sub(l.began) }

func (l *laps) took(of func(lap) time.Duration) []time.Duration {
	took := make([]time.Duration, 0, len(l.all))
	for _, one := range l.all {
		took = append(took, of(one))
	}
	slices.Sort(took)
	return took
}

// share is what so many of a hundred do not go beyond.
func share(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(len(sorted)-1-len(sorted)*(100-percent)/100, 0)]
}

func (l *laps) String() string {
	return fmt.Sprint(l.p50().Round(100*time.Microsecond), " ", l.p99().Round(100*time.Microsecond))
}

// where is the p50 and p99 of each part of the way: until the request's receipt,
// from its beginning until its call had come to the provider, until its answer
// was about to be stored, and until that was here.
func (l *laps) where(f *fleet) string {
	called := map[string]time.Time{}
	for _, c := range f.upstream.Calls() {
		target, _, _ := strings.Cut(c.Target, "?")
		called[path.Base(target)] = c.At
		for part := range strings.SplitSeq(target, "/") {
			called[part] = c.At
		}
	}
	parts := []struct {
		name string
		of   func(lap) time.Duration
	}{
		{"receipt", func(o lap) time.Duration { return o.stored.Sub(o.began) }},
		{"call", func(o lap) time.Duration { return called[o.symbol].Sub(o.began) }},
		{"answer", func(o lap) time.Duration { return o.answered.Sub(called[o.symbol]) }},
		{"here", func(o lap) time.Duration { return o.came.Sub(o.answered) }},
	}
	var b strings.Builder
	for _, part := range parts {
		took := l.took(part.of)
		fmt.Fprintf(&b, " %s %v %v;", part.name, share(took, 50).Round(100*time.Microsecond), share(took, 99).Round(100*time.Microsecond))
	}
	return b.String()
}
