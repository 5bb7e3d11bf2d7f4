package fetch

import (
	"slices"
	"time"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/meter"
	"fetchworker/internal/cache"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers"
	"fetchworker/internal/wire"
)

const (
	// longestRetry bounds the wait after a failure, however many there were.
	longestRetry = 15 * time.Minute
	// shortHold is the longest hold that is not told with a waiting answer.
	shortHold = 90 * time.Second
)

// facts are all that the end of a call is decided from.
type facts struct {
	letter    dlq.Letter // before this call
	result    *providers.Result
	made      made
	now       time.Time
	cache     *cache.Entry  // the body kept for the same call, nil if none
	maxStale  time.Duration // that the agent accepts as final
	stale     time.Duration // up to which the operation's body may be shown meanwhile
	retries   int           // allowed after the first call
	retryWait func(failures int) time.Duration
	hold      func() time.Time                 // until when the provider is held, for the whole fleet
	outage    func(firstFailed time.Time) bool // the failures since then are not the request's own fault
	circuit   func() *budget.ClosedError       // that is open for the request; nil if none is
}

// made says how a result came to the request that it is decided for.
type made int

const (
	ordinary made = iota // by a call of its own
	probe                // by a call of its own that was the circuit's probe
	shared               // by the call of an identical request
)

// ending is what is to be done with a request: at least one of letter and answer
// is set. A letter is stored first.
type ending struct {
	letter *dlq.Letter
	answer *fetchworker.Answer
	spare  time.Time // since when its failures are not its fault: open the circuit that they are put down to
}

// decide turns the result of a call into the request's end.
func decide(f facts) ending {
	if f.made != shared {
		f.letter.Calls++
	}
	f.letter.HTTPStatus = f.result.HTTPStatus
	f.letter.Class = f.result.Class
	if f.result.Class != wire.ClassOK {
		return f.failed()
	}
	answer := okAnswer(f.letter, f.result)
	if f.made == shared {
		answer.Source = fetchworker.SourceCache
		answer.Age = f.now.Sub(f.result.FetchedAt)
	}
	return ending{answer: answer}
}

// failed is the end of a request whose call failed.
func (f facts) failed() ending {
	l := f.letter
	l.Error = f.result.Detail
	l.FailedAt = f.now
	l.Record(dlq.Attempt{
		At: f.now, Class: l.Class, HTTPStatus: l.HTTPStatus,
		LatencyMS: f.result.Latency.Milliseconds(), Error: l.Error, Conditional: failedConditional(f.result),
	})

	switch f.result.Class { //nolint:exhaustive // a provider's result is one of these
	case wire.ClassPermanent:
		l.Code = f.result.Code
		answer := failedAnswer(l, l.Code, l.Error)
		if l.Code != fetchworker.CodeRejected {
			// That a symbol does not exist is an answer, and must not bury an
			// operator's review.
			return ending{answer: answer}
		}
		answer.Review = true
		l.NotBefore = f.now
		return ending{letter: &l, answer: answer}

	case wire.ClassThrottled:
		if f.cache.Within(f.maxStale, f.now) {
			return ending{answer: staleAnswer(l, f.cache, f.now, true)}
		}
		l.NotBefore = latest(f.hold(), f.now.Add(f.result.RetryAfter), f.now.Add(f.result.MinHold))
		if l.NotBefore.Sub(f.now) > shortHold {
			if f.cache.Within(f.stale, f.now) {
				return ending{letter: &l, answer: meanwhile(l, f.cache, f.now, fetchworker.ReasonThrottled, l.NotBefore)}
			}
			return ending{letter: &l, answer: waitingAnswer(l, fetchworker.ReasonThrottled, l.Error, l.NotBefore)}
		}
		return ending{letter: &l}

	case wire.ClassPending:
		l.NotBefore = f.now.Add(pendingWait(f.result.RetryAfter, l.History))
		if f.cache.Within(f.stale, f.now) {
			return ending{letter: &l, answer: meanwhile(l, f.cache, f.now, fetchworker.ReasonPending, l.NotBefore)}
		}
		return ending{letter: &l, answer: waitingAnswer(l, fetchworker.ReasonPending, l.Error, l.NotBefore)}

	case wire.ClassUnauthorized:
		l.NotBefore = f.now.Add(unauthorizedWait(l.History))
		return ending{letter: &l, answer: waitingAnswer(l, fetchworker.ReasonUnauthorized, l.Error, l.NotBefore)}
	}

	// Transient. What the agent accepts as stale is its answer, and the end.
	if f.cache.Within(f.maxStale, f.now) {
		return ending{answer: staleAnswer(l, f.cache, f.now, true)}
	}
	first := l.FirstFailedAt
	if first.IsZero() {
		first = f.now
	}
	e := ending{letter: &l}
	switch {
	case f.made == probe:
		// A failed probe says that the provider is still down, nothing about
		// the request that happened to be it.
		l.Class, l.NotBefore = wire.ClassCircuitOpen, f.now
		e.answer = f.waitsForCircuit(l)
	case l.Failures+1 > f.retries && f.outage(first):
		// It would run out of retries, yet nothing that could tell a bad
		// request from an outage has succeeded since its first failure: that
		// costs it nothing.
		l.Class, l.NotBefore = wire.ClassCircuitOpen, f.now
		e.answer = f.waitsForCircuit(l)
		e.spare = first
	default:
		l.Failures++
		l.FirstFailedAt, l.NotBefore = first, f.now
		if l.Failures <= f.retries {
			l.NotBefore = f.now.Add(f.retryWait(l.Failures))
		}
	}
	if f.cache.Within(f.stale, f.now) && l.Failures <= f.retries {
		reason, until := fetchworker.ReasonRetry, l.NotBefore
		if e.answer != nil {
			reason, until = e.answer.Problem.Reason(), e.answer.Problem.RetryAt
		}
		e.answer = meanwhile(l, f.cache, f.now, reason, until)
	}
	return e
}

