package dlq

import (
	"encoding/json"
	"time"

	"fetchworker"
)

// Answer begins an answer to the letter's request.
func (l Letter) Answer(status fetchworker.Status) fetchworker.Answer {
	return fetchworker.Answer{
		Identity: l.Identity, Status: status, Generation: l.Generation,
		Calls: l.Calls, Failures: l.Failures, HTTPStatus: l.HTTPStatus, Time: time.Now(),
		Digest: l.digest(),
	}
}

// digest tells of the request that is answered; empty where its body is no
// JSON object.
func (l Letter) digest() string {
	if l.knows {
		return l.known.Key
	}
	var asked struct {
		Params json.RawMessage `json:"params"`
	}
	if json.Unmarshal(l.Body, &asked) != nil {
		return ""
	}
	return fetchworker.RequestDigest(l.Operation, asked.Params)
}

// Failed is the final answer that ends the letter's generation.
func (l Letter) Failed(code fetchworker.Code, detail string) fetchworker.Answer {
	a := l.Answer(fetchworker.StatusFailed)
	a.Final = true
	p := fetchworker.Failure(l.Identity, code, detail)
	a.Problem = &p
	return a
}

// Waiting is the answer that says what a letter waits for; retryAt may be
// zero.
func (l Letter) Waiting(reason fetchworker.Reason, detail string, retryAt time.Time) fetchworker.Answer {
	a := l.Answer(fetchworker.StatusWaiting)
	p := fetchworker.Waiting(l.Identity, reason, detail, retryAt)
	a.Problem = &p
	return a
}

// ReplyTo is where the request wants copies of its answers, if that is a
// place where its agent may have them.
func (l Letter) ReplyTo() string {
	r, _ := fetchworker.DecodeRequest(l.Body) // of a body that cannot be read whole, this may still be
	r.Agent = l.Agent
	return r.Reply()
}

// EndOfLife is when the request has lived as long as any may; stored is when
// its message was.
func (l Letter) EndOfLife(stored time.Time, maxLife time.Duration) time.Time {
	if l.MaxLife > 0 { // by whoever wrote the letter
		maxLife = l.MaxLife
	}
	if l.RequestedAt.IsZero() {
		return stored.Add(maxLife)
	}
	return l.RequestedAt.Add(maxLife)
}
