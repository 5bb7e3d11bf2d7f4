package fetch_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// get asks for any path of fmp.
func (r *rig) get(agent, id, path, symbol string) fetchworker.Identity {
	r.t.Helper()
	return r.ask("fetch.request.fmp.interactive.get."+agent, id,
		fmt.Sprintf(`{"id":%q,"params":{"path":%q,"query":{"symbol":%q}}}`, id, path, symbol))
}

// told remembers which requests were ever told to wait, as a live subscriber
// sees it.
func (r *rig) told() (waited func(fetchworker.Identity) bool, end func()) {
	r.t.Helper()
	var mu sync.Mutex
	seen := map[string]bool{}
	nc := r.b.Connect(r.t)
	_, err := nc.Subscribe("fetch.result.>", func(m *nats.Msg) {
		if m.Header.Get(wire.HeaderStatus) == string(fetchworker.StatusWaiting) {
			mu.Lock()
			defer mu.Unlock()
			seen[m.Subject] = true
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return func(i fetchworker.Identity) bool {
		mu.Lock()
		defer mu.Unlock()
		return seen[fetchworker.ResultSubject(i)]
	}, nc.Close
}

// calls counts what reached the provider, by path and symbol.
func (r *rig) calls(has string) (n int) {
	for _, c := range r.upstream.Calls() {
		if strings.Contains(c.Target, has) {
			n++
		}
	}
	return n
}

// TestTwoBrokenEndpoints of a provider, eleven well: nothing of the eleven
// waits for a circuit, and the two go as soon as they are back.
func TestTwoBrokenEndpoints(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.open = 4 * time.Second
		var up atomic.Bool
		good, fault := respond(200, aapl), respond(500, `{"error":"boom"}`)
		page := func(*http.Request) *providertest.Step {
			return &providertest.Step{Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: []byte("<html><body>Attention required</body></html>")}
		}
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			switch {
			case up.Load():
				return good(q)
			case strings.Contains(q.URL.Path, "/ratios"):
				return fault(q)
			case strings.Contains(q.URL.Path, "/key-metrics"):
				return page(q)
			}
			return good(q)
		}
		defer r.whole(2, 1)()
		waited, end := r.told()
		defer end()
		var broken, well []fetchworker.Identity
		for i := range 40 {
			broken = append(broken,
				r.get("alice", fmt.Sprint("r", i), "/ratios", fmt.Sprint("R", i)),
				r.get("bob", fmt.Sprint("k", i), "/key-metrics", fmt.Sprint("K", i)))
			for j := range 20 {
				well = append(well, r.get([]string{"alice", "bob", "carol"}[j%3], fmt.Sprint("w", i, "-", j), fmt.Sprintf("/well-%d", j%11), fmt.Sprint("W", i, "-", j)))
			}
			time.Sleep(2 * time.Second)
		}
		for _, id := range well {
			if a := r.final(id, time.Second); a.Status != fetchworker.StatusOK || a.Calls != 1 || waited(id) {
				t.Fatalf("%s: %+v, told to wait: %v", id, a, waited(id))
			}
		}
		for _, id := range broken {
			if a, ok := r.answer(id); !ok || a.Status != fetchworker.StatusWaiting && !a.Review {
				t.Errorf("%s: %+v", id, a)
			}
		}
		a, _ := r.answer(broken[len(broken)-2])
		if a.Problem == nil || !strings.Contains(a.Problem.Detail, "the circuit of get /ratios is open for calls of alice: ") {
			t.Errorf("a waiting answer says %+v", a.Problem)
		}
		t.Logf("%d and %d calls of the broken ones in 80 s", r.calls("/ratios"), r.calls("/key-metrics"))
		if r.calls("/ratios") > 60 || r.calls("/key-metrics") > 60 {
			t.Error("too many")
		}
		up.Store(true)
		back := time.Now()
		for _, id := range broken {
			if a := r.until(id, 10*time.Second-time.Since(back), func(a fetchworker.Answer) bool { return a.Final }); a.Status != fetchworker.StatusOK && !a.Review {
				t.Errorf("%s: %+v", id, a)
			}
		}
		t.Logf("all answered %v after the recovery", time.Since(back))
		if n := r.count(wire.StreamReview); n != 0 {
			t.Errorf("%d in review", n)
		}
	})
}

