package cancel

import (
	"testing"
	"time"

	"fetchworker"
)

// TestALaterOrderOfAnEarlierMomentTakesNothingBack: of two orders, the one
// whose moment is older may be stored last.
func TestALaterOrderOfAnEarlierMomentTakesNothingBack(t *testing.T) {
	early := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	late := early.Add(time.Minute)
	request := Request{Identity: fetchworker.Identity{Operation: "quote"}, Lane: fetchworker.LaneBatch, Stored: late.Add(-time.Second)}
	for name, c := range map[string]struct {
		first, second Order
		want          Verdict
	}{
		"by ids":                   {Order{Operation: "quote", IDs: []string{"a"}}, Order{Operation: "quote", IDs: []string{"b"}}, Look},
		"by ids, an operator's":    {Order{Operation: "quote", IDs: []string{"a"}}, Order{}, Look},
		"all twice":                {Order{All: true}, Order{All: true}, Cancelled},
		"of a lane, then all":      {Order{All: true, Lane: fetchworker.LaneBatch}, Order{All: true}, Cancelled},
		"all, then an operation's": {Order{All: true}, Order{All: true, Operation: "quote"}, Cancelled},
	} {
		m, err := Mark{}.with(c.first, late, time.Hour)
		if err == nil {
			m, err = m.with(c.second, early, time.Hour)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := m.judge(request); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
