// Package dlq keeps what failed until its time comes: dead letters and their
// waits, the loop that sends due letters back to work and exhausted ones to
// review, and the acts of a person on both.
//
// It never calls a provider and does not know any.
package dlq

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// Letter is a request that failed or is parked: its own bytes, and what has
// become of it so far. The same letter travels as a dead letter, as a
// replayed one and as a review item.
type Letter struct { //nolint:recvcheck // only Record, Know and Learn change one
	fetchworker.Identity
	Lane fetchworker.Lane
	Body []byte // the request's own bytes, untouched

	Generation int // 1, raised by a person's requeue
	Calls      int // provider calls made so far
	Failures   int // those that count against the retries
	Allowed    int // at so many it goes to review; 0: whoever reads it says

	MaxLife time.Duration // that the request may have; 0: whoever reads it says

	Class      wire.Class       // of the last attempt, or why it is parked
	Code       fetchworker.Code // what its failed answer will say, where retries cannot help
	Error      string           // redacted
	HTTPStatus int

	RequestedAt   time.Time // when the request was stored; a requeue starts it anew
	Deadline      time.Time // zero: none
	FailedAt      time.Time
	FirstFailedAt time.Time // of the failures that count; zero: none yet
	NotBefore     time.Time // drawn once, by whoever writes the letter

	Worker      string
	Traceparent string
	Tracestate  string
	History     []Attempt // the last ten

	known circuit.Call // what Call tells, where Know was told
	knows bool
}

// Attempt is one entry of a letter's history.
type Attempt struct {
	At         time.Time  `json:"at"`
	Class      wire.Class `json:"class"`
	HTTPStatus int        `json:"http_status"` // 0: no answer came
	LatencyMS  int64      `json:"latency_ms"`
	Error      string     `json:"error"` // redacted

	// Conditional: it asked whether the cached body is still right. The next
	// one asks for a whole one, for validators are a courtesy.
	Conditional bool `json:"conditional,omitempty"`
}

const (
	// HistoryKept is how many attempts a letter remembers.
	HistoryKept = 10
	errorKept   = 500 // bytes of an error text
)

// Record adds an attempt to the history, which keeps the last ten.
func (l *Letter) Record(a Attempt) {
	a.Error = shorten(a.Error)
	l.History = append(l.History, a)
	if extra := len(l.History) - HistoryKept; extra > 0 {
		l.History = append([]Attempt(nil), l.History[extra:]...)
	}
}

// shorten cuts a text at a rune, and keeps it to one line as a header must be.
func shorten(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) <= errorKept {
		return s
	}
	cut := errorKept
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// Call is what circuits know the request by.
func (l Letter) Call() circuit.Call {
	if l.knows {
		return l.known
	}
	var body struct {
		Params json.RawMessage `json:"params"`
	}
	_ = json.Unmarshal(l.Body, &body) // one that cannot be read asks for nothing
	return l.call(body.Params)
}

func (l Letter) call(params json.RawMessage) circuit.Call {
	return circuit.Call{
		Operation: circuit.OperationOf(l.Operation, params), Agent: l.Agent,
		Key: fetchworker.RequestDigest(l.Operation, params),
	}
}

// OneLine keeps a text to one line of a bounded length, as a header must be.
func OneLine(s string) string { return shorten(s) }

// Know spares the letter reading its body again: these are the parameters in it.
func (l *Letter) Know(params json.RawMessage) {
	l.known, l.knows = l.call(params), true
}

// Learn reads the body, if nobody has yet, for all that ask for the Call later.
func (l *Letter) Learn() {
	if !l.knows {
		l.known, l.knows = l.Call(), true
	}
}

// DeadLetter is the message for the DLQ.
func (l Letter) DeadLetter() *nats.Msg { return l.message(wire.DLQSubject(l.Lane, l.Identity)) }

