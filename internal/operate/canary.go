package operate

import (
	"context"
	"fmt"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"
)

// CanaryError says that too few of the first messages succeeded.
type CanaryError struct {
	Of, Succeeded, Failed, Open int
	Need                        float64 // share
}

func (e *CanaryError) Error() string {
	return fmt.Sprintf("canary stopped it: %d of %d succeeded, %d failed, %d without an answer; %.0f %% must succeed",
		e.Succeeded, e.Of, e.Failed, e.Open, 100*e.Need)
}

// canaries is how many are done before the rest; a canary of all that there
// are, or of none, is none.
func (t *Task) canaries(plan Plan) int {
	if t.Canary == 0 || t.Canary >= plan.Count {
		return -1
	}
	return t.Canary
}

// watchCanary waits for the answers of the first ones. It stops as soon as
// too many have failed for the rest to mend it.
func (t *Task) watchCanary(ctx context.Context, canary []browse.Found, w Watch) error {
	waiting := canary
	succeeded, failures := 0, 0
	deadline := time.Now().Add(t.CanaryWait)
	need := t.MinSuccess * float64(len(canary))
	for {
		var still []browse.Found
		for _, f := range waiting {
			switch end, err := t.end(ctx, f); {
			case err != nil:
				return err
			case end == endNone:
				still = append(still, f)
			case end == endSuccess:
				succeeded++
			default:
				failures++
			}
		}
		waiting = still
		w.Note(fmt.Sprintf("canary: %d of %d succeeded, %d failed", succeeded, len(canary), failures))
		late := time.Now().After(deadline)
		switch {
		case float64(len(canary)-failures) < need, late && float64(succeeded) < need:
			return &CanaryError{Of: len(canary), Succeeded: succeeded, Failed: failures, Open: len(waiting), Need: t.MinSuccess}
		case len(waiting) == 0, late:
			return nil
		}
		if h, held := t.fleet.Hold(waiting[0].Provider); held && h.Stops {
			return &HoldError{h}
		}
		if err := wait.For(ctx, 300*time.Millisecond); err != nil {
			return err
		}
	}
}

type ending int

const (
	endNone ending = iota
	endSuccess
	endFailure
)

// end is how a canary's message has ended: answered, or failed again and back
// in the DLQ or in review.
func (t *Task) end(ctx context.Context, before browse.Found) (ending, error) {
	generation := before.Generation
	if before.Stream == wire.StreamReview {
		generation++
	}
	answer, err := t.desk.Answer(ctx, before.Identity)
	if err != nil {
		return endNone, err
	}
	if answer != nil && answer.Final && answer.Generation >= generation {
		if answer.Status == fetchworker.StatusOK || answer.Status == fetchworker.StatusStale {
			return endSuccess, nil
		}
		return endFailure, nil
	}
	count, raw, err := t.desk.Count(ctx, wire.StreamDLQ, wire.DLQSubject(before.Lane, before.Identity))
	if err != nil || count == 0 {
		return endNone, err
	}
	back, err := dlq.Decode(raw.Subject, raw.Header, raw.Data)
	if err == nil && back.Calls > before.Calls {
		return endFailure, nil
	}
	return endNone, nil // one that cannot be read has not ended
}
