package fetch_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
)

// many publishes n requests for different symbols, spread over the agents.
func (r *rig) many(lane fetchworker.Lane, prefix string, n int, agents ...string) []fetchworker.Identity {
	r.t.Helper()
	ids := make([]fetchworker.Identity, n)
	for i := range ids {
		id := fmt.Sprintf("%s-%d", prefix, i)
		agent := agents[i%len(agents)]
		ids[i] = r.ask(fetchworker.RequestSubject("fmp", lane, "quote", agent), id, fmt.Sprintf(`{"id":%q,"params":{"symbol":"%s%d"}}`, id, prefix, i))
	}
	return ids
}

func agents(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("agent-%d", i)
	}
	return list
}

// fleet starts n workers and returns how to stop them all.
func (r *rig) fleet(n int) (stop func()) {
	stops := make([]func(), n)
	for i := range stops {
		stops[i] = r.start(nil)
	}
	return func() {
		for _, s := range stops {
			s()
		}
	}
}

// callsBetween counts the provider's calls in a span.
func callsBetween(calls []providertest.Call, from, to time.Time) int {
	n := 0
	for _, c := range calls {
		if !c.At.Before(from) && c.At.Before(to) {
			n++
		}
	}
	return n
}

func TestABurstOnAnIdleFleetGoesAtOnceAndNoWindowIsPassed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.upstream.SetLatency(50 * time.Millisecond)
		r.env["FMP_REQUESTS_PER_MINUTE"] = "100"
		defer r.fleet(4)()
		time.Sleep(2 * time.Second)
		start := time.Now()
		for _, id := range r.many("interactive", "FIFTY", 50, "alice") {
			r.final(id, 2*time.Second-time.Since(start))
		}
		t.Logf("50 at once: %v", time.Since(start))

		time.Sleep(2 * time.Minute)
		start = time.Now()
		for _, id := range r.many("interactive", "MORE", 150, "alice") {
			r.final(id, 68*time.Second-time.Since(start))
		}
		t.Logf("150 at once: %v", time.Since(start))
		if most := r.upstream.MaxIn(time.Minute); most > 100 {
			t.Errorf("%d calls in a minute", most)
		}
	})
}

func TestABacklogUsesTheWholeLimitAndNeverMore(t *testing.T) {
	for _, c := range []struct{ workers, limit, minutes int }{{1, 600, 1}, {4, 600, 2}, {16, 600, 1}, {1, 6000, 1}} {
		t.Run(fmt.Sprintf("%d workers, %d a minute", c.workers, c.limit), func(t *testing.T) {
			if testing.Short() {
				if c.workers != 4 || c.limit > 600 {
					t.Skip("one of the four in short")
				}
				c.minutes = 1
			}
			inBubble(t, func(t *testing.T, r *rig) {
				r.well()
				r.upstream.SetLatency(50 * time.Millisecond)
				r.env["FMP_REQUESTS_PER_MINUTE"] = fmt.Sprint(c.limit)
				stop := r.fleet(c.workers)
				time.Sleep(2 * time.Second)
				start := time.Now()
				r.many(fetchworker.LaneBatch, "B", c.limit*(3*c.minutes+5)/3, agents(40)...)
				time.Sleep(31 * time.Second)
				stopOne := r.start(nil) // one more midway
				time.Sleep(30*time.Second + time.Duration(c.minutes)*time.Minute)
				stopOne()
				stop()
				if most := r.upstream.MaxIn(time.Minute); most > c.limit {
					t.Errorf("%d calls in a minute", most)
				}
				used := callsBetween(r.upstream.Calls(), start.Add(time.Minute), start.Add(time.Duration(1+c.minutes)*time.Minute))
				t.Logf("%d of %d used", used, c.minutes*c.limit)
				if used < c.minutes*c.limit*97/100 {
					t.Errorf("only %d of %d used", used, c.minutes*c.limit)
				}
			})
		})
	}
}

func TestInteractiveIsSoonServedBehindABatchBacklog(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.env["FMP_REQUESTS_PER_MINUTE"] = "120"
		r.many(fetchworker.LaneBatch, "B", 1000, agents(10)...)
		defer r.fleet(4)()
		time.Sleep(30 * time.Second)
		var waits []time.Duration
		for i := range 24 {
			asked := time.Now()
			r.final(r.quote("bob", fmt.Sprint("i", i), fmt.Sprint("I", i), ""), 30*time.Second)
			waits = append(waits, time.Since(asked))
			time.Sleep(5*time.Second - time.Since(asked)%(5*time.Second))
		}
		slices.Sort(waits)
		t.Logf("p50 %v, max %v", waits[len(waits)/2], waits[len(waits)-1])
		if waits[len(waits)-1] > 4*time.Second {
			t.Errorf("an interactive request waited %v", waits[len(waits)-1])
		}
	})
}

