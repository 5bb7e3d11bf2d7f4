package fetch_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
)

// TestAChainOfPagesThatRepeatsItselfEnds follows Fetch-Next as an agent does,
// over chains that come back to a page in the middle, to the first, to
// themselves, or to none.
func TestAChainOfPagesThatRepeatsItselfEnds(t *testing.T) {
	for name, c := range map[string]struct {
		next  map[string]string // cursor to cursor; none: the last
		pages int
	}{
		"to the middle":  {map[string]string{"": "b", "b": "c", "c": "b"}, 3},
		"further":        {map[string]string{"": "b", "b": "c", "c": "d", "d": "e", "e": "c"}, 5},
		"to itself":      {map[string]string{"": "b", "b": "b"}, 2},
		"to none":        {map[string]string{"": "b", "b": "c", "c": "d"}, 4},
		"to the cursor ": {map[string]string{"": "b", "b": "c", "c": "d", "d": "b"}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.env["POLYGON_API_KEY"], r.env["POLYGON_BASE_URL"], r.env["POLYGON_REQUESTS_PER_MINUTE"] = "polygon-key-0123", r.upstream.URL(), "0"
				r.upstream.Fallback = func(q *http.Request) *providertest.Step {
					cursor := q.URL.Query().Get("cursor")
					body := fmt.Sprintf(`{"status":"OK","results":[{"ticker":"A%s"}]`, cursor)
					if next, more := c.next[cursor]; more {
						body += fmt.Sprintf(`,"next_url":"https://api.polygon.io/v3/reference/tickers?cursor=%s"`, next)
					}
					step := providertest.JSON(200, body+"}")
					return &step
				}
				defer r.start(nil)()
				for round, maxAge := range []string{"1h", "1h", "0s"} { // called, from the cache, called anew
					params, seen := `{"market":"stocks"}`, 0
					for loop := false; params != ""; seen++ {
						if seen > 10 {
							t.Fatalf("round %d: there is no end to it", round)
						}
						id := fmt.Sprintf("r%d-p%d", round, seen)
						a := r.final(r.ask("fetch.request.polygon.interactive.tickers.alice", id, fmt.Sprintf(`{"id":%q,"max_age":%q,"params":%s}`, id, maxAge, params)), 10*time.Second)
						if a.Status != fetchworker.StatusOK || loop {
							t.Fatalf("%+v %+v", a, a.Problem)
						}
						params, loop = string(a.Next), a.NextLoop
						if name != "to none" && params == "" && !loop {
							t.Errorf("round %d: the end of a chain that has none is not told: %+v", round, a)
						}
						if loop && params != "" {
							t.Errorf("a loop, and a next page: %+v", a)
						}
					}
					if seen != c.pages {
						t.Errorf("round %d: %d pages, want %d", round, seen, c.pages)
					}
					time.Sleep(time.Second)
				}
			})
		})
	}
}
