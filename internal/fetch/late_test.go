package fetch_test

import (
	"fmt"
	"testing"
	"time"

	"fetchworker"
)

// Six workers with caches of their own ask for the same ten things under a
// quota of sixty calls a minute, all of them free or all used up: whoever has
// waited looks once more whether another has fetched the same meanwhile, and
// who finds another at it gives the permit back.
func TestUnderAScarceQuotaTheFleetMakesOneCallForTheSameThing(t *testing.T) {
	for _, usedUp := range []int{0, 60} {
		inBubble(t, func(t *testing.T, r *rig) {
			r.env["FMP_REQUESTS_PER_MINUTE"] = "60"
			r.well()
			r.upstream.SetLatency(100 * time.Millisecond)
			defer r.fleet(6)()
			for _, id := range r.many(fetchworker.LaneInteractive, "before", usedUp, agents(16)...) {
				r.final(id, time.Minute)
			}
			before := len(r.upstream.Calls())
			var ids []fetchworker.Identity
			for i := range 600 {
				ids = append(ids, r.quote(fmt.Sprint("agent-", i%20), fmt.Sprint("q-", i), fmt.Sprint("SAME", i%10), ""))
			}
			for _, id := range ids {
				if a := r.final(id, 5*time.Minute); a.Status != fetchworker.StatusOK {
					t.Fatalf("%s: %+v", id, a)
				}
			}
			if calls := len(r.upstream.Calls()) - before; calls > 16 {
				t.Errorf("%d calls for ten things", calls)
			}
		})
	}
}
