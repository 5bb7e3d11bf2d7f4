package record_test

import (
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"
)

var id = fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}

func ok(generation int) fetchworker.Answer {
	return fetchworker.Answer{Identity: id, Status: fetchworker.StatusOK, Final: true, Generation: generation, Body: []byte("{}")}
}

func stale(generation int, final bool) fetchworker.Answer {
	return fetchworker.Answer{Identity: id, Status: fetchworker.StatusStale, Final: final, Generation: generation, Body: []byte("{}")}
}

func failed(generation int, review bool) fetchworker.Answer {
	p := fetchworker.Failure(id, fetchworker.CodeRetriesExhausted, "")
	return fetchworker.Answer{Identity: id, Status: fetchworker.StatusFailed, Final: true, Review: review, Generation: generation, Problem: &p}
}

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func waiting(generation int, reason fetchworker.Reason, minutes int) fetchworker.Answer {
	retryAt := time.Time{}
	if minutes > 0 {
		retryAt = noon.Add(time.Duration(minutes) * time.Minute)
	}
	p := fetchworker.Waiting(id, reason, "", retryAt)
	return fetchworker.Answer{Identity: id, Status: fetchworker.StatusWaiting, Generation: generation, Problem: &p, Time: noon}
}

// made says when an answer was made, in seconds after noon.
func made(a fetchworker.Answer, seconds int) fetchworker.Answer {
	a.Time = noon.Add(time.Duration(seconds) * time.Second)
	return a
}

// until says until when an answer waits, in seconds after noon.
func until(a fetchworker.Answer, seconds int) fetchworker.Answer {
	a.Problem.RetryAt = noon.Add(time.Duration(seconds) * time.Second)
	return a
}

func message(a fetchworker.Answer) record.Message {
	m := a.Encode()
	return record.Message{Header: m.Header, Data: m.Data}
}

func TestAnswersOnlyGoUp(t *testing.T) {
	for _, c := range []struct {
		name         string
		stored, next fetchworker.Answer
		want         bool
	}{
		{"final over waiting", waiting(1, "paused", 1), ok(1), true},
		{"final over provisional", stale(1, false), ok(1), true},
		{"final stale over provisional stale", stale(1, false), stale(1, true), true},
		{"provisional over waiting", waiting(1, "paused", 1), stale(1, false), true},
		{"failed over waiting", waiting(1, "paused", 1), failed(1, true), true},

		{"waiting over provisional", stale(1, false), waiting(1, "paused", 1), false},
		{"provisional over provisional", stale(1, false), stale(1, false), false},
		{"waiting over final", ok(1), waiting(1, "paused", 1), false},
		{"provisional over final", ok(1), stale(1, false), false},
		{"ok over ok", ok(1), ok(1), false},
		{"ok over failed", failed(1, false), ok(1), false},
		{"ok over failed in review", failed(1, true), ok(1), false},
		{"failed over ok", ok(1), failed(1, true), false},
		{"the same in review", failed(1, true), failed(1, true), false},

		{"a later generation over failed in review", failed(1, true), waiting(2, "paused", 1), true},
		{"a later ok over failed in review", failed(1, true), ok(2), true},
		{"a later discarded over failed in review", failed(1, true), failed(2, false), true},
		{"a later failed in review over the same", failed(1, true), failed(2, true), true},
		{"an earlier generation over failed in review", failed(2, true), ok(1), false},
		{"a later generation over ok", ok(1), ok(2), false},
		{"a later generation over failed for good", failed(1, false), ok(2), false},
		{"a later waiting over provisional", stale(1, false), waiting(2, "paused", 1), true},
		{"an earlier final over waiting", waiting(2, "paused", 1), ok(1), false},

		{"waiting for another reason", waiting(1, "paused", 5), waiting(1, "circuit_open", 1), true},
		{"waiting longer", waiting(1, "paused", 1), waiting(1, "paused", 2), true},
		{"waiting as long", waiting(1, "paused", 1), waiting(1, "paused", 1), false},
		{"waiting less long, said at once", waiting(1, "paused", 2), waiting(1, "paused", 1), false},
		{"waiting less long, said later", waiting(1, "paused", 2), made(waiting(1, "paused", 1), 1), true},
		{"waiting less long, said before", made(waiting(1, "paused", 2), 1), waiting(1, "paused", 1), false},
		{"waiting a little less long", waiting(1, "paused", 1), made(until(waiting(1, "paused", 1), 55), 1), false},
		{"waiting less long of an earlier life", waiting(2, "paused", 2), made(waiting(1, "paused", 1), 1), false},
		{"waiting, now until known", waiting(1, "no_worker", 0), waiting(1, "no_worker", 1), true},
		{"waiting, no longer known until when", waiting(1, "paused", 1), made(waiting(1, "paused", 0), 1), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := record.AnswerReplaces(c.stored, c.next); got != c.want {
				t.Errorf("the rule says %t", got)
			}
			if got := record.Answers(message(c.stored), message(c.next)); got != c.want {
				t.Errorf("the order of messages says %t", got)
			}
		})
	}
}

