package fetch

import (
	"testing"
	"testing/synctest"
	"time"
)

// What counts as a restart: that another server answers than before, which alone
// knew what it had given out. The servers of a cluster know that of each other.
func TestWhatCountsAsARestart(t *testing.T) {
	type seen struct {
		home      string
		clustered bool
	}
	for name, c := range map[string]struct {
		seen []seen // one a second
		last int    // which of them was a restart, the last; -1: none
	}{
		"the first":                    {[]seen{{"a", false}}, -1},
		"the same":                     {[]seen{{"a", false}, {"a", false}}, -1},
		"away, and back":               {[]seen{{"a", false}, {"", false}, {"a", false}}, -1},
		"another":                      {[]seen{{"a", false}, {"b", false}}, 1},
		"another, some time ago":       {[]seen{{"a", false}, {"b", false}, {"", false}, {"b", false}}, 1},
		"away, and another":            {[]seen{{"a", false}, {"", false}, {"b", false}}, 2},
		"another once more":            {[]seen{{"a", false}, {"b", false}, {"a", false}}, 2},
		"away at first":                {[]seen{{"", false}, {"a", false}}, -1},
		"another of its cluster":       {[]seen{{"a", true}, {"b", true}, {"a", true}}, -1},
		"a cluster's, and a lone one":  {[]seen{{"a", true}, {"b", false}}, 1},
		"a lone one, and in a cluster": {[]seen{{"a", false}, {"b", true}}, -1},
	} {
		synctest.Test(t, func(t *testing.T) {
			var s restarts
			var want time.Time
			for i, at := range c.seen {
				time.Sleep(time.Second)
				if s.move(at.home, at.clustered); i == c.last {
					want = time.Now()
				}
			}
			if !s.last.Equal(want) {
				t.Errorf("%s: a restart at %v, want %v", name, s.last, want)
			}
		})
	}
}
