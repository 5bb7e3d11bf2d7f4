package dlq

import (
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/wire"
)

const (
	// settle is how long a parked letter rests before it can be due, and
	// before anybody but the worker that parked it tells its agent. The
	// replayer may hear of a gate that has closed later than the worker that
	// parked the letter because of it; the two must not play ball with it.
	settle = time.Second
	// shortHold is the longest hold that the agent is not told of.
	shortHold = 90 * time.Second
	// longestYield leaves time until a letter must be due, ten seconds after its
	// gate has opened.
	longestYield = 5 * time.Second
	// LongAbsence is how long a provider must have been without a worker
	// until its agents are told: a restart is nothing to tell.
	LongAbsence = 30 * time.Second
)

// facts are all that a letter's fate depends on besides the letter.
type facts struct {
	now       time.Time
	stored    time.Time       // when the letter was
	stands    answer.Standing // as the answer; nothing where nobody has looked yet
	gate      gate
	cancelled bool // its agent has cancelled it
	retries   int
	maxLife   time.Duration
}

// gate is what the fleet knows about a letter's provider.
type gate struct {
	known     bool               // it is a provider that is or was served, or that an operator has named
	held      fetchworker.Reason // why nothing of the provider is released; empty: it may be
	until     time.Time          // when that may end; zero: nobody knows
	absent    time.Time          // held because of no_worker: since when
	retired   bool               // an operator has given the provider up, and no worker serves it
	what      string             // circuit_open: what the circuit is open for, in words
	circuits  circuit.Record     // of the provider and its operations
	probes    bool               // somebody could make a probe: a worker serves the provider, and nobody has paused it
	succeeded time.Time          // the last success of a call that the fleet has written down
	lifted    time.Time          // when an operator's orders last changed, or the gate was last seen to open
}

// act is what becomes of a letter now.
type act int

const (
	actHold    act = iota // not now: look again later
	actRelease            // back to work
	actExpire             // its deadline has passed
	actRefuse             // its provider is retired: nobody will ever call it
	actReview             // retrying cannot help, or must end: to a person
	actDone               // it has its answer: nothing is left to do
	actCancel             // its agent has cancelled it
)

// verdict is an act with what it needs.
type verdict struct {
	act act

	// The rest is for actHold.
	wake    time.Time          // when to look again at the latest
	watch   bool               // a gate may open before: look again every few seconds
	reason  fetchworker.Reason // what the agent is to be told, if anything
	retryAt time.Time          // and until when, if known
	what    string             // and what is open
}

// detail is what the agent of a held letter is told beside the reason.
func (v verdict) detail(last string) string {
	switch {
	case v.what == "":
		return last
	case last == "":
		return v.what
	default:
		return v.what + "; the last attempt: " + last
	}
}

// decide says what becomes of a letter.
func decide(l Letter, f facts) verdict {
	ends := l.EndOfLife(f.stored, f.maxLife)
	switch {
	case done(f.stands, l.Generation):
		return verdict{act: actDone}
	// What is spent was so before its deadline came, and a person is to see it.
	case spent(l, f.retries):
		return verdict{act: actReview}
	case f.cancelled:
		return verdict{act: actCancel}
	case !l.Deadline.IsZero() && !f.now.Before(l.Deadline):
		return verdict{act: actExpire}
	case !f.now.Before(ends):
		return verdict{act: actReview}
	case f.gate.retired:
		return verdict{act: actRefuse}
	}
	last := earliest(ends, l.Deadline)
	if f.gate.held != "" && !outdated(l, f) {
		return holdFor(l, f, last)
	}
	due := dueAt(l, f)
	if !f.now.Before(due) {
		return verdict{act: actRelease}
	}
	v := verdict{act: actHold, wake: earliest(last, due)}
	switch l.Class { //nolint:exhaustive // the others wait for their time only
	case wire.ClassQuota:
		v.watch, v.reason, v.retryAt = true, fetchworker.ReasonQuota, l.NotBefore
	case wire.ClassUnauthorized:
		v.watch, v.reason, v.retryAt = true, fetchworker.ReasonUnauthorized, l.NotBefore
	case wire.ClassPending:
		v.reason, v.retryAt = fetchworker.ReasonPending, l.NotBefore
	}
	return v
}