func TestAnAnswerThatCannotBeReadIsTheLowest(t *testing.T) {
	broken := record.Message{Data: []byte("?")}
	if !record.Answers(broken, message(waiting(1, "paused", 1))) {
		t.Error("it is not replaced")
	}
	if record.Answers(message(waiting(1, "paused", 1)), broken) {
		t.Error("it replaces")
	}
}

func TestLettersAndReviewsOnlyGoUp(t *testing.T) {
	for _, c := range []struct {
		name             string
		stored, next     [2]int // generation, calls
		letters, reviews bool
	}{
		{"more calls", [2]int{1, 1}, [2]int{1, 2}, true, false},
		{"as many calls", [2]int{1, 2}, [2]int{1, 2}, true, false},
		{"fewer calls", [2]int{1, 2}, [2]int{1, 1}, false, false},
		{"a later generation", [2]int{1, 4}, [2]int{2, 4}, true, true},
		{"a later generation with fewer calls", [2]int{1, 4}, [2]int{2, 0}, true, true},
		{"an earlier generation", [2]int{2, 0}, [2]int{1, 4}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			stored, next := letter(c.stored[0], c.stored[1]), letter(c.next[0], c.next[1])
			if got := record.Letters(stored, next); got != c.letters {
				t.Errorf("letters: %t", got)
			}
			if got := record.Reviews(stored, next); got != c.reviews {
				t.Errorf("reviews: %t", got)
			}
		})
	}
}

// An id may be used again when its answer is gone, while its old item still
// waits: what is asked then is another request.
func TestWhenItWasRequestedIsPartOfWhatALetterIs(t *testing.T) {
	at := func(m record.Message, minutes int) record.Message {
		m.Header.Set(wire.HeaderRequestedAt, noon.Add(time.Duration(minutes)*time.Minute).Format(time.RFC3339Nano))
		return m
	}
	for _, c := range []struct {
		name             string
		stored, next     record.Message
		letters, reviews bool
	}{
		{"a later request", at(letter(1, 1), 0), at(letter(1, 4), 5), false, true},
		{"a later request over a later generation", at(letter(3, 1), 0), at(letter(1, 4), 5), false, true},
		{"an earlier request", at(letter(1, 1), 5), at(letter(1, 4), 0), false, false},
		{"an earlier request of a later generation", at(letter(1, 1), 5), at(letter(2, 4), 0), true, false},
		{"the same", at(letter(1, 1), 5), at(letter(1, 2), 5), true, false},
		{"the same in its next life", at(letter(1, 1), 5), at(letter(2, 1), 9), true, true},
		{"an earlier life over one of no known time", letter(3, 1), at(letter(1, 4), 5), false, false},
		{"a later life over one of no known time", letter(1, 1), at(letter(2, 4), 5), true, true},
		{"a later life of no known time", at(letter(1, 1), 5), letter(2, 1), true, true},
		{"the same life of no known time", at(letter(1, 1), 5), letter(1, 1), false, false},
	} {
		if got := record.Letters(c.stored, c.next); got != c.letters {
			t.Errorf("%s: letters: %t", c.name, got)
		}
		if got := record.Reviews(c.stored, c.next); got != c.reviews {
			t.Errorf("%s: reviews: %t", c.name, got)
		}
	}
}

// What is bound for a person is not replaced by what is tried again, however
// often that was called.
func TestWhatIsBoundForAPersonStays(t *testing.T) {
	of := func(class wire.Class) record.Message {
		m := letter(1, 2)
		m.Header.Set(wire.HeaderErrorClass, string(class))
		return m
	}
	bound := []wire.Class{wire.ClassPermanent, wire.ClassPoison, wire.ClassExpired}
	others := []wire.Class{wire.ClassTransient, wire.ClassThrottled, wire.ClassUnauthorized, wire.ClassQuota, wire.ClassCircuitOpen, wire.ClassPaused, wire.ClassPending}
	for _, b := range bound {
		for _, o := range others {
			if record.Letters(of(b), of(o)) {
				t.Errorf("%s replaces %s", o, b)
			}
			if !record.Letters(of(o), of(b)) || !record.Letters(of(o), of(o)) || !record.Letters(of(b), of(b)) {
				t.Errorf("%s does not replace %s, or one of them not itself", b, o)
			}
		}
	}
}