func TestAnAgentIsSoonServedBehindAnothersBacklog(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.env["FMP_REQUESTS_PER_MINUTE"] = "120"
		r.many(fetchworker.LaneInteractive, "A", 2000, "alice")
		defer r.fleet(4)()
		time.Sleep(90 * time.Second)
		var waits []time.Duration
		for i := range 6 {
			asked := time.Now()
			before := len(r.upstream.Calls())
			r.final(r.quote("bob", fmt.Sprint("b", i), fmt.Sprint("BOB", i), ""), 30*time.Second)
			waits = append(waits, time.Since(asked))
			if calls := len(r.upstream.Calls()) - before; calls > 20 {
				t.Errorf("bob was served after %d calls", calls)
			}
			time.Sleep(10 * time.Second)
		}
		slices.Sort(waits)
		t.Logf("p50 %v, max %v", waits[len(waits)/2], waits[len(waits)-1])
		if waits[len(waits)-1] > 4*time.Second {
			t.Errorf("bob waited %v", waits[len(waits)-1])
		}
	})
}

func TestNoWindowIsPassedAfterIdlenessOrAServerRestart(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.env["FMP_REQUESTS_PER_MINUTE"] = "100"
		stop := r.fleet(3)
		time.Sleep(2 * time.Minute)
		r.many(fetchworker.LaneBatch, "A", 1000, agents(8)...)
		time.Sleep(30 * time.Second)
		stop()
		r.b.Stop()
		time.Sleep(time.Second)
		r.b.Restart(t)
		defer r.fleet(3)()
		time.Sleep(3 * time.Minute)
		if most := r.upstream.MaxIn(time.Minute); most > 100 {
			t.Errorf("%d calls in a minute", most)
		}
		if n := len(r.upstream.Calls()); n < 250 {
			t.Errorf("only %d calls in all", n)
		}
	})
}

func TestALongQuotaIsToldAndNotPassed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = respond(200, `{"status":"ok","totalResults":0,"articles":[]}`)
		r.env = map[string]string{"NEWS_API_KEY": "news-key-0123456789", "NEWS_BASE_URL": r.upstream.URL() + "/v2"}
		defer r.fleet(2)()
		time.Sleep(2 * time.Second)
		start := time.Now()
		ask := func(agent string, i int) fetchworker.Identity {
			return r.ask("fetch.request.newsapi.interactive.headlines."+agent, fmt.Sprint("n", i), fmt.Sprintf(`{"id":"n%d","params":{"q":"word%d"}}`, i, i))
		}
		var a fetchworker.Answer
		for i := range 51 {
			a = r.until(ask("alice", i), 5*time.Minute, func(fetchworker.Answer) bool { return true })
		}
		if a.Problem == nil || a.Problem.Reason() != fetchworker.ReasonQuota || a.Problem.RetryAt.Sub(start) < 12*time.Hour || a.Problem.RetryAt.Sub(start) > 13*time.Hour {
			t.Errorf("the 51st: %+v %+v", a, a.Problem)
		}
		if n := len(r.upstream.Calls()); n != 50 {
			t.Errorf("%d calls, want 50", n)
		}
	})
}

// TestAProviderThatIsFarAwayIsCalledAllTheSame dials longer than a permit of
// a one-second window is valid, each time anew.
func TestAProviderThatIsFarAwayIsCalledAllTheSame(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = func(*http.Request) *providertest.Step {
			step := providertest.JSON(200, `{"observations":[]}`)
			step.Header.Set("Connection", "close")
			return &step
		}
		r.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			time.Sleep(300 * time.Millisecond)
			return r.upstream.DialContext(ctx, network, addr)
		}
		r.env = map[string]string{"FRED_API_KEY": "0123456789abcdef0123456789abcdef", "FRED_BASE_URL": r.upstream.URL() + "/fred"}
		defer r.start(nil)()
		var ids []fetchworker.Identity
		for i := range 12 {
			ids = append(ids, r.ask("fetch.request.fred.interactive.series.alice", fmt.Sprint("f", i), fmt.Sprintf(`{"id":"f%d","params":{"series_id":"GDP%d"}}`, i, i)))
		}
		start := time.Now()
		for _, id := range ids {
			if a := r.final(id, 20*time.Second); a.Status != fetchworker.StatusOK {
				t.Errorf("%s: %+v", id, a.Problem)
			}
		}
		t.Logf("12 calls at 2/s took %v", time.Since(start))
		if most := r.upstream.MaxIn(time.Second); most > 2 {
			t.Errorf("%d calls in a second", most)
		}
	})
}
