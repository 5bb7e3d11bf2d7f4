package fetch_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// What an agent with no more than the right to publish its requests could try,
// and what an operator's slip could leave: neither may cost another agent an
// answer.

func TestAMessageThatLooksLikeTheServersWordIsARequest(t *testing.T) {
	for _, status := range []string{"100", "404", "408", "409", "503"} {
		t.Run(status, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.well()
				for range 300 { // more than a shard hands out
					m := newMsg("fetch.request.fmp.interactive.quote.alice", "")
					m.Header.Set("Status", status)
					if _, err := r.b.JS.PublishMsg(t.Context(), m); err != nil {
						t.Fatal(err)
					}
				}
				defer r.start(nil)()
				if a := r.final(r.quote("alice", "behind", "AAPL", ""), 10*time.Second); a.Status != fetchworker.StatusOK {
					t.Errorf("%+v", a)
				}
				r.drained(fetchworker.StreamRequests, 0, 10*time.Second)
			})
		})
	}
}

func TestHeadersCannotPointAtAnothersRequest(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = respond(200, aapl)
		stop := r.startReplayer(nil)
		defer stop()
		bobs := r.quote("bob", "precious", "AAPL", "")
		m := newMsg("fetch.request.nobody.batch.x.mallory", `{"id":"m1"}`)
		m.Header.Set(jetstream.SequenceHeader, "1")
		m.Header.Set(jetstream.SubjectHeader, "fetch.request.fmp.interactive.0.quote.bob")
		m.Header.Set(jetstream.StreamHeader, fetchworker.StreamRequests)
		if _, err := r.b.JS.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		mallorys := fetchworker.Identity{Provider: "nobody", Operation: "x", Agent: "mallory", ID: "m1"}
		defer r.start(nil)()
		if a := r.final(mallorys, 10*time.Second); a.Problem.Code() != fetchworker.CodeUnknownProvider {
			t.Errorf("mallory: %+v", a)
		}
		if a := r.final(bobs, 10*time.Second); a.Status != fetchworker.StatusOK {
			t.Errorf("bob: %+v %+v", a, a.Problem)
		}
		r.drained(fetchworker.StreamRequests, 0, 5*time.Second)
	})
}

func TestASubjectTooLongToAnswerIsDroppedAndHurtsNobody(t *testing.T) {
	for _, provider := range []string{"fmp", "nobody"} {
		t.Run(provider, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.well()
				defer r.whole(1, 1)()
				subject := "fetch.request." + provider + ".interactive." + strings.Repeat("o", 3900) + ".alice"
				if _, err := r.b.JS.PublishMsg(t.Context(), newMsg(subject, `{"id":"`+strings.Repeat("i", 64)+`"}`)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
				if a := r.final(r.quote("alice", "after", "AAPL", ""), 5*time.Second); a.Status != fetchworker.StatusOK {
					t.Errorf("%+v", a)
				}
				r.drained(fetchworker.StreamRequests, 0, 5*time.Second)
			})
		})
	}
}

func TestTracesThatAreNoneDoNotTravel(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.circuit = 0
		r.upstream.Fallback = respond(500, "boom")
		defer r.whole(1, 1)()
		m := newMsg("fetch.request.fmp.interactive.quote.alice", `{"id":"t1","params":{"symbol":"AAPL"}}`)
		m.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		m.Header.Set("tracestate", strings.Repeat("x", 60_000))
		if _, err := r.b.JS.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		a := r.final(fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "t1"}, time.Minute)
		if a.Problem.Code() != fetchworker.CodeRetriesExhausted || a.Calls != 4 {
			t.Errorf("%+v", a)
		}
	})
}

func TestConsumersThatWereDeletedComeBack(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		defer r.whole(2, 1)()
		time.Sleep(time.Second)
		for _, stream := range []string{fetchworker.StreamRequests, wire.StreamReplay, wire.StreamDLQ} {
			s, err := r.b.JS.Stream(t.Context(), stream)
			if err != nil {
				t.Fatal(err)
			}
			for name := range s.ConsumerNames(t.Context()).Name() {
				if err := s.DeleteConsumer(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
		if a := r.final(r.quote("alice", "q", "AAPL", ""), time.Minute); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v %+v", a, a.Problem)
		}
	})
}