// Replayed is the message that goes back to work.
func (l Letter) Replayed() *nats.Msg { return l.message(wire.ReplaySubject(l.Lane, l.Identity)) }

// ReviewItem is the message that a person will see. Its subject has no lane,
// so a header keeps it for a requeue.
func (l Letter) ReviewItem() *nats.Msg {
	m := l.message(wire.ReviewSubject(l.Identity))
	m.Header.Set(wire.HeaderLane, string(l.Lane))
	return m
}

func (l Letter) message(subject string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = l.Body
	h := m.Header
	h.Set(wire.HeaderRequestID, l.ID)
	h.Set(wire.HeaderGeneration, strconv.Itoa(l.Generation))
	h.Set(wire.HeaderCalls, strconv.Itoa(l.Calls))
	h.Set(wire.HeaderFailures, strconv.Itoa(l.Failures))
	h.Set(wire.HeaderErrorClass, string(l.Class))
	if l.Allowed > 0 {
		h.Set(wire.HeaderAllowed, strconv.Itoa(l.Allowed))
	}
	if l.MaxLife > 0 {
		h.Set(wire.HeaderMaxLife, l.MaxLife.String())
	}
	set := func(key, value string) {
		if value != "" {
			h.Set(key, value)
		}
	}
	set(wire.HeaderErrorCode, string(l.Code))
	set(wire.HeaderError, shorten(l.Error))
	if l.HTTPStatus != 0 {
		h.Set(wire.HeaderHTTPStatus, strconv.Itoa(l.HTTPStatus))
	}
	for key, t := range map[string]time.Time{
		wire.HeaderRequestedAt: l.RequestedAt, wire.HeaderDeadline: l.Deadline,
		wire.HeaderFailedAt: l.FailedAt, wire.HeaderFirstFailed: l.FirstFailedAt,
		wire.HeaderNotBefore: l.NotBefore,
	} {
		if !t.IsZero() {
			h.Set(key, t.UTC().Format(time.RFC3339Nano))
		}
	}
	set(wire.HeaderWorker, l.Worker)
	set(wire.HeaderTraceparent, l.Traceparent)
	set(wire.HeaderTracestate, l.Tracestate)
	if len(l.History) > 0 {
		history, _ := json.Marshal(l.History) // plain fields: cannot fail
		h.Set(wire.HeaderHistory, string(history))
	}
	return m
}

// Decode reads a letter from the DLQ, the replay stream or review. The
// subject and the headers are ours; a broken one is a fault of ours. Of one
// whose subject is broken only the body is known.
func Decode(subject string, h nats.Header, data []byte) (Letter, error) {
	address, err := wire.ParseSubject(subject)
	if err != nil {
		return Letter{Body: data}, err
	}
	l := Letter{
		Identity: address.Identity, Lane: address.Lane, Body: data,
		Class: wire.Class(h.Get(wire.HeaderErrorClass)),
		Code:  fetchworker.Code(h.Get(wire.HeaderErrorCode)),
		Error: h.Get(wire.HeaderError), Worker: h.Get(wire.HeaderWorker),
		Traceparent: h.Get(wire.HeaderTraceparent), Tracestate: h.Get(wire.HeaderTracestate),
	}
	if lane := h.Get(wire.HeaderLane); lane != "" {
		l.Lane = fetchworker.Lane(lane)
	}
	for key, n := range map[string]*int{
		wire.HeaderGeneration: &l.Generation, wire.HeaderCalls: &l.Calls,
		wire.HeaderFailures: &l.Failures, wire.HeaderHTTPStatus: &l.HTTPStatus,
		wire.HeaderAllowed: &l.Allowed,
	} {
		if v := h.Get(key); v != "" {
			if *n, err = strconv.Atoi(v); err != nil {
				return l, fmt.Errorf("%s: %s: %w", subject, key, err)
			}
		}
	}
	for key, t := range map[string]*time.Time{
		wire.HeaderRequestedAt: &l.RequestedAt, wire.HeaderDeadline: &l.Deadline,
		wire.HeaderFailedAt: &l.FailedAt, wire.HeaderFirstFailed: &l.FirstFailedAt,
		wire.HeaderNotBefore: &l.NotBefore,
	} {
		if v := h.Get(key); v != "" {
			if *t, err = time.Parse(time.RFC3339, v); err != nil {
				return l, fmt.Errorf("%s: %s: %w", subject, key, err)
			}
		}
	}
	if life := h.Get(wire.HeaderMaxLife); life != "" {
		if l.MaxLife, err = time.ParseDuration(life); err != nil {
			return l, fmt.Errorf("%s: %s: %w", subject, wire.HeaderMaxLife, err)
		}
	}
	if history := h.Get(wire.HeaderHistory); history != "" {
		if err := json.Unmarshal([]byte(history), &l.History); err != nil {
			return l, fmt.Errorf("%s: history: %w", subject, err)
		}
	}
	// A header is ASCII, the history in it is not: it has the text as it was.
	if n := len(l.History); n > 0 && l.Error == record.HeaderValue(l.History[n-1].Error) {
		l.Error = l.History[n-1].Error
	}
	return l, nil
}

