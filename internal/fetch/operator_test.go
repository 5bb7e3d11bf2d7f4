package fetch_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/operate"
	"fetchworker/internal/providers/providertest"
)

// An operator cancels what an agent has in the queue, at work and in letters:
// each has its one final answer, nothing of it is called after, and the others'
// goes on. What moves on between the plan and the act is found where it is.
func TestAnOperatorCancelsWhatIsQueuedAndAtWork(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_REQUESTS_PER_MINUTE"] = "6" // nearly all have to wait
		seen := &calls{at: map[string][]time.Time{}}
		good := seen.answer(200, `[{"price":1}]`)
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			step := good(q)
			step.Latency = 2 * time.Second // one call has begun whenever somebody looks
			return step
		}
		answers := dlqtest.Record(t, r.b.NC)
		defer answers.Stop()
		defer r.start(nil)()
		defer r.startReplayer(nil)()
		var ids []fetchworker.Identity
		for i := range 60 {
			ids = append(ids, r.quote("alice", fmt.Sprint("q-", i), fmt.Sprint("A", i), ""))
		}
		bobs := r.quote("bob", "b", "B", "")
		r.final(ids[0], time.Minute)

		desk, err := operate.Open(t.Context(), r.b.NC)
		if err != nil {
			t.Fatal(err)
		}
		fleet, err := desk.Fleet(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer fleet.Close()
		task := operate.Task{
			Action: operate.ActCancel, Queued: true, Filter: browse.Filter{Agent: "alice"},
			Signed: operate.Signature{By: "ann", Reason: "a loop ran wild", Run: "r1"},
		}
		watch := operate.Watch{Did: func() {}, Note: func(string) {}}
		if err := task.Begin(t.Context(), desk, fleet); err != nil {
			t.Fatal(err)
		}
		plan, err := task.Plan(t.Context(), watch)
		if err != nil || plan.Count < 40 {
			t.Fatalf("%+v %v", plan, err)
		}
		// Somebody reads the plan; what has to wait for longer than 90 s is
		// parked meanwhile, so it is in another stream by now.
		time.Sleep(3 * time.Second)
		after := r.quote("alice", "after", "AFTER", "")
		result, err := task.Do(t.Context(), plan, watch)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		done := time.Now()
		ok := 0
		for _, id := range ids {
			a := r.final(id, time.Second)
			if a.Status == fetchworker.StatusOK {
				ok++
				continue
			}
			if cancelled(t, a); a.Problem != nil && a.Problem.Detail != "a loop ran wild" {
				t.Errorf("%+v", a.Problem)
			}
		}
		if did := result.Fates[operate.FateDone]; did != len(ids)-ok || did < 40 {
			t.Errorf("%d ended well, %+v", ok, result)
		}
		for _, id := range []fetchworker.Identity{bobs, after} {
			if a := r.final(id, 3*time.Minute); a.Status != fetchworker.StatusOK {
				t.Errorf("%+v", a)
			}
		}
		if n := seen.after(done); n > 2 { // bob's, and the one that was asked after
			t.Errorf("%d calls after it was done", n)
		}
		time.Sleep(time.Minute)
		for _, id := range ids {
			finals := 0
			for _, a := range answers.Answers(id) {
				if a.Final {
					finals++
				}
			}
			if finals != 1 {
				t.Errorf("%s has %d final answers", id, finals)
			}
		}
		for _, stream := range []string{"FETCH_REQUESTS", "FETCH_REPLAY", "FETCH_DLQ"} {
			if n := r.count(stream); n != 0 {
				t.Errorf("%s still holds %d", stream, n)
			}
		}
	})
}
