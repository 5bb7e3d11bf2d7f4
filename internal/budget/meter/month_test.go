package meter

import (
	"testing"
	"time"
)

func TestPassed(t *testing.T) {
	for _, c := range []struct {
		used, limit int64
		want        int
	}{{0, 0, 0}, {5, 0, 0}, {69, 100, 0}, {70, 100, 1}, {84, 100, 1}, {85, 100, 2}, {95, 100, 3}, {500, 100, 3}, {50 << 30, 50 << 30, 3}} {
		if got := passed(c.used, c.limit); got != c.want {
			t.Errorf("%d of %d: %d thresholds, want %d", c.used, c.limit, got, c.want)
		}
	}
}

// A month is UTC's, wherever a worker is.
func TestAMonthIsTheSameEverywhere(t *testing.T) {
	east, west := time.FixedZone("", 14*60*60), time.FixedZone("", -12*60*60)
	for _, c := range []struct {
		at, month, next string
	}{
		{"2026-11-30T23:59:59.999999999Z", "2026-11", "2026-12-01T00:00:00Z"},
		{"2026-12-01T00:00:00Z", "2026-12", "2027-01-01T00:00:00Z"},
		{"2026-12-31T12:30:00Z", "2026-12", "2027-01-01T00:00:00Z"},
		{"2028-01-31T18:00:00Z", "2028-01", "2028-02-01T00:00:00Z"},
	} {
		at, err := time.Parse(time.RFC3339Nano, c.at)
		if err != nil {
			t.Fatal(err)
		}
		for _, zone := range []*time.Location{time.UTC, east, west} {
			month, next := Month(at.In(zone)), NextMonth(at.In(zone)).Format(time.RFC3339)
			if month != c.month || next != c.next {
				t.Errorf("%v: %s until %s, want %s until %s", at.In(zone), month, next, c.month, c.next)
			}
		}
	}
}
