package operate_test

import (
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/operate"
)

// Counters of a day are as old as their last increment: one of before the asked
// day may have been written after it began.
func TestUsageIsOfTheDaysThatAreAsked(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		time.Sleep(time.Hour)
		now := time.Now().UTC()
		day := func(ago int) string { return now.AddDate(0, 0, -ago).Format(time.DateOnly) }
		n := int64(1)
		for ago := range 4 {
			for _, provider := range []string{"fmp", "fred"} {
				for _, agent := range []string{"alice", "bob"} {
					for _, subject := range []string{"fetch.usage." + provider + "." + agent + "." + day(ago) + ".calls", "fetch.cause." + provider + "." + agent + "." + day(ago) + ".transient-503"} {
						if _, err := store.Increment(t.Context(), b.JS, subject, n, subject); err != nil {
							t.Fatal(err)
						}
						n *= 2
					}
				}
			}
		}
		desk, err := operate.Open(t.Context(), b.NC)
		if err != nil {
			t.Fatal(err)
		}
		of := func(kind, provider, agent string, days int) (sum int64) {
			n := int64(1)
			for ago := range 4 {
				for _, p := range []string{"fmp", "fred"} {
					for _, a := range []string{"alice", "bob"} {
						for _, k := range []string{"usage", "cause"} {
							if k == kind && ago < days && (provider == "" || p == provider) && (agent == "" || a == agent) {
								sum += n
							}
							n *= 2
						}
					}
				}
			}
			return sum
		}
		for _, provider := range []string{"", "fmp"} {
			for _, agent := range []string{"", "bob"} {
				for _, c := range []struct {
					since time.Time
					days  int
				}{{time.Time{}, 4}, {now, 1}, {now.Add(22 * time.Hour), 1}, {now.Truncate(24 * time.Hour), 1}, {now.Truncate(24 * time.Hour).Add(-1), 2}, {now.AddDate(0, 0, -2), 3}, {now.AddDate(0, -1, 0), 4}} {
					f := operate.UsageFilter{Provider: provider, Agent: agent, Since: c.since}
					rows, err := desk.Usage(t.Context(), f)
					if err != nil {
						t.Fatal(err)
					}
					var calls int64
					for _, u := range rows {
						calls += u.Calls
					}
					if want := of("usage", provider, agent, c.days); calls != want {
						t.Errorf("%+v: %b calls, want %b", f, calls, want)
					}
					for _, by := range []string{"agent", "provider", "day", "cause"} {
						var sum int64
						for _, u := range operate.SumBy(rows, by) {
							sum += u.Calls
						}
						if sum != calls {
							t.Errorf("%+v by %s: %b calls of %b", f, by, sum, calls)
						}
					}
					causes, err := desk.Causes(t.Context(), f)
					if err != nil {
						t.Fatal(err)
					}
					var failed int64
					for i, c := range causes {
						if failed += c.Count; i > 0 && c.Count > causes[i-1].Count || c.Cause != "transient-503" {
							t.Errorf("%+v: %+v", f, causes)
						}
					}
					if want := of("cause", provider, "", c.days); failed != want { // the operation, not the agent
						t.Errorf("%+v: %b failed, want %b", f, failed, want)
					}
				}
			}
		}
	})
}
