package fetch_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// TestAWordThatIsLostChangesNoEnd loses or delays a word between a worker and
// the server at each thing that it writes, reads and acknowledges, for requests
// that end in every way: each has exactly its one end, and nobody is called
// twice for what was answered once.
func TestAWordThatIsLostChangesNoEnd(t *testing.T) {
	parts := map[string]string{
		"the answer": "fetch.put.", "a part of a body": "fetch.body.", "a letter": "fetch.dlq.",
		"a look into the answers": "DIRECT.GET." + fetchworker.StreamResults, "a look into the cache": "DIRECT.GET.KV_" + wire.BucketCache,
		"a letter's ack": "$JS.ACK.",
	}
	for at, part := range parts {
		for fault, name := range map[brokertest.Fault]string{brokertest.RequestLost: "request lost", brokertest.ReplyLost: "reply lost", brokertest.ReplyLate: "reply late"} {
			for _, times := range []int{1, 3} {
				if times > 1 && at != "the answer" && at != "a letter's ack" {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%d", at, name, times), func(t *testing.T) {
					inBubble(t, func(t *testing.T, r *rig) {
						r.circuit, r.wire = 0, &brokertest.Wire{}
						r.env["FMP_REQUESTS_PER_MINUTE"] = "6000"
						seen := &sometimes{failed: map[string]bool{}}
						r.upstream.Fallback = seen.answer
						defer r.start(nil)()
						used := r.quote("alice", "used", "USED", "")
						r.final(used, 5*time.Second)
						time.Sleep(2 * time.Minute)
						ends := dlqtest.Record(t, r.b.NC)
						defer ends.Stop()
						r.wire.Break(part, fault, times, 4*time.Second)
						if a := r.quote("alice", "used", "AGAIN", `,"max_age":"0s"`); a != used {
							t.Fatal(a)
						}
						want := map[fetchworker.Identity]int{ // calls
							r.quote("alice", "ok", "OK", ""):     1,
							r.quote("alice", "big", "BIG", ""):   1,
							r.quote("alice", "bad", "BAD", ""):   1,
							r.quote("alice", "some", "SOME", ""): 2, // one fails
							r.quote("bob", "own", "USED", ""):    1,
						}
						time.Sleep(30 * time.Second)
						if r.wire.Met() == 0 {
							t.Fatal("nothing was lost")
						}
						r.wire.Mend()
						r.drained(fetchworker.StreamRequests, 0, time.Minute)
						defer r.startReplayer(nil)()
						for id, calls := range want {
							a := r.final(id, time.Minute)
							if wrong := a.Status != fetchworker.StatusOK; wrong != (id.ID == "bad") {
								t.Errorf("%s: %+v %+v", id, a, a.Problem)
							}
							if a.Calls != calls || a.Failures != calls-1 {
								t.Errorf("%s: tells %d calls and %d failures, want %d and %d", id, a.Calls, a.Failures, calls, calls-1)
							}
							if n := r.calls("/" + strings.ToUpper(id.ID)); id.ID != "own" && n != calls {
								t.Errorf("%s: %d calls", id, n)
							}
							if n := finals(ends.Answers(id)); n != 1 {
								t.Errorf("%s: %d final answers", id, n)
							}
						}
						if n := r.calls("/AGAIN"); n != 0 {
							t.Errorf("%d calls under a used id", n)
						}
						r.drained(wire.StreamDLQ, 0, 10*time.Second)
						r.drained(wire.StreamReplay, 0, 10*time.Second)
						if review := r.count(wire.StreamReview); review != 1 { // the bad one
							t.Errorf("%d in review", review)
						}
						r.allGivenBack()
					})
				})
			}
		}
	}
}

// sometimes is a provider with an answer of each kind.
type sometimes struct {
	mu     sync.Mutex
	failed map[string]bool
}

func (s *sometimes) answer(q *http.Request) *providertest.Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	step := providertest.JSON(200, aapl)
	switch path := q.URL.Path; {
	case strings.HasSuffix(path, "BAD"):
		step = providertest.JSON(422, `{"Error Message":"no"}`)
	case strings.HasSuffix(path, "BIG"):
		step = providertest.JSON(200, `[{"symbol":"`+strings.Repeat("x", fetchworker.MaxInlineBody)+`"}]`)
	case strings.Contains(path, "SOME") && !s.failed[path]:
		s.failed[path] = true
		step = providertest.JSON(500, "boom")
	}
	return &step
}

func finals(answers []fetchworker.Answer) (n int) {
	for _, a := range answers {
		if a.Final {
			n++
		}
	}
	return n
}

// allGivenBack checks that no gate has a call in flight or a request waiting,
// and that the worker started last holds nothing.
func (r *rig) allGivenBack() {
	r.t.Helper()
	for _, g := range r.gates {
		if s := g.State(); s.InFlight != 0 || s.Waiting != 0 {
			r.t.Errorf("%d in flight, %d wait", s.InFlight, s.Waiting)
		}
	}
	if left := r.worker.Left(); len(left) > 0 {
		r.t.Errorf("nothing is to be done, and there are left: %v", left)
	}
}

