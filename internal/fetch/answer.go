package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
)

// longestDetail bounds what a provider's error text adds to an answer, bytes.
const longestDetail = 500

func answerOf(l dlq.Letter, status fetchworker.Status) *fetchworker.Answer {
	return &fetchworker.Answer{
		Identity: l.Identity, Status: status, Generation: l.Generation,
		Calls: l.Calls, Failures: l.Failures, HTTPStatus: l.HTTPStatus, Time: time.Now(),
	}
}

func okAnswer(l dlq.Letter, result *providers.Result) *fetchworker.Answer {
	a := answerOf(l, fetchworker.StatusOK)
	a.Final = true
	a.Source = fetchworker.SourceOrigin
	a.FetchedAt, a.Latency = result.FetchedAt, result.Latency
	a.ContentType, a.Body = result.ContentType, result.Body
	a.Redacted, a.Next = result.Redacted, result.Next
	return a
}

// cachedAnswer is an ok answer from a body that is young enough.
func cachedAnswer(l dlq.Letter, e *entry, now time.Time) *fetchworker.Answer {
	a := answerOf(l, fetchworker.StatusOK)
	a.Final = true
	fill(a, e, now)
	return a
}

// staleAnswer is a body older than was asked for, told as such.
func staleAnswer(l dlq.Letter, e *entry, now time.Time, final bool) *fetchworker.Answer {
	a := answerOf(l, fetchworker.StatusStale)
	a.Final = final
	fill(a, e, now)
	return a
}

func fill(a *fetchworker.Answer, e *entry, now time.Time) {
	a.Source = fetchworker.SourceCache
	a.HTTPStatus = e.HTTPStatus
	a.FetchedAt, a.Age = e.FetchedAt, now.Sub(e.FetchedAt)
	a.Latency = time.Duration(e.LatencyMS) * time.Millisecond
	a.ContentType, a.Body = e.ContentType, e.body
	a.Next, a.Redacted = e.Next, e.Redacted
}

func failedAnswer(l dlq.Letter, code fetchworker.Code, detail string) *fetchworker.Answer {
	a := answerOf(l, fetchworker.StatusFailed)
	a.Final = true
	p := fetchworker.Failure(l.Identity, code, detail)
	a.Problem = &p
	return a
}

func waitingAnswer(l dlq.Letter, reason fetchworker.Reason, detail string, retryAt time.Time) *fetchworker.Answer {
	a := answerOf(l, fetchworker.StatusWaiting)
	p := fetchworker.Waiting(l.Identity, reason, detail, retryAt)
	a.Problem = &p
	return a
}

// answer stores an answer, the parts of a large body before it, and sends the
// live copy.
func (w *Worker) answer(ctx context.Context, r *request, a fetchworker.Answer) error {
	if len(a.Body) > fetchworker.MaxInlineBody {
		claim, err := w.storeBody(ctx, a.Identity, a.Body)
		if err != nil {
			return err
		}
		a.Claim, a.Body = claim, nil
	}
	out, err := dlq.Answer(ctx, w.log, a, r.ReplyTo)
	if err != nil {
		return err
	}
	switch {
	case out.Stored:
		w.metrics.answered(r, a)
	case !r.replayed && out.Existing.Header.Get(fetchworker.HeaderFinal) != "true":
		// Another request under the same id is on its way. What it has been
		// told this one is told too; the rest is on the result subject only.
		return dlq.Copy(w.log, r.ReplyTo, out.Existing.Header, out.Existing.Data)
	}
	return nil
}

// partsInFlight are the parts of large bodies that a worker has on their way,
// of all requests together: each is once more in the connection's buffer, and
// a server that syncs every write takes no more at a time than this.
const partsInFlight = 16

// nonce is the same for the same body of the same request, so that a retry
// writes its parts over those of before.
func nonce(id fetchworker.Identity, sum [sha256.Size]byte) string {
	of := sha256.Sum256(append([]byte(id.String()+"."), sum[:]...))
	return hex.EncodeToString(of[:16])
}

// storeBody stores a large body in parts and returns the claim check. A crash
// leaves parts without a claim; they age out.
func (w *Worker) storeBody(parent context.Context, id fetchworker.Identity, body []byte) (*fetchworker.Claim, error) {
	sum := sha256.Sum256(body)
	claim := &fetchworker.Claim{
		Prefix: fetchworker.BodyPrefix(id, nonce(id, sum)),
		Parts:  (len(body) + fetchworker.MaxInlineBody - 1) / fetchworker.MaxInlineBody,
		Bytes:  int64(len(body)), SHA256: hex.EncodeToString(sum[:]),
	}
	group, ctx := errgroup.WithContext(parent)
	for part := range claim.Parts {
		if w.parts.Acquire(ctx, 1) != nil {
			break // a part has failed, or ctx ended: Wait tells
		}
		from := part * fetchworker.MaxInlineBody
		m := nats.NewMsg(claim.Prefix + "." + strconv.Itoa(part+1))
		m.Data = body[from:min(from+fetchworker.MaxInlineBody, len(body))]
		group.Go(func() error {
			defer w.parts.Release(1)
			return w.log.Append(ctx, "body", fetchworker.StreamBodies, m)
		})
	}
	if err := errors.Join(group.Wait(), parent.Err()); err != nil {
		return nil, fmt.Errorf("store body of %s: %w", id, err)
	}
	return claim, nil
}

