package page

import (
	"slices"
	"testing"

	"fetchworker/internal/browse"
)

// A search that had no time to go on shows what the count has met further
// down: each once, as many as fit a screen, and where older ones are.
func TestWhatTheCountHasMetIsShown(t *testing.T) {
	sequence := func(from, to uint64) (all []browse.Found) {
		for n := from; n <= to; n++ {
			all = append(all, browse.Found{Sequence: n})
		}
		return all
	}
	for _, c := range []struct {
		name          string
		shown, newest []browse.Found // as they were stored
		met           int
		more          uint64 // where the search stopped
		searched      bool
		rows          int
		wantMore      uint64
		wantSearched  bool
	}{
		{"a whole list is left alone", sequence(5, 9), sequence(1, 4), 9, 5, false, 5, 5, false},
		{"twelve far down", nil, sequence(1, 12), 12, 900, true, 12, 0, false},
		{"none at all", nil, nil, 0, 900, true, 0, 0, false},
		{"what the search found is not shown twice", sequence(900, 910), sequence(890, 905), 16, 900, true, 21, 0, false},
		{"a screen of many", sequence(990, 999), sequence(800, 999), 5000, 990, true, 100, 900, false},
		{"a screen, and no more", sequence(990, 999), sequence(900, 999), 100, 990, true, 100, 0, false},
		{"deeper than what is kept", nil, sequence(800, 999), 5000, 300, true, 0, 300, true},
		{"the last of what is kept", nil, sequence(800, 999), 5000, 810, true, 10, 800, true},
	} {
		l := list{More: c.more, Searched: c.searched, Groups: grouped{Known: true, newest: c.newest, met: c.met}}
		for _, found := range slices.Backward(c.shown) {
			l.Rows = append(l.Rows, row{Found: found})
		}
		recall(&l, func(f browse.Found) row { return row{Found: f, State: "waiting"} })
		if len(l.Rows) != c.rows || l.More != c.wantMore || l.Searched != c.wantSearched {
			t.Errorf("%s: %d rows, more %d, searched %v", c.name, len(l.Rows), l.More, l.Searched)
		}
		for i := 1; i < len(l.Rows); i++ {
			if l.Rows[i].Sequence >= l.Rows[i-1].Sequence {
				t.Errorf("%s: %d after %d", c.name, l.Rows[i].Sequence, l.Rows[i-1].Sequence)
			}
		}
	}
}