// An ack that nobody hears, of an answer or of a letter: the request is given
// out again and finds its answer; what has its letter is not called beside it.
func TestAnAckThatIsLostMakesNoSecondCall(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.wire = &brokertest.Wire{}
		r.upstream.Fallback = respond(500, "boom")
		defer r.start(nil)()
		r.wire.Break("$JS.ACK.", brokertest.Lost, 1, 0)
		r.quote("alice", "fails", "FAILS", "")
		time.Sleep(time.Minute)
		if n := len(r.upstream.Calls()); n != 1 || r.wire.Met() != 1 {
			t.Errorf("%d calls, %d acks were lost", n, r.wire.Met())
		}
		r.drained(fetchworker.StreamRequests, 0, time.Second)
		r.drained(wire.StreamDLQ, 1, time.Second)
	})
}

// A request whose ack was lost for good, as by a server that dies, comes again
// when its letter waits already, or is released: the letter goes on, and nobody
// calls beside it. One whose letter is another request's is called.
func TestWhatHasItsLetterIsNotCalledBesideIt(t *testing.T) {
	for name, c := range map[string]struct {
		subject func(fetchworker.Lane, fetchworker.Identity) string // where its letter is by then
		later   time.Duration                                       // than it, the letter's request was asked
		alone   int                                                 // calls while nobody replays
		told    int                                                 // calls by the answer: the letter knows of three before
	}{
		"it waits":        {wire.DLQSubject, 0, 0, 4},
		"it is released":  {wire.ReplaySubject, 0, 1, 4}, // of the letter
		"it is another's": {wire.DLQSubject, time.Second, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.wire = &brokertest.Wire{}
				r.well()
				stop := r.start(nil)
				if err := fleet.Pause(t.Context(), r.b.KV, "fmp", time.Now().Add(time.Hour), "ann", ""); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				r.wire.Break("$JS.ACK."+fetchworker.StreamRequests, brokertest.Lost, 100, 0)
				id := r.quote("alice", "q", "A", `,"max_age":"0s"`)
				r.drained(wire.StreamDLQ, 1, 10*time.Second)
				time.Sleep(time.Second)
				stop()
				raw, _ := r.letter(fetchworker.LaneInteractive, id)
				letter, err := dlq.Decode(raw.Subject, raw.Header, raw.Data)
				if err != nil {
					t.Fatal(err)
				}
				dead, err := r.b.JS.Stream(t.Context(), wire.StreamDLQ)
				if err != nil {
					t.Fatal(err)
				}
				if err := dead.Purge(t.Context()); err != nil {
					t.Fatal(err)
				}
				letter.RequestedAt, letter.Calls = letter.RequestedAt.Add(c.later), 3
				msg := letter.DeadLetter()
				msg.Subject = c.subject(letter.Lane, id)
				if _, err := r.b.JS.PublishMsg(t.Context(), msg); err != nil {
					t.Fatal(err)
				}
				r.wire = nil
				if err := fleet.Resume(t.Context(), r.b.KV, "fmp"); err != nil {
					t.Fatal(err)
				}
				defer r.start(nil)()
				r.drained(fetchworker.StreamRequests, 0, time.Minute)
				r.drained(wire.StreamReplay, 0, time.Minute)
				if n := r.calls("/A"); n != c.alone {
					t.Errorf("%d calls while nobody replays", n)
				}
				defer r.startReplayer(nil)()
				if a := r.final(id, time.Minute); a.Status != fetchworker.StatusOK || a.Calls != c.told {
					t.Errorf("%+v", a)
				}
				r.drained(wire.StreamDLQ, 0, time.Minute)
				r.drained(wire.StreamReplay, 0, time.Minute)
				if n := r.calls("/A"); n != 1 {
					t.Errorf("%d calls", n)
				}
			})
		})
	}
}

// An ack that is sent again is waited for out of everybody's way, also by a
// suspect, which has all of the process.
func TestWhoWaitsForAnAckHoldsUpNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["POLYGON_API_KEY"], r.env["POLYGON_BASE_URL"], r.env["POLYGON_REQUESTS_PER_MINUTE"] = "polygon-key-0123", r.upstream.URL(), "0"
		aggs, boom := respond(200, `{"status":"OK","results":[{"c":1}],"resultsCount":1,"ticker":"AAPL"}`), respond(500, "boom")
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			if strings.HasPrefix(q.URL.Path, "/v2/") {
				return aggs(q)
			}
			return boom(q)
		}
		r.start(nil)()
		r.quote("alice", "suspect", "FAILS", "")
		r.vanish(5)
		raised, unwatch := r.running()
		defer unwatch()
		r.wire = &brokertest.Wire{}
		r.wire.Break("$JS.ACK."+fetchworker.StreamRequests+".fmp-", brokertest.Lost, 4, 0)
		defer r.start(nil)()
		r.drained(wire.StreamDLQ, 1, 30*time.Second)
		time.Sleep(2500 * time.Millisecond) // the first ack is lost
		if len(raised()) == 0 || r.wire.Met() == 0 {
			t.Errorf("it is no suspect, or was heard: %v, %d", raised(), r.wire.Met())
		}
		id := r.ask("fetch.request.polygon.interactive.aggregates.bob", "b", `{"id":"b","params":{"symbol":"AAPL","from":"2026-01-02","to":"2026-01-09"}}`)
		if a := r.final(id, time.Second); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v", a)
		}
		r.drained(fetchworker.StreamRequests, 0, 15*time.Second)
		if n := r.calls("FAILS"); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}
