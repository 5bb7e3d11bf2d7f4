package main

import (
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"
	"fetchworker/internal/wire"
)

// The streams as a person calls them.
var places = map[string]string{
	wire.StreamDLQ:    "dlq",
	wire.StreamReview: "review",
	wire.StreamReplay: "replay",
}

// letterLine is a letter or review item in --json and export. The names are
// promised in docs/replayer.md.
type letterLine struct {
	Where         string           `json:"where"` // dlq, replay, review
	State         string           `json:"state"` // due, waiting, held, released, review
	Provider      string           `json:"provider"`
	Operation     string           `json:"operation"`
	Agent         string           `json:"agent"`
	ID            string           `json:"id"`
	Lane          fetchworker.Lane `json:"lane"`
	Generation    int              `json:"generation"`
	Calls         int              `json:"calls"`
	Failures      int              `json:"failures"`
	Class         string           `json:"class"`
	Code          string           `json:"code,omitempty"`
	Error         string           `json:"error"`
	HTTPStatus    int              `json:"http_status,omitempty"`
	RequestedAt   time.Time        `json:"requested_at,omitzero"`
	Deadline      time.Time        `json:"deadline,omitzero"`
	FailedAt      time.Time        `json:"failed_at,omitzero"`
	FirstFailedAt time.Time        `json:"first_failed_at,omitzero"`
	NotBefore     time.Time        `json:"not_before,omitzero"`
	Worker        string           `json:"worker,omitempty"`
	Traceparent   string           `json:"traceparent,omitempty"`
	TraceID       string           `json:"trace_id,omitempty"`
	Sequence      uint64           `json:"sequence"`
	StoredAt      time.Time        `json:"stored_at"`
	Unreadable    string           `json:"unreadable,omitempty"`

	// in show and export only
	Request json.RawMessage `json:"request,omitempty"`
	Raw     []byte          `json:"request_base64,omitempty"` // where Request cannot hold it
	History []dlq.Attempt   `json:"history,omitempty"`
}

func lineOf(f browse.Found, v operate.Seen) letterLine {
	l := letterLine{
		Where: places[f.Stream], State: v.State(f),
		Provider: f.Provider, Operation: f.Operation, Agent: f.Agent, ID: f.ID, Lane: f.Lane,
		Generation: f.Generation, Calls: f.Calls, Failures: f.Failures,
		Class: string(f.Class), Code: string(f.Code), Error: f.Error, HTTPStatus: f.HTTPStatus,
		RequestedAt: f.RequestedAt, Deadline: f.Deadline, FailedAt: f.FailedAt, FirstFailedAt: f.FirstFailedAt, NotBefore: f.NotBefore,
		Worker: f.Worker, Traceparent: f.Traceparent, TraceID: operate.TraceID(f.Traceparent),
		Sequence: f.Sequence, StoredAt: f.StoredAt,
	}
	if f.Fault != nil {
		l.Unreadable = f.Fault.Error()
	}
	return l
}

// whole adds what is long.
func (l letterLine) whole(f browse.Found) letterLine {
	l.Request, l.History = operate.RequestJSON(f.Body), f.History
	if !utf8.Valid(f.Body) {
		l.Raw = f.Body
	}
	return l
}

// row is the line of a table.
// A terminal's width decides how much of the error it has room for; elsewhere
// it has 60 characters.
func (l letterLine) row(now time.Time, width int) []string {
	when := l.State
	if l.State == "waiting" {
		when = "in " + terminal.Short(l.NotBefore.Sub(now))
	}
	problem := l.Error
	if l.HTTPStatus != 0 {
		problem = "HTTP " + strconv.Itoa(l.HTTPStatus) + " " + problem
	}
	if l.Unreadable != "" {
		problem = "unreadable: " + l.Unreadable
	}
	return []string{
		l.Agent + "/" + l.ID, l.Provider, l.Operation, string(l.Lane), l.Class,
		strconv.Itoa(l.Failures) + "/" + strconv.Itoa(l.Calls), terminal.Ago(l.FailedAt, now), when, terminal.Clip(problem, max(60, width)),
	}
}

var letterColumns = []string{"AGENT/ID", "PROVIDER", "OPERATION", "LANE", "CLASS", "FAILED/CALLS", "FAILED", "DUE", "ERROR"}