// waitsForCircuit is what the agent of a request is told that failed while a
// circuit is open for it, or opens it.
func (f facts) waitsForCircuit(l dlq.Letter) *fetchworker.Answer {
	c := f.circuit()
	if c == nil {
		return waitingAnswer(l, fetchworker.ReasonCircuitOpen, l.Error, time.Time{})
	}
	return waitingAnswer(l, fetchworker.ReasonCircuitOpen, c.Detail+"; the last attempt: "+l.Error, c.Until)
}

const (
	// nearlyUsed of the month's bytes, in percent: batch work stops there.
	nearlyUsed = 95
)

// beyondBudget says how a request ends that the month's bytes no longer
// allow; over is false where it may be called. What is left of the last
// twentieth is for the interactive lane.
func beyondBudget(r *request, used, limit int64, now time.Time) (e ending, over bool) {
	if limit <= 0 || used*100 < limit*nearlyUsed {
		return ending{}, false
	}
	accepts := r.call.Operation.Stale
	if r.asked.MaxStale != nil {
		accepts = r.acceptsStale()
	}
	if r.cache.Within(accepts, now) {
		return ending{answer: staleAnswer(r.Letter, r.cache, now, true)}, true
	}
	if r.Lane == fetchworker.LaneInteractive && used < limit {
		return ending{}, false
	}
	a := failedAnswer(r.Letter, fetchworker.CodeBudgetExhausted, "")
	a.Problem.RetryAt = meter.NextMonth(now)
	if r.Generation > 1 {
		// A person began this life: it does not end for good for a reason that
		// passes, but comes back to them.
		l := r.Letter
		l.Class, l.Code, l.Error = wire.ClassPermanent, fetchworker.CodeBudgetExhausted, "the month's bytes are used up"
		l.FailedAt, l.NotBefore = now, now
		a.Review = true
		return ending{letter: &l, answer: a}, true
	}
	return ending{answer: a}, true
}

// unauthorizedWait is 1 s, doubling to 15 min, by how many attempts in a row
// the key was refused. The history keeps ten, which is where the cap is.
func unauthorizedWait(history []dlq.Attempt) time.Duration {
	wait := time.Second
	if len(history) == dlq.HistoryKept && !slices.ContainsFunc(history, func(a dlq.Attempt) bool { return a.Class != wire.ClassUnauthorized }) {
		return longestRetry
	}
	for i := len(history) - 2; i >= 0 && history[i].Class == wire.ClassUnauthorized; i-- {
		wait *= 2
	}
	return min(wait, longestRetry)
}

// longestPending bounds the wait between two questions after an answer that is
// being computed.
const longestPending = time.Minute

// pendingWait is what the provider asks for, else 1 s, doubling to 60 s, by how
// often in a row it said that it was not done.
func pendingWait(asked time.Duration, history []dlq.Attempt) time.Duration {
	if asked > 0 {
		return asked
	}
	wait := time.Second
	for i := len(history) - 2; i >= 0 && history[i].Class == wire.ClassPending && wait < longestPending; i-- {
		wait *= 2
	}
	return min(wait, longestPending)
}

func latest(times ...time.Time) time.Time {
	var last time.Time
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// stoodStill is how much longer than its timeout a call can only have taken
// in a process that did not run meanwhile: one that was frozen, or moved to
// another machine.
const stoodStill = 2 * time.Second

// report tells the gate how a call went.
func report(r *request, result *providers.Result) budget.Report {
	rep := budget.Report{
		Bytes: result.WireBytes, RetryAfter: result.RetryAfter, MinHold: result.MinHold,
		Sent: result.HoldSent, Remaining: result.Remaining, Reset: max(result.Reset, 0), Window: result.Window,
	}
	rep.Outcome = outcome(r, result)
	return rep
}

// outcome is what a call says about its provider.
func outcome(r *request, result *providers.Result) budget.Outcome {
	switch {
	case lapsed(result):
		return budget.Unused
	case result.Class == wire.ClassThrottled:
		return budget.Throttled
	case result.Class == wire.ClassUnauthorized:
		return budget.Unauthorized
	case result.Class != wire.ClassTransient:
		return budget.Success
	case result.Latency > r.served.Provider.TimeoutOf(r.call.Operation)+stoodStill:
		return budget.Neutral // the fault is ours: no circuit opens for it
	case result.Hard() && !result.Sent:
		return budget.Unreached
	case result.Hard():
		return budget.Failure
	}
	return budget.Odd
}
