package fetch_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"fetchworker"
)

// Operations with limits of their own, through two workers and a replayer:
// what is beyond them is parked with its reason, comes back and is answered; no
// window is passed, and other operations wait for nothing.
func TestOperationsWithLimitsOfTheirOwn(t *testing.T) {
	const sheet = `
providers:
  tides:
    base_url: http://upstream.test/v1
    auth: none
    limits: 120/min
    groups: {archive: 30/10m}
    operations:
      heights: {path: /heights, params: {port: {type: string}}}
      forecast: {path: /forecast, params: {port: {type: string}}, limits: 10/min}
      years: {path: /years, params: {port: {type: string}}, group: archive, cost: 5}
      months: {path: /months, params: {port: {type: string}}, group: archive}
`
	inBubble(t, func(t *testing.T, r *rig) {
		r.catalogue(sheet)
		r.well()
		defer r.start(nil)()
		defer r.start(nil)()
		defer r.startReplayer(nil)()
		many := func(operation string, n int) (ids []fetchworker.Identity) {
			for i := range n {
				id := fmt.Sprint(operation, "-", i)
				ids = append(ids, r.ask("fetch.request.tides.interactive."+operation+".alice", id, fmt.Sprintf(`{"id":%q,"params":{"port":%q}}`, id, id)))
			}
			return ids
		}
		own := slices.Concat(many("years", 8), many("forecast", 14))
		for _, id := range many("heights", 20) {
			if a := r.final(id, 5*time.Second); a.Status != fetchworker.StatusOK {
				t.Fatalf("heights: %+v", a)
			}
		}
		parked := 0
		for _, id := range own {
			if a, ok := r.answer(id); ok && a.Status == fetchworker.StatusWaiting && a.Reason == fetchworker.ReasonQuota && !a.RetryAt.IsZero() {
				parked++
			}
		}
		if parked == 0 {
			t.Error("nothing is parked")
		}
		for _, id := range own {
			if a := r.final(id, time.Hour); a.Status != fetchworker.StatusOK || a.Calls != 1 {
				t.Errorf("%s: %+v", id.ID, a)
			}
		}
		var years, forecasts []time.Time
		for _, call := range r.upstream.Calls() {
			u, err := url.Parse(call.RawTarget)
			switch {
			case err != nil:
				t.Error(err)
			case strings.HasSuffix(u.Path, "/years"):
				years = append(years, call.At)
			case strings.HasSuffix(u.Path, "/forecast"):
				forecasts = append(forecasts, call.At)
			}
		}
		if n := busiest(years, 10*time.Minute); len(years) != 8 || n > 6 {
			t.Errorf("%d calls of years, %d in ten minutes, of thirty by fives", len(years), n)
		}
		if n := busiest(forecasts, time.Minute); len(forecasts) != 14 || n > 10 {
			t.Errorf("%d forecasts, %d in a minute", len(forecasts), n)
		}
	})
}

// busiest is the most calls in any window of a length.
func busiest(at []time.Time, window time.Duration) (most int) {
	for i := range at {
		n := 0
		for _, other := range at {
			if d := other.Sub(at[i]); d >= 0 && d < window {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}
