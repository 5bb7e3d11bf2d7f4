package usage_test

import (
	"testing"
	"time"

	"fetchworker/internal/usage"

	"go.uber.org/zap"
)

// What was answered a quarter of an hour ago is not recent any more; calls and
// causes are no answers.
func TestRecentIsTheLastQuarterOfAnHour(t *testing.T) {
	b := usage.NewBook(nil, zap.NewNop())
	at := time.Date(2026, 11, 30, 23, 50, 30, 0, time.UTC)
	b.Add("fmp", "alice", usage.Failed, 7, at)
	b.Add("fmp", "alice", usage.Calls, 9, at)
	b.Cause("fmp", "quote", "transient-503", at)
	b.Add("fmp", "bob", usage.OK, 2, at.Add(10*time.Minute)) // past midnight
	b.Add("fmp", "bob", usage.Cached, 1, at.Add(14*time.Minute))
	b.Add("fred", "bob", usage.Stale, 1, at.Add(14*time.Minute))
	for _, c := range []struct {
		after     time.Duration
		fmp, fred usage.Ends
	}{
		{0, usage.Ends{Failed: 7}, usage.Ends{}},
		{14 * time.Minute, usage.Ends{Good: 3, Failed: 7}, usage.Ends{Good: 1}},
		{15 * time.Minute, usage.Ends{Good: 3}, usage.Ends{Good: 1}},
		{28 * time.Minute, usage.Ends{Good: 1}, usage.Ends{Good: 1}},
		{29 * time.Minute, usage.Ends{}, usage.Ends{}},
		{24 * time.Hour, usage.Ends{}, usage.Ends{}},
	} {
		got := b.Recent(at.Add(c.after))
		if got["fmp"] != c.fmp || got["fred"] != c.fred {
			t.Errorf("after %v: %+v", c.after, got)
		}
	}
	// A minute that comes round again begins anew.
	b.Add("fmp", "alice", usage.OK, 1, at.Add(30*time.Minute))
	if got := b.Recent(at.Add(30 * time.Minute)); got["fmp"] != (usage.Ends{Good: 1}) || len(got) != 1 {
		t.Errorf("%+v", got)
	}
	if got := (*usage.Book)(nil).Recent(at); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}
