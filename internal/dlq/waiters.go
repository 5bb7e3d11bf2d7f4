package dlq

import (
	"context"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/wait"
)

// waiters remembers what the agents of held letters have been told, so that
// a letter that is looked at every few seconds is not told of each time. It
// may forget: what is told twice is not stored twice.
type waiters struct {
	mu   sync.Mutex
	told map[uint64]told // by the letter's sequence

	turn time.Time // of the last letter whose agent could not be told at once
}

// told is small, for there may be a hundred thousand.
type told struct {
	reason  fetchworker.Reason
	retryAt int64 // Unix seconds, as the others
	at      int64
	seen    int64
}

const (
	// waitersKept bounds the memory; beyond it some are told again.
	waitersKept = 300_000
	// looksPerSecond bounds how many held letters one replayer looks at, and
	// tellsPerSecond how many times it tells a new time. A crowd is looked at
	// less often rather than at the cost of the letters that are due.
	looksPerSecond = 500
	tellsPerSecond = 100
	// retellAfter is the soonest that an agent is told another time, and
	// retellBy the seconds that it must differ by.
	retellAfter = 5 * time.Second
	retellBy    = 5
)

func newWaiters() *waiters { return &waiters{told: map[uint64]told{}} }

// untold reports whether the agent of a held letter should be told why.
func (w *waiters) untold(sequence uint64, v verdict, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, known := w.told[sequence]
	if known {
		t.seen = now.Unix()
		w.told[sequence] = t
	}
	switch {
	case v.reason == "":
		return false
	case !known || t.reason != v.reason:
		return true
	default:
		// Another time is told, though not for every second, and not to
		// everybody at once.
		again := max(retellAfter, time.Duration(len(w.told))*time.Second/tellsPerSecond)
		return apart(t.retryAt, v.retryAt) && now.Sub(time.Unix(t.at, 0)) >= again
	}
}

// apart reports whether a time differs enough from the one that was told, in Unix
// seconds, to be told as well.
func apart(told int64, until time.Time) bool {
	return until.Unix() > told+retellBy || !until.IsZero() && until.Unix() < told-retellBy
}

// tell remembers that an agent was told.
func (w *waiters) tell(sequence uint64, reason fetchworker.Reason, retryAt, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.told[sequence]; !known && len(w.told) >= waitersKept {
		for other := range w.told {
			delete(w.told, other)
			break
		}
	}
	w.told[sequence] = told{reason: reason, retryAt: retryAt.Unix(), at: now.Unix(), seen: now.Unix()}
}

// crowd reports whether too many wait to look at each every few seconds.
func (w *waiters) crowd() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.many() > fewWait
}

// many is how many letters wait, those whose agents are yet to be told
// included. The lock is held.
func (w *waiters) many() int {
	return len(w.told) + int(w.behind()*tellsLookedUp/time.Second)
}

// fewWait at the most are few.
const fewWait = 2000

// delay draws how long a letter goes back for: between shortest and longest,
// more in a crowd.
func (w *waiters) delay(shortest, longest time.Duration) time.Duration {
	w.mu.Lock()
	crowd := time.Duration(w.many()) * time.Second / looksPerSecond
	w.mu.Unlock()
	back := wait.Jitter(shortest, longest)
	if mean := (shortest + longest) / 2; crowd > mean {
		back = time.Duration(float64(back) * float64(crowd) / float64(mean))
	}
	return back
}

// settling is how long a letter goes back for that was parked just now: as long
// as it rests, and where many are parked, until its turn among those that are
// looked up. (A crowd that was looked at again as soon as it had rested was given
// out and handed back once more in the busiest moment there is: while the rest of
// it was still being parked.)
func (w *waiters) settling(rests time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(rests, w.next())
}

// untoldYet is how long a letter goes back for whose agent could not be told at
// once: until its turn among all of them. Most were told by the worker that
// parked them, and only have to be looked up.
func (w *waiters) untoldYet() time.Duration {
	w.mu.Lock()
	behind := w.next()
	w.mu.Unlock()
	return wait.Jitter(time.Second, 3*time.Second) + behind
}

// next takes the next turn among those that are looked up, and tells how far away
// it is. The lock is held.
func (w *waiters) next() time.Duration {
	behind := w.behind() + time.Second/tellsLookedUp
	w.turn = time.Now().Add(behind)
	return behind
}

// behind is how far away the turn is of the last letter that was put off. The
// lock is held.
func (w *waiters) behind() time.Duration { return max(time.Until(w.turn), 0) }

// tellsLookedUp is how many letters a second are looked at whose agents may
// have to be told.
const tellsLookedUp = 300

// forget drops those that this replayer has not seen for a while: they went
// back to work, or to other replayers.
func (w *waiters) forget(ctx context.Context) {
	for wait.For(ctx, time.Minute) == nil {
		old := time.Now().Add(-10 * time.Minute).Unix()
		w.mu.Lock()
		for sequence, t := range w.told {
			if t.seen < old {
				delete(w.told, sequence)
			}
		}
		w.mu.Unlock()
	}
}