// fail gives a request a final failed answer.
func (w *Worker) fail(ctx context.Context, r *request, code fetchworker.Code, detail string) error {
	return w.end(ctx, r, end{answer: failedAnswer(r.letter, code, clip(detail))}, nil)
}

// refuse answers a request that cannot be run as it is. A body that is no
// JSON object goes to review as well, raw: some producer is broken, and a
// person should see it. A letter that we ourselves cannot read is our fault:
// it goes to review too, and is lost to nobody.
func (w *Worker) refuse(ctx context.Context, r *request, cause error) error {
	var rights *providers.RightsError
	switch {
	case errors.As(cause, &rights):
		return w.fail(ctx, r, fetchworker.CodeRightsViolation, cause.Error())
	case errors.Is(cause, providers.ErrUnknownOperation):
		return w.fail(ctx, r, fetchworker.CodeUnknownOperation, cause.Error())
	case errors.Is(cause, errBrokenLetter):
		return w.bury(ctx, r, fetchworker.ClassPermanent, fetchworker.CodeRetriesExhausted, cause.Error())
	case errors.Is(cause, fetchworker.ErrNotObject):
		return w.bury(ctx, r, fetchworker.ClassPermanent, fetchworker.CodeInvalidRequest, cause.Error())
	default:
		return w.fail(ctx, r, fetchworker.CodeInvalidRequest, cause.Error())
	}
}

// bury ends a request in review: its dead letter first, then the failed
// answer, so that a crash between the two leaves a letter that the replayer
// takes to review and answers.
func (w *Worker) bury(ctx context.Context, r *request, class fetchworker.Class, code fetchworker.Code, detail string) error {
	now := time.Now()
	l := r.letter
	l.Class, l.Code, l.Error = class, code, clip(detail)
	l.FailedAt, l.NotBefore = now, now
	l.Record(dlq.Attempt{At: now, Class: class, Error: l.Error})
	a := failedAnswer(l, code, l.Error)
	a.Review = true
	return w.end(ctx, r, end{letter: &l, answer: a}, nil)
}

// expire ends a request that has reached its maximum life: it goes to review
// with all that has become of it.
func (w *Worker) expire(ctx context.Context, r *request) error {
	return w.bury(ctx, r, fetchworker.ClassExpired, fetchworker.CodeRetriesExhausted,
		fmt.Sprintf("the request reached its maximum life of %v", w.maxLife))
}

// park ends this turn of a request whose provider must not be called for a
// while. A body that the agent accepts as stale is its answer; else it becomes
// a letter that counts no failure, with what is known meanwhile: a stale body,
// or why it waits and until when.
func (w *Worker) park(ctx context.Context, r *request, reason fetchworker.Reason, until time.Time) error {
	return w.end(ctx, r, parked(r, reason, until, time.Now()), nil)
}

func parked(r *request, reason fetchworker.Reason, until, now time.Time) end {
	if r.cache.within(r.acceptsStale(), now) {
		return end{answer: staleAnswer(r.letter, r.cache, now, true)}
	}
	l := r.letter
	l.Class, l.Error = parkedAs(reason), ""
	l.FailedAt, l.NotBefore = now, latest(now, until)
	if r.cache.within(r.call.Operation.Stale, now) {
		return end{letter: &l, answer: staleAnswer(l, r.cache, now, false)}
	}
	return end{letter: &l, answer: waitingAnswer(l, reason, "", until)}
}

func parkedAs(reason fetchworker.Reason) fetchworker.Class {
	switch reason {
	case fetchworker.ReasonPaused:
		return fetchworker.ClassPaused
	case fetchworker.ReasonThrottled:
		return fetchworker.ClassThrottled
	case fetchworker.ReasonQuota:
		return fetchworker.ClassQuota
	case fetchworker.ReasonUnauthorized:
		return fetchworker.ClassUnauthorized
	case fetchworker.ReasonCircuitOpen, fetchworker.ReasonNoWorker:
		return fetchworker.ClassCircuitOpen
	}
	return fetchworker.ClassCircuitOpen
}

func clip(s string) string {
	if len(s) > longestDetail {
		return strings.ToValidUTF8(s[:longestDetail], "") + "…" // not through a character
	}
	return s
}