// Read is Decode for what must go on whatever it looks like: of one that
// cannot be read, what can be is kept, and it is of a class that goes to a
// person.
func Read(subject string, h nats.Header, data []byte) Letter {
	l, err := Decode(subject, h, data)
	if err != nil {
		return salvage(subject, h, data, err)
	}
	return l
}

// salvage makes a letter of one whose headers cannot be read: what can be is
// kept, and a person decides. The request's own bytes are all there.
func salvage(subject string, h nats.Header, data []byte, cause error) Letter {
	readable := nats.Header{}
	for key, values := range h {
		if _, err := Decode(subject, nats.Header{key: values}, nil); err == nil {
			readable[key] = values
		}
	}
	l, _ := Decode(subject, readable, data) // of a subject that the stream does not take, the body alone
	l.Generation = max(l.Generation, 1)
	l.Class, l.Code = wire.ClassPermanent, ""
	l.Error = shorten("the dead letter cannot be read: " + cause.Error())
	return l
}

// Slots of the records a request can have besides its answer. The points name
// the steps for tests that crash between them.

// DeadLetterSlot is where its dead letter is stored.
func (l Letter) DeadLetterSlot() record.Slot {
	return record.Slot{Stream: wire.StreamDLQ, Subject: wire.DLQSubject(l.Lane, l.Identity), Order: record.Letters, Point: "letter"}
}

// ReplaySlot is where it is stored when it was released.
func (l Letter) ReplaySlot() record.Slot {
	return record.Slot{Stream: wire.StreamReplay, Subject: wire.ReplaySubject(l.Lane, l.Identity), Order: record.Letters, Point: "replay"}
}

// ReviewSlot is where its review item is stored.
func (l Letter) ReviewSlot() record.Slot {
	return record.Slot{Stream: wire.StreamReview, Subject: wire.ReviewSubject(l.Identity), Order: record.Reviews, Point: "review"}
}

const (
	traceparentLen = 55  // version 00 of W3C Trace Context
	tracestateMost = 512 // bytes that the standard asks everybody to carry
)

// TraceOf is the trace that a request's publisher is in. A header of an
// agent's is carried along only if it is what it says it is: one that is too
// large would make the letter too large to be stored.
func TraceOf(h nats.Header) (traceparent, tracestate string) {
	traceparent, tracestate = h.Get(wire.HeaderTraceparent), h.Get(wire.HeaderTracestate)
	if len(traceparent) != traceparentLen || strings.Trim(traceparent, "0123456789abcdef-") != "" {
		return "", ""
	}
	if len(tracestate) > tracestateMost {
		tracestate = ""
	}
	return traceparent, tracestate
}
