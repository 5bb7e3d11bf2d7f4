package dlq

import (
	"context"
	"time"

	"fetchworker"
	"fetchworker/internal/record"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
)

// Put stores a dead letter. Only after it returns nil may the request's
// message be acknowledged.
func Put(ctx context.Context, log *record.Log, l Letter) error {
	_, err := log.Put(ctx, l.DeadLetterSlot(), l.DeadLetter())
	return err
}

// Wait draws how long a letter waits after its n-th failure: base, twice
// base, four times base and so on, ± 20 %, at most longest.
func Wait(base, longest time.Duration, failures int) time.Duration {
	b := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(base),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0.2),
		backoff.WithMaxInterval(longest),
		backoff.WithMaxElapsedTime(0),
	)
	wait := b.NextBackOff()
	for range failures - 1 {
		wait = b.NextBackOff()
	}
	return wait
}

// AnswerSlot is where a request's answer is stored.
func AnswerSlot(i fetchworker.Identity) record.Slot {
	return record.Slot{Stream: fetchworker.StreamResults, Subject: fetchworker.ResultSubject(i), Order: record.Answers, Point: "answer"}
}

// Answer stores an answer unless a higher one stands, and sends a live copy to
// the reply subject, if there is one: of the answer stored, or of the final
// one that stood already. A copy may come twice; the record is the result
// subject.
func Answer(ctx context.Context, log *record.Log, a fetchworker.Answer, replyTo string) (record.Outcome, error) {
	m := a.Encode()
	out, err := log.Put(ctx, AnswerSlot(a.Identity), m)
	switch {
	case err != nil:
		return out, err
	case out.Stored:
		return out, Copy(log, replyTo, m.Header, m.Data)
	case out.Existing.Header.Get(fetchworker.HeaderFinal) == "true":
		return out, Copy(log, replyTo, out.Existing.Header, out.Existing.Data)
	default:
		return out, nil
	}
}

// Copy sends a stored answer to a reply subject: same bytes, same headers but
// those that the server adds when it reads one back.
func Copy(log *record.Log, replyTo string, h nats.Header, data []byte) error {
	if replyTo == "" {
		return nil
	}
	m := nats.NewMsg(replyTo)
	for key, values := range h {
		if !serverHeader(key) {
			m.Header[key] = values
		}
	}
	m.Data = data
	return log.Send(m)
}

func serverHeader(key string) bool { return len(key) > 5 && key[:5] == "Nats-" }