// TestOneAgentsBadCallsDelayNobody on a quiet provider, whatever the two ask
// for.
func TestOneAgentsBadCallsDelayNobody(t *testing.T) {
	for name, c := range map[string]struct {
		bad, good func(r *rig, i int) fetchworker.Identity
		n         int // of bad requests; what they cost grows with the square
	}{
		"of the same operation": {
			func(r *rig, i int) fetchworker.Identity {
				return r.get("alice", fmt.Sprint("bad", i), "/x", fmt.Sprint("BAD", i))
			},
			func(r *rig, i int) fetchworker.Identity {
				return r.get("bob", fmt.Sprint("good", i), "/x", fmt.Sprint("G", i))
			},
			150,
		},
		"of another": {
			func(r *rig, i int) fetchworker.Identity {
				return r.get("alice", fmt.Sprint("bad", i), "/x", fmt.Sprint("BAD", i))
			},
			func(r *rig, i int) fetchworker.Identity {
				return r.quote("bob", fmt.Sprint("good", i), fmt.Sprint("G", i), "")
			},
			75,
		},
		"of a new one each time": {
			func(r *rig, i int) fetchworker.Identity {
				return r.get("alice", fmt.Sprint("bad", i), fmt.Sprint("/BAD", i), "A")
			},
			func(r *rig, i int) fetchworker.Identity {
				return r.get("bob", fmt.Sprint("good", i), "/x", fmt.Sprint("G", i))
			},
			75,
		},
		"of two in turn": {
			func(r *rig, i int) fetchworker.Identity {
				return r.get("alice", fmt.Sprint("bad", i), fmt.Sprint("/x", i/3%2), fmt.Sprint("BAD", i))
			},
			func(r *rig, i int) fetchworker.Identity {
				return r.get("bob", fmt.Sprint("good", i), fmt.Sprint("/x", i%3), fmt.Sprint("G", i))
			},
			75,
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := c.n
			if testing.Short() {
				n = 30
			}
			inBubble(t, func(t *testing.T, r *rig) {
				good, bad := respond(200, aapl), respond(500, `{"error":"boom"}`)
				r.upstream.Fallback = func(q *http.Request) *providertest.Step {
					if strings.Contains(q.URL.String(), "BAD") {
						return bad(q)
					}
					return good(q)
				}
				r.upstream.SetLatency(200 * time.Millisecond)
				defer r.whole(2, 1)()
				waited, end := r.told()
				defer end()
				for i := range n {
					c.bad(r, i)
					if i%5 == 4 {
						asked := time.Now()
						id := c.good(r, i)
						a := r.final(id, 1200*time.Millisecond)
						if a.Status != fetchworker.StatusOK || a.Calls > 2 || waited(id) {
							t.Fatalf("good %d, after %v: %+v", i, time.Since(asked), a)
						}
						time.Sleep(2*time.Second - time.Since(asked))
						continue
					}
					time.Sleep(2 * time.Second)
				}
				r.drained(fetchworker.StreamRequests, 0, 5*time.Second)
				calls := len(r.upstream.Calls())
				t.Logf("%d calls for %d bad and %d good requests", calls, n, n/5)
				if calls > n*5+n/5*2 {
					t.Errorf("%d calls", calls)
				}
			})
		})
	}
}

// TestThreeBadRequestsAndAnHourOfGoodOnes: a list that one endpoint cannot
// take, asked by one agent, and another's good calls of the same endpoint.
func TestThreeBadRequestsAndAnHourOfGoodOnes(t *testing.T) {
	if testing.Short() {
		t.Skip("an hour")
	}
	inBubble(t, func(t *testing.T, r *rig) {
		good, bad := respond(200, aapl), respond(500, `{"error":"boom"}`)
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			if strings.Contains(q.URL.String(), "BAD") {
				return bad(q)
			}
			return good(q)
		}
		defer r.whole(1, 1)()
		waited, end := r.told()
		defer end()
		var ids []fetchworker.Identity
		for i := range 3 {
			ids = append(ids, r.quote("alice", fmt.Sprint("bad", i), fmt.Sprint("BAD", i), ""))
		}
		time.Sleep(10 * time.Second)
		for i := range 180 {
			id := r.quote("bob", fmt.Sprint("g", i), fmt.Sprint("G", i), "")
			if a := r.final(id, time.Second); a.Status != fetchworker.StatusOK || waited(id) {
				t.Fatalf("good %d: %+v", i, a)
			}
			time.Sleep(20 * time.Second)
		}
		for _, id := range ids {
			if a := r.final(id, time.Second); !a.Review {
				t.Errorf("%s: %+v", id, a)
			}
		}
		if n := r.calls("BAD"); n > 3*6 {
			t.Errorf("%d calls of the three", n)
		}
	})
}

// TestOneBadBodyOnAQuietProvider: what comes after it is asked all the same,
// and shows that the one was to blame.
func TestOneBadBodyOnAQuietProvider(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		good, odd := respond(200, aapl), respond(200, `{"truncated`)
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			if strings.Contains(q.URL.Path, "BAD") {
				return odd(q)
			}
			return good(q)
		}
		defer r.whole(1, 1)()
		waited, end := r.told()
		defer end()
		bad := r.quote("alice", "bad", "BAD", "")
		time.Sleep(20 * time.Second)
		if a, _ := r.answer(bad); a.Status != fetchworker.StatusWaiting || r.calls("BAD") != 4 || !strings.Contains(a.Problem.Detail, "for this call") {
			t.Errorf("%d calls: %+v", r.calls("BAD"), a.Problem)
		}
		ids := r.many(fetchworker.LaneInteractive, "G", 8, "alice", "bob")
		for _, id := range ids {
			if a := r.final(id, time.Second); a.Status != fetchworker.StatusOK || waited(id) {
				t.Errorf("%s: %+v", id, a)
			}
		}
		if a := r.final(bad, 30*time.Second); !a.Review || r.calls("BAD") > 6 {
			t.Errorf("%d calls: %+v", r.calls("BAD"), a)
		}
	})
}

// TestALoneBadRequestCostsLittle, however large its answers, and is told of.
func TestALoneBadRequestCostsLittle(t *testing.T) {
	if testing.Short() {
		t.Skip("three quarters of an hour")
	}
	inBubble(t, func(t *testing.T, r *rig) {
		r.open = 5 * time.Second
		large := append([]byte(`[{"x":"`), make([]byte, 2600<<10)...)
		r.upstream.Fallback = func(*http.Request) *providertest.Step {
			return &providertest.Step{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: large}
		}
		defer r.whole(1, 1)()
		id := r.quote("alice", "bad", "BAD", "")
		time.Sleep(45 * time.Minute)
		n := r.calls("BAD")
		t.Logf("%d calls in 45 minutes", n)
		if n < 14 || n > 25 {
			t.Errorf("%d calls", n)
		}
		if a, _ := r.answer(id); a.Status != fetchworker.StatusWaiting || !a.Problem.RetryAt.After(time.Now()) {
			t.Errorf("%+v", a.Problem)
		}
		if told := r.events(budget.KindBudget); told < 1 || told > 4 {
			t.Errorf("told %d times what it costs", told)
		}
	})
}
