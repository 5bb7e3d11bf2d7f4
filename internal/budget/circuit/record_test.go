package circuit

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestNeverTwoProbes: workers that see the record late, die and come back
// never probe together, as long as a probe ends within its lease.
func TestNeverTwoProbes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const lease, open = 30 * time.Second, time.Minute
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		type view struct {
			c   Record
			rev int
		}
		names := []string{"w1", "w2", "w3"}
		record, rev := Record{Circuit: Circuit{State: Closed}}, 0
		views := map[string]view{}
		for _, n := range names {
			views[n] = view{c: record}
		}
		probes := map[string]time.Time{} // who probes, and when its call ends at the latest
		write := func(n string, edit func(Record) Record) bool {
			v := views[n]
			next := edit(v.c)
			if next.Equal(v.c) {
				return false
			}
			if v.rev != rev { // lost: read again
				views[n] = view{record, rev}
				return false
			}
			record, rev = next, rev+1
			views[n] = view{record, rev}
			return true
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			n := rapid.SampledFrom(names).Draw(t, "worker")
			for p, until := range probes {
				if !now.Before(until) {
					delete(probes, p)
				}
			}
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				request := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "request")
				write(n, func(c Record) Record {
					return c.Failed(Call{Agent: "a", Operation: "o", Key: request}, Failure, now, Policy{3, open})
				})
			case 1:
				write(n, func(c Record) Record { return c.Succeeded(Call{Agent: "a", Operation: "o"}, now) })
			case 2:
				if write(n, func(c Record) Record {
					return c.Claimed("o", Call{Agent: "a", Operation: "o", Key: n}, n, now, now.Add(lease))
				}) {
					probes[n] = now.Add(lease)
				}
			case 3:
				if _, probing := probes[n]; probing {
					o := Outcome(rapid.IntRange(0, int(Neutral)).Draw(t, "outcome"))
					for range 2 { // until it is stored
						write(n, func(c Record) Record {
							return c.Probed("o", Call{Agent: "a", Operation: "o", Key: n}, n, o, 0, now, Policy{3, open})
						})
					}
					delete(probes, n)
				}
			case 4:
				views[n] = view{record, rev} // the watch
			case 5:
				now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second)
			}
			live := 0
			for _, until := range probes {
				if now.Before(until) {
					live++
				}
			}
			if live > 1 {
				t.Fatalf("%d probes at once: %v", live, probes)
			}
			if o := record.Operations; len(o) > 0 && len(o[0].Row) >= 3 && !o[0].Held() {
				t.Fatal("three failed and it is closed")
			}
		}
	})
}
