package record

import (
	"strconv"
	"time"

	"fetchworker"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// Order says whether a new message replaces the one stored under its subject.
// It decides from what the two say, never from when they came.
type Order func(stored, next Message) bool

// Message is what an order looks at.
type Message struct {
	Header nats.Header
	Data   []byte
}

// Answers is the order of a result subject: (generation, rank) must rise. A
// waiting answer also replaces a waiting one that names another reason or an
// earlier time, and an older one that names a later time. A final answer is
// replaced only if a person's review is open on it, and then only by a later
// generation.
func Answers(stored, next Message) bool {
	before, err := fetchworker.DecodeAnswer("", stored.Header, stored.Data)
	if err != nil {
		return true // nothing readable stands there
	}
	after, err := fetchworker.DecodeAnswer("", next.Header, next.Data)
	if err != nil {
		return false
	}
	return AnswerReplaces(before, after)
}

// AnswerReplaces is the pure rule behind Answers.
func AnswerReplaces(stored, next fetchworker.Answer) bool {
	switch {
	case stored.Final && !stored.Review:
		return false
	case next.Generation != stored.Generation:
		return next.Generation > stored.Generation
	case next.Rank() != stored.Rank():
		return next.Rank() > stored.Rank()
	case next.Status == fetchworker.StatusWaiting && stored.Status == fetchworker.StatusWaiting:
		return next.Problem.Reason() != stored.Problem.Reason() || next.Problem.RetryAt.After(stored.Problem.RetryAt) || sooner(stored, next)
	default:
		return false
	}
}

// sooner reports whether a wait ends before it was said to: a limit was raised,
// or a pause made shorter. Of two who differ the one who spoke last knows it.
// For a few seconds nothing is written anew.
func sooner(stored, next fetchworker.Answer) bool {
	const worthIt = 5 * time.Second
	until := next.Problem.RetryAt
	return !until.IsZero() && stored.Problem.RetryAt.Sub(until) > worthIt && next.Time.After(stored.Time)
}

// Letters is the order of dead letters and replayed letters: (generation,
// calls) must not fall. An equal one replaces too: a request that is parked
// again has made no more calls than the letter that is still being acked, and
// would otherwise be lost with that ack. But not one that is on its way to a
// person, for whom an answer promises it.
//
// Another request under the same id replaces nothing: the first one goes on,
// and its end is the end of both.
func Letters(stored, next Message) bool {
	g0, g1 := number(stored, wire.HeaderGeneration), number(next, wire.HeaderGeneration)
	if g0 != g1 {
		return g1 > g0
	}
	if stored.Header.Get(wire.HeaderRequestedAt) != next.Header.Get(wire.HeaderRequestedAt) {
		return false
	}
	c0, c1 := number(stored, wire.HeaderCalls), number(next, wire.HeaderCalls)
	return c1 > c0 || c1 == c0 && (toPerson(next) || !toPerson(stored))
}

// toPerson reports whether a letter is bound for review, whatever else happens.
func toPerson(m Message) bool {
	switch wire.Class(m.Header.Get(wire.HeaderErrorClass)) { //nolint:exhaustive // the others are retried
	case wire.ClassPermanent, wire.ClassPoison, wire.ClassExpired:
		return true
	}
	return false
}

// Reviews is the order of review items: the generation must rise. An item has
// no age, and an id is a key only for as long as its answer is kept: a later
// request under the same id takes the place of an item whose answer is gone.
func Reviews(stored, next Message) bool {
	t0, t1 := moment(stored, wire.HeaderRequestedAt), moment(next, wire.HeaderRequestedAt)
	if !t0.IsZero() && !t1.IsZero() && !t0.Equal(t1) {
		return t1.After(t0)
	}
	return number(next, wire.HeaderGeneration) > number(stored, wire.HeaderGeneration)
}

func moment(m Message, key string) time.Time {
	t, _ := time.Parse(time.RFC3339, m.Header.Get(key))
	return t
}

func number(m Message, key string) int {
	n, _ := strconv.Atoi(m.Header.Get(key))
	return n
}
