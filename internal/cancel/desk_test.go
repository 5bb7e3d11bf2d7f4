package cancel_test

import (
	"context"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/cancel"
	"fetchworker/internal/record"
)

// What is cancelled by its name ends in the life that it is in: a first one, or
// one that a person gave it; what had its end keeps it.
func TestACancelledRequestEndsInItsLife(t *testing.T) {
	b := brokertest.Start(t)
	store := answer.New(record.New(b.JS, nil))
	for name, c := range map[string]struct {
		stand func(i fetchworker.Identity) []fetchworker.Answer // one after another
		ours  bool
		life  int
	}{
		"nothing": {func(fetchworker.Identity) []fetchworker.Answer { return nil }, true, 1},
		"waits":   {func(i fetchworker.Identity) []fetchworker.Answer { return []fetchworker.Answer{waits(i, 1)} }, true, 1},
		"ok":      {func(i fetchworker.Identity) []fetchworker.Answer { return []fetchworker.Answer{ended(i, 1, false)} }, false, 1},
		"review":  {func(i fetchworker.Identity) []fetchworker.Answer { return []fetchworker.Answer{ended(i, 1, true)} }, false, 1},
		"again": {func(i fetchworker.Identity) []fetchworker.Answer {
			return []fetchworker.Answer{ended(i, 1, true), waits(i, 2)}
		}, true, 2},
		"thrice": {func(i fetchworker.Identity) []fetchworker.Answer {
			return []fetchworker.Answer{ended(i, 2, true), waits(i, 3)}
		}, true, 3},
	} {
		i := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: name}
		for _, a := range c.stand(i) {
			if _, stored, err := store.Put(t.Context(), a, ""); err != nil || !stored {
				t.Fatalf("%s: %t %v", name, stored, err)
			}
		}
		for range 2 { // again is the same
			ctx, end := context.WithTimeout(t.Context(), 20*time.Second)
			ours, err := cancel.End(ctx, store, i, cancel.Detail)
			end()
			if err != nil || ours != c.ours {
				t.Errorf("%s: %t %v", name, ours, err)
			}
		}
		stands, err := store.Read(t.Context(), i)
		if err != nil || !stands.Final || stands.Generation != c.life || c.ours != (stands.Problem != nil && stands.Problem.Code() == fetchworker.CodeCancelled) {
			t.Errorf("%s: %+v %v", name, stands.Answer, err)
		}
	}
}

func waits(i fetchworker.Identity, generation int) fetchworker.Answer {
	p := fetchworker.Waiting(i, fetchworker.ReasonPaused, "", time.Time{})
	return fetchworker.Answer{Identity: i, Status: fetchworker.StatusWaiting, Generation: generation, Time: time.Now(), Problem: &p}
}

func ended(i fetchworker.Identity, generation int, review bool) fetchworker.Answer {
	if !review {
		return fetchworker.Answer{Identity: i, Status: fetchworker.StatusOK, Final: true, Generation: generation, Time: time.Now(), Body: []byte("{}")}
	}
	p := fetchworker.Failure(i, fetchworker.CodeRejected, "")
	return fetchworker.Answer{Identity: i, Status: fetchworker.StatusFailed, Final: true, Review: true, Generation: generation, Time: time.Now(), Problem: &p}
}
