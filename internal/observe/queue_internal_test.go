package observe

import (
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"
)

// A series that is told twice would break the scrape of all of them.
func TestWindowsHaveNamesOfTheirOwn(t *testing.T) {
	names := map[string]time.Duration{}
	for per, want := range map[time.Duration]string{
		time.Second: "s", time.Minute: "min", time.Hour: "h", 24 * time.Hour: "d", 12 * time.Hour: "12h",
		10 * time.Second: "10s", 30 * time.Second: "30s", 100 * time.Second: "1m40s", 10 * time.Minute: "10m", 30 * time.Minute: "30m",
		100 * time.Minute: "1h40m", 100 * time.Hour: "100h", 3 * time.Minute: "3m", 10 * time.Hour: "10h", 3610 * time.Second: "1h0m10s",
	} {
		got := windowName(ledger.Window{N: 1, Per: per})
		if got != want {
			t.Errorf("%v is called %s, want %s", per, got, want)
		}
		if other, twice := names[got]; twice {
			t.Errorf("%v and %v are both called %s", per, other, got)
		}
		names[got] = per
	}
	same := tightest([]ledger.Usage{
		{Window: ledger.Window{N: 20, Per: time.Minute}, Left: 20}, {Window: ledger.Window{N: 5, Per: time.Minute}, Left: 1}, {Window: ledger.Window{N: 9, Per: time.Hour}, Left: 0},
	})
	if len(same) != 2 {
		t.Errorf("%+v", same)
	}
}
