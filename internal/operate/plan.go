package operate

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/budget/ledger"
)

// Histogram counts messages by their cause. It grows by no more than its
// groups, however many messages it has seen.
type Histogram struct {
	Count          int
	Unreadable     int            // they match nothing and are never touched
	Providers      map[string]int // messages of each
	Oldest, Newest time.Time      // by last failure
	Agents         map[string]int // messages of each; nil where there are too many to name
	Operations     map[string]int
	Identities     []fetchworker.Identity // the first few
	groups         map[Group]int
}

const (
	namesKept      = 50 // agents, operations
	identitiesKept = 20
)

// tally counts a name, as long as there are not too many.
func tally(names *map[string]int, name string, first bool) {
	if first {
		*names = map[string]int{}
	}
	if *names == nil {
		return
	}
	if (*names)[name]++; len(*names) > namesKept {
		*names = nil
	}
}

// Group is one bar of the histogram.
type Group = browse.Group

// GroupCount is a bar with its length, and the number that chooses it.
type GroupCount struct {
	Group
	Count  int `json:"count"`
	Number int `json:"group"`
}

// groupsKept bounds the histogram: errors that name each request apart would
// make a group a message. What is beyond goes into one group that says so.
const groupsKept = 1000

// OtherErrors is the group of errors beyond the first thousand kinds.
const OtherErrors = "(other errors)"

// Add counts one message.
func (p *Histogram) Add(f browse.Found) {
	if f.Fault != nil {
		p.Unreadable++
		return
	}
	if p.groups == nil {
		p.groups, p.Providers = map[Group]int{}, map[string]int{}
	}
	tally(&p.Agents, f.Agent, p.Count == 0)
	tally(&p.Operations, f.Operation, p.Count == 0)
	if len(p.Identities) < identitiesKept {
		p.Identities = append(p.Identities, f.Identity)
	}
	p.Count++
	p.Providers[f.Provider]++
	if p.Oldest.IsZero() || f.FailedAt.Before(p.Oldest) {
		p.Oldest = f.FailedAt
	}
	if f.FailedAt.After(p.Newest) {
		p.Newest = f.FailedAt
	}
	group := browse.GroupOf(f.Letter)
	if _, known := p.groups[group]; !known && len(p.groups) >= groupsKept {
		group.Error = OtherErrors
	}
	p.groups[group]++
}

// Bars lists the groups, the largest first.
func (p *Histogram) Bars() []GroupCount {
	bars := make([]GroupCount, 0, len(p.groups))
	for _, group := range slices.SortedFunc(maps.Keys(p.groups), func(a, b Group) int {
		return cmp.Or(cmp.Compare(p.groups[b], p.groups[a]),
			cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Class, b.Class), cmp.Compare(a.Error, b.Error))
	}) {
		bars = append(bars, GroupCount{group, p.groups[group], group.Number()})
	}
	return bars
}

// CallsTake is how long n calls take at the full rate of every window.
func CallsTake(n int, limits ledger.Limits) time.Duration {
	var longest time.Duration
	for _, w := range limits {
		if w.N > 0 {
			longest = max(longest, time.Duration(float64(w.Per)*float64(n)/float64(w.N)))
		}
	}
	return longest
}
