package main

import (
	"context"
	"fmt"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
)

// canaries is how many are done before the rest; a canary of all that there
// are, or of none, is none.
func (b *bulk) canaries(plan tally) int {
	if b.options.canary == 0 || b.options.canary >= plan.Count {
		return -1
	}
	return b.options.canary
}

// watchCanary waits for the answers of the first ones. It stops as soon as
// too many have failed for the rest to mend it.
func (b *bulk) watchCanary(ctx context.Context, canary []browse.Found, p *progress) error {
	waiting := canary
	succeeded, failures := 0, 0
	deadline := time.Now().Add(b.options.canaryWait)
	need := b.options.minSuccess * float64(len(canary))
	for {
		var still []browse.Found
		for _, f := range waiting {
			switch end, err := b.end(ctx, f); {
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
		p.note(fmt.Sprintf("canary: %d of %d succeeded, %d failed", succeeded, len(canary), failures))
		late := time.Now().After(deadline)
		switch {
		case float64(len(canary)-failures) < need, late && float64(succeeded) < need:
			return failed("look at what failed with replayer list and replayer review list; the rest was not touched",
				"canary stopped it: %d of %d succeeded, %d failed, %d without an answer; %.0f %% must succeed", succeeded, len(canary), failures, len(waiting), 100*b.options.minSuccess)
		case len(waiting) == 0, late:
			return nil
		}
		if shut := b.fleet.shut(waiting[0].Provider); shut != "" {
			return failed("nothing is lost: run it again when replayer status shows the provider open", "canary stopped it: %s", shut)
		}
		if err := rest(ctx, 300*time.Millisecond); err != nil {
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
func (b *bulk) end(ctx context.Context, before browse.Found) (ending, error) {
	generation := before.Generation
	if before.Stream == fetchworker.StreamReview {
		generation++
	}
	answer, err := b.l.answer(ctx, before.Identity)
	if err != nil {
		return endNone, err
	}
	if answer != nil && answer.Final && answer.Generation >= generation {
		if answer.Status == fetchworker.StatusOK || answer.Status == fetchworker.StatusStale {
			return endSuccess, nil
		}
		return endFailure, nil
	}
	count, raw, err := b.l.Count(ctx, fetchworker.StreamDLQ, fetchworker.DLQSubject(before.Lane, before.Identity))
	if err != nil || count == 0 {
		return endNone, err
	}
	back, err := dlq.Decode(raw.Subject, raw.Header, raw.Data)
	if err == nil && back.Calls > before.Calls {
		return endFailure, nil
	}
	return endNone, nil // one that cannot be read has not ended
}
