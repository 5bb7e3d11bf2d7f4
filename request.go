package fetchworker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Request is one fetch. The fields without a JSON name travel in the subject.
type Request struct { //nolint:recvcheck // only decoding changes one
	Provider  string `json:"-"`
	Operation string `json:"-"`
	Agent     string `json:"-"`
	Lane      Lane   `json:"-"` // interactive when empty

	ID       string          `json:"id,omitempty"`        // idempotency key; the client makes one that cannot be guessed
	Params   json.RawMessage `json:"params,omitempty"`    // a JSON object, checked against the operation
	ReplyTo  string          `json:"reply_to,omitempty"`  // gets a live copy of every stored answer; under fetch.reply.<own agent>.
	Deadline time.Time       `json:"deadline,omitzero"`   // no call is made past it; not together with TTL
	TTL      Duration        `json:"ttl,omitzero"`        // the same, counted from when the request was stored
	MaxAge   *Duration       `json:"max_age,omitempty"`   // a cached body this young is an answer; nil: the operation's default
	MaxStale *Duration       `json:"max_stale,omitempty"` // a stale body this old is accepted as final when the provider cannot be asked; nil: none, but at the end of a month's bytes as old as the operation allows
	Use      []string        `json:"use,omitempty"`       // what the agent means to do with the data
}

// Identity is the request's identity.
func (r Request) Identity() Identity {
	return Identity{Provider: r.Provider, Operation: r.Operation, Agent: r.Agent, ID: r.ID}
}

// Expires is when the request's deadline passes, given when it was stored.
// The zero time means never.
func (r Request) Expires(stored time.Time) time.Time {
	if r.TTL > 0 {
		return stored.Add(time.Duration(r.TTL))
	}
	return r.Deadline
}

// Duration is a time.Duration written as Go writes it: "90s", "1h30m".
type Duration time.Duration

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("%s is no duration such as \"90s\"", b)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is no duration such as \"90s\"", s)
	}
	*d = Duration(v)
	return nil
}

// ErrNotObject says that a request's body is not a JSON object at all: some
// producer is broken, and a person should see it.
var ErrNotObject = errors.New("the body is not a JSON object")

// RequestError says which rule of the wire a request breaks.
type RequestError struct {
	Field string // the JSON field or subject token, empty for the body as a whole
	Want  string // what was expected
}

func (e *RequestError) Error() string {
	if e.Field == "" {
		return e.Want
	}
	return e.Field + ": " + e.Want
}

// DecodeRequest reads the body of a request, strictly: a JSON object, known
// fields only, each at most once. On error the request returned still holds
// the id if one could be read, so that the error can be answered under it.
// The error is ErrNotObject or a *RequestError.
func DecodeRequest(body []byte) (Request, error) {
	var r Request
	var first error
	seen := make([][]byte, 0, 8)
	isObject := members(body, func(field []byte, value json.RawMessage) {
		err := r.decodeField(field, value)
		if slices.ContainsFunc(seen, func(other []byte) bool { return bytes.Equal(other, field) }) {
			err = &RequestError{string(field), "given more than once"}
		}
		seen = append(seen, field)
		// Go on after a mistake: the id may still come.
		if err != nil && first == nil {
			first = err
		}
	})
	if !isObject {
		return Request{}, ErrNotObject
	}
	if first == nil && !r.Deadline.IsZero() && r.TTL > 0 {
		first = &RequestError{"ttl", "give ttl or deadline, not both"}
	}
	return r, first
}

// requestFields are the fields that a request can have.
var requestFields = []string{"id", "params", "reply_to", "deadline", "ttl", "max_age", "max_stale", "use"}

func (r *Request) decodeField(field []byte, value json.RawMessage) error {
	if string(value) == "null" && slices.Contains(requestFields, string(field)) {
		return nil // the same as leaving it out: language models send it for what they don't use
	}
	var err error
	switch string(field) {
	case "id":
		id, ok := jsonText(value)
		if !ok || !ValidID(id) {
			return &RequestError{"id", "1 to 64 of A-Z a-z 0-9 _ -"}
		}
		r.ID = id
	case "params":
		if value[0] != '{' {
			return &RequestError{"params", "a JSON object"}
		}
		r.Params = value
	case "reply_to":
		var ok bool
		if r.ReplyTo, ok = jsonText(value); !ok || r.ReplyTo == "" {
			return &RequestError{"reply_to", "a subject"}
		}
	case "deadline":
		s, ok := jsonText(value)
		if !ok {
			return &RequestError{"deadline", "an RFC 3339 time"}
		}
		if r.Deadline, err = time.Parse(time.RFC3339, s); err != nil || r.Deadline.IsZero() || r.Deadline.UTC().Year() > 9999 || r.Deadline.UTC().Year() < 1 {
			r.Deadline = time.Time{}
			return &RequestError{"deadline", "an RFC 3339 time"}
		}
	case "ttl":
		if err = json.Unmarshal(value, &r.TTL); err != nil || r.TTL <= 0 {
			return &RequestError{"ttl", `a positive duration such as "10m"`}
		}
	case "max_age":
		var d Duration
		if err = json.Unmarshal(value, &d); err != nil || d < 0 {
			return &RequestError{"max_age", `a duration such as "30s"`}
		}
		r.MaxAge = &d
	case "max_stale":
		var d Duration
		if err = json.Unmarshal(value, &d); err != nil || d < 0 {
			return &RequestError{"max_stale", `a duration such as "1h"`}
		}
		r.MaxStale = &d
	case "use":
		if json.Unmarshal(value, &r.Use) != nil || slices.ContainsFunc(r.Use, func(u string) bool { return !ValidToken(u) }) {
			return &RequestError{"use", `a list of words such as ["export"]`}
		}
	default:
		return &RequestError{string(field), "no such field; known are " + strings.Join(requestFields, ", ")}
	}
	return nil
}

// Check judges what the subject and the body say together: the tokens, and
// that replies go nowhere the agent could not publish itself.
func (r Request) Check() error {
	for _, t := range []struct{ name, value string }{{"provider", r.Provider}, {"operation", r.Operation}, {"agent", r.Agent}} {
		if !ValidToken(t.value) {
			return &RequestError{t.name, "1 to 32 of a-z 0-9 _ - in the subject"}
		}
	}
	if !r.Lane.Valid() {
		return &RequestError{"lane", "interactive or batch in the subject"}
	}
	if r.ReplyTo != "" && r.Reply() == "" {
		return &RequestError{"reply_to", "a literal subject under " + replyPrefix(r.Agent)}
	}
	return nil
}

// Reply is ReplyTo if that is a place where the agent may have its copies,
// whatever else is wrong with the request; else it is empty.
func (r Request) Reply() string {
	if !ValidToken(r.Agent) || !validReply(r.ReplyTo, r.Agent) {
		return ""
	}
	return r.ReplyTo
}

// validReply accepts only literal subjects under the agent's own prefix: a
// worker must not be a way to publish where the agent itself may not.
func validReply(subject, agent string) bool {
	rest, ok := strings.CutPrefix(subject, replyPrefix(agent))
	if !ok || len(subject) > 256 {
		return false
	}
	for token := range strings.SplitSeq(rest, ".") {
		if token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c == '*' || c == '>' || c == 0x7f }) {
			return false
		}
	}
	return true
}
