package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// TestRetriesComeWhenTheyAreDueAndRunOut counts at the provider when each of
// the four calls of a request that always fails arrives.
func TestRetriesComeWhenTheyAreDueAndRunOut(t *testing.T) {
	begin(t)
	const requests = 20
	base := pick(200*time.Millisecond, time.Second)
	// What may pass beyond a retry's own time; side by side with other tests
	// the machine has a share in it.
	late := pick(1500*time.Millisecond, 500*time.Millisecond)
	f := newFleet(t, func(*http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusInternalServerError, "boom")
		return &step
	})
	f.env["FETCH_CIRCUIT_FAILURES"] = "0"
	f.env["FETCH_RETRY_BASE_SECONDS"] = fmt.Sprint(base.Seconds())
	f.worker()
	f.worker()
	f.replayer()
	var ids []fetchworker.Identity
	for i := range requests {
		ids = append(ids, f.quote(fmt.Sprint("agent-", i%5), fmt.Sprint("S", i)))
	}
	var worst time.Duration
	for _, id := range ids {
		a := f.final(id, 30*time.Second)
		if a.Problem == nil || a.Problem.Code() != fetchworker.CodeRetriesExhausted || !a.Review || a.Calls != 4 || a.Failures != 4 {
			t.Errorf("%s: %s", id, dlqtest.Describe(a))
		}
		calls := f.calls(id.ID)
		if len(calls) != 4 {
			t.Fatalf("%s: %d calls", id, len(calls))
		}
		for n := range 3 {
			gap, wait := calls[n+1].At.Sub(calls[n].At), base<<n
			if gap < wait*8/10 || gap > wait*12/10+late {
				t.Errorf("%s: retry %d came %v after the call before, want %v ± 20 %%", id, n+1, gap, wait)
			}
			worst = max(worst, gap-wait*12/10)
		}
	}
	f.settled(10 * time.Second)
	if n := f.count(wire.StreamReview); n != requests {
		t.Errorf("%d of %d in review", n, requests)
	}
	t.Logf("the latest retry came %v beyond its wait + 20 %%", worst)
}
