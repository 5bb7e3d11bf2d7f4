package dlq

import (
	"time"

	"fetchworker"
)

// Failed is the final answer that ends a letter's generation.
func (l Letter) Failed(p fetchworker.Problem) fetchworker.Answer {
	return fetchworker.Answer{
		Identity: l.Identity, Status: fetchworker.StatusFailed, Final: true, Generation: l.Generation,
		Calls: l.Calls, Failures: l.Failures, HTTPStatus: l.HTTPStatus, Time: time.Now(), Problem: &p,
	}
}

// Waiting is the answer that says what a letter waits for.
func (l Letter) Waiting(p fetchworker.Problem) fetchworker.Answer {
	return fetchworker.Answer{
		Identity: l.Identity, Status: fetchworker.StatusWaiting, Generation: l.Generation,
		Calls: l.Calls, Failures: l.Failures, HTTPStatus: l.HTTPStatus, Time: time.Now(), Problem: &p,
	}
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
	if l.RequestedAt.IsZero() {
		return stored.Add(maxLife)
	}
	return l.RequestedAt.Add(maxLife)
}
