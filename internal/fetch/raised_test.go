package fetch_test

import (
	"fmt"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
)

// TestARaisedLimitLetsParkedWorkGo: what was parked under a small limit goes
// within seconds of a larger one, at the pace that this allows.
func TestARaisedLimitLetsParkedWorkGo(t *testing.T) {
	for name, c := range map[string]struct {
		from, to ledger.Limits
		n        int
	}{
		"2 a day, then 100":             {ledger.Limits{{N: 2, Per: 24 * time.Hour}}, ledger.Limits{{N: 100, Per: 24 * time.Hour}}, 6},
		"10 a minute, then 300 an hour": {ledger.Limits{{N: 10, Per: time.Minute}, {N: 1, Per: time.Second}}, ledger.Limits{{N: 300, Per: time.Hour}}, 60},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.well()
				defer r.start(nil)()
				defer r.startReplayer(nil)()
				if err := fleet.SetLimits(t.Context(), r.b.KV, "fmp", c.from, time.Time{}, "ann", "a small plan"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Second)
				var ids []fetchworker.Identity
				for i := range c.n {
					ids = append(ids, r.quote(fmt.Sprint("agent", i%4), fmt.Sprint("q", i), fmt.Sprint("S", i), ""))
				}
				time.Sleep(20 * time.Second)
				if err := fleet.SetLimits(t.Context(), r.b.KV, "fmp", c.to, time.Time{}, "ann", "a larger plan"); err != nil {
					t.Fatal(err)
				}
				raised := time.Now()
				for _, id := range ids {
					if a := r.final(id, 3*time.Minute); a.Status != fetchworker.StatusOK {
						t.Errorf("%+v", a)
					}
				}
				took := time.Since(raised)
				t.Logf("all %d after %v", c.n, took)
				if took > 5*time.Second {
					t.Errorf("all %d only after %v", c.n, took)
				}
			})
		})
	}
}