func TestWhatCannotBeReadHoldsNothingUp(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		id := r.quote("alice", "q", "AAPL", "")
		// A stored answer that is none, and a suspicion that is none.
		m := newMsg(wire.PutSubject(id), "garbage")
		if _, err := record.New(r.b.JS, nil).Put(t.Context(), answer.Slot(id), m); err != nil {
			t.Fatal(err)
		}
		if _, err := r.b.KV.PutString(t.Context(), fmt.Sprintf("suspect.%s.1", fetchworker.StreamRequests), "garbage"); err != nil {
			t.Fatal(err)
		}
		for range 6 { // workers that vanish with it
			nc, stop := r.startWorker(func(point string, _ bool) error {
				if point == "call" {
					return errCrash
				}
				return nil
			})
			time.Sleep(12 * time.Second)
			nc.Close()
			stop()
		}
		defer r.start(nil)()
		if a := r.until(id, time.Minute, func(a fetchworker.Answer) bool { return a.Final }); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v", a)
		}
	})
}

// TestAReviewThatIsPromisedIsThere asks twice under one id: whichever letter
// lies there, an answer says "in review" only of one that a person will see.
func TestAReviewThatIsPromisedIsThere(t *testing.T) {
	for _, order := range [][2]string{{"FAILS", "REJECTED"}, {"REJECTED", "FAILS"}} {
		t.Run(order[0]+" first", func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.circuit = 0
				fails, rejected := respond(500, "boom"), respond(400, `{"Error Message":"Invalid parameter"}`)
				r.upstream.Fallback = func(q *http.Request) *providertest.Step {
					if strings.HasSuffix(q.URL.Path, "FAILS") {
						return fails(q)
					}
					return rejected(q)
				}
				defer r.whole(1, 1)()
				id := r.quote("alice", "q", order[0], "")
				time.Sleep(200 * time.Millisecond)
				r.quote("alice", "q", order[1], "")
				a := r.final(id, time.Minute)
				time.Sleep(30 * time.Second)
				if n := r.count(wire.StreamReview); (n == 1) != a.Review || n > 1 {
					t.Errorf("%d items, and the answer says review: %t", n, a.Review)
				}
				r.drained(wire.StreamDLQ, 0, time.Minute)
				if again, _ := r.answer(id); again.Review != a.Review || again.Status != a.Status {
					t.Errorf("%+v became %+v", a, again)
				}
			})
		})
	}
}

// TestWhatParkedTogetherSharesACall parks ten requests for the same thing: a
// body that came after they were asked for answers all of them, although each
// comes back as a message of its own.
func TestWhatParkedTogetherSharesACall(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		defer r.whole(1, 1)()
		recovered := r.outage()
		for i := range 3 {
			r.quote("bob", fmt.Sprint("o", i), fmt.Sprint("O", i), "")
		}
		time.Sleep(5 * time.Second) // the circuit is open
		var ids []fetchworker.Identity
		for i := range 10 {
			ids = append(ids, r.quote(fmt.Sprint("agent", i), "same", "SAME", `,"max_age":"0s"`))
		}
		time.Sleep(5 * time.Second)
		recovered()
		for _, id := range ids {
			if a := r.final(id, 3*time.Minute); a.Status != fetchworker.StatusOK {
				t.Errorf("%+v", a)
			}
		}
		calls := 0
		for _, c := range r.upstream.Calls() {
			if strings.Contains(c.Target, "SAME") && c.Status == 200 {
				calls++
			}
		}
		if calls != 1 {
			t.Errorf("%d calls for one thing", calls)
		}
	})
}

// TestOneAgentsRawBodiesDoNotFillReview: a hundred are for a person to see, the
// rest is refused and no more; another agent's is seen all the same.
func TestOneAgentsRawBodiesDoNotFillReview(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		defer r.whole(1, 1)()
		for range 150 {
			r.ask("fetch.request.fmp.batch.quote.flood", "", "no JSON")
		}
		r.ask("fetch.request.fmp.batch.quote.alice", "", "no JSON either")
		r.drained(fetchworker.StreamRequests, 0, time.Minute)
		r.drained(wire.StreamDLQ, 0, time.Minute)
		if n := r.count(wire.StreamReview); n != 101 {
			t.Errorf("%d in review, want 100 of the one and 1 of the other", n)
		}
		if n := r.count(fetchworker.StreamResults); n != 151 {
			t.Errorf("%d answers, want 151", n)
		}
	})
}