// outdated reports whether what is known of a quota is older than a change of
// the limits: only a worker can tell whether there are permits now.
func outdated(l Letter, f facts) bool {
	return f.gate.held == fetchworker.ReasonQuota && l.Class == wire.ClassQuota && f.gate.lifted.After(f.stored)
}

// holdFor is the verdict on a letter whose provider's gate is closed.
func holdFor(l Letter, f facts, last time.Time) verdict {
	v := verdict{act: actHold, wake: last, watch: true, reason: f.gate.held, retryAt: f.gate.until, what: f.gate.what}
	if due := dueAt(l, f); l.Class == wire.ClassQuota && f.gate.held == fetchworker.ReasonQuota && due.After(v.retryAt) {
		v.retryAt = due // the first to have a permit then is not it
	}
	if f.gate.held != fetchworker.ReasonCircuitOpen && f.gate.until.After(f.now) {
		v.wake = earliest(last, f.gate.until)
	}
	switch {
	case f.gate.held == fetchworker.ReasonThrottled && f.gate.until.Sub(f.now) <= shortHold,
		f.gate.held == fetchworker.ReasonNoWorker && f.now.Sub(f.gate.absent) < LongAbsence:
		v.reason, v.retryAt = "", time.Time{}
	}
	return v
}

// dueAt is when a letter may go back to work while its provider's gate is
// open. What was parked for that gate goes as soon as it has opened, whatever
// its Not-Before says.
func dueAt(l Letter, f facts) time.Time {
	soon := f.stored.Add(settle)
	switch l.Class { //nolint:exhaustive // the others are due at their time
	case wire.ClassCircuitOpen, wire.ClassPaused:
		return soon
	case wire.ClassThrottled:
		opened := l.NotBefore
		if f.gate.lifted.After(f.stored) {
			opened = f.gate.lifted
		}
		if opened.After(f.now) { // that its hold is over is known, not since when
			return soon
		}
		return latest(soon, opened.Add(yields(l)))
	case wire.ClassQuota:
		if f.gate.lifted.After(f.stored) {
			return soon
		}
	case wire.ClassUnauthorized:
		// The key works again, or somebody has seen to it.
		if f.gate.succeeded.After(l.FailedAt) || f.gate.lifted.After(f.stored) {
			return soon
		}
	}
	return l.NotBefore
}

// yields is how long a letter lets others go first once a hold has ended. A
// call that was told to come back later twice and more is perhaps all that the
// provider refuses: no failure is counted against it, and it would begin the next
// hold each time, before everybody who waited for the end of the last.
func yields(l Letter) time.Duration {
	refused := 0
	for i := len(l.History) - 1; i >= 0 && l.History[i].Class == wire.ClassThrottled; i-- {
		refused++
	}
	return min(time.Duration(max(refused-1, 0))*time.Second, longestYield)
}

// spent reports whether another retry is of no use.
func spent(l Letter, retries int) bool {
	switch l.Class { //nolint:exhaustive // the others can be retried
	case wire.ClassPermanent, wire.ClassPoison, wire.ClassExpired:
		return true
	}
	if l.Allowed > 0 { // by whoever wrote it, and drew its wait
		return l.Failures >= l.Allowed
	}
	return l.Failures > retries
}

// done reports whether what stands leaves a letter of this generation nothing
// to do. An answer that points to a review item does not: the item is made of
// the letter.
func done(stands answer.Standing, generation int) bool {
	return stands.Ends(generation) && !stands.Reviewed(generation)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// earliest is the first of the times that are set.
func earliest(times ...time.Time) time.Time {
	var first time.Time
	for _, t := range times {
		if first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}

// FailsWith is what the failed answer of a letter that goes to review says.
func (l Letter) FailsWith() fetchworker.Code {
	switch {
	case l.Code != "":
		return l.Code
	case l.Class == wire.ClassPoison:
		return fetchworker.CodePoison
	default:
		return fetchworker.CodeRetriesExhausted
	}
}
