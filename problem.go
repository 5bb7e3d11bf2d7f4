package fetchworker

import (
	"encoding/json"
	"strings"
	"time"
)

// Problem is the body of a failed or waiting answer, RFC 9457.
type Problem struct { //nolint:errname,recvcheck // the wire's word, and mostly a body
	Type      string    `json:"type"` // urn:fetch:error:<code> or urn:fetch:waiting:<reason>
	Title     string    `json:"title"`
	Status    int       `json:"status"`
	Detail    string    `json:"detail"`
	Instance  string    `json:"instance"` // the request's id
	Provider  string    `json:"provider"`
	Operation string    `json:"operation"`
	RetryAt   time.Time `json:"retry_at,omitzero"` // when the next attempt is due, or a new request makes sense
}

const (
	errorType   = "urn:fetch:error:"
	waitingType = "urn:fetch:waiting:"
)

// titles tell each code and reason in words, with the HTTP status that says
// the same to somebody who knows only HTTP.
var codeTitles = map[Code]struct {
	title  string
	status int
}{
	CodeInvalidRequest:        {"The request cannot be understood", 400},
	CodeUnknownProvider:       {"No such provider is served here", 404},
	CodeUnknownOperation:      {"The provider has no such operation", 404},
	CodeProviderNotConfigured: {"No key for this provider is configured", 503},
	CodeRightsViolation:       {"The agent's rights or the licence do not cover this", 403},
	CodeDeadlineExceeded:      {"The deadline passed before an answer could be had", 504},
	CodeBudgetExhausted:       {"The month's byte budget of the provider is used up", 429},
	CodeNotFound:              {"The provider says that this does not exist", 404},
	CodeRejected:              {"The provider refuses the request", 422},
	CodeNotEntitled:           {"The provider's plan does not include this", 402},
	CodeRetriesExhausted:      {"Every retry failed", 502},
	CodePoison:                {"The request stops the workers that run it", 500},
	CodeResponseTooLarge:      {"The response is larger than the limit", 502},
	CodeDiscarded:             {"A person discarded the request", 410},
	CodeCancelled:             {"The request was cancelled", 410},
	CodeBacklogFull:           {"Too many requests are waiting already", 429},
}

var reasonTitles = map[Reason]string{
	ReasonCircuitOpen:  "Waiting: the provider is failing and is probed until it recovers",
	ReasonPaused:       "Waiting: an operator paused the provider",
	ReasonThrottled:    "Waiting: the provider asked for a hold",
	ReasonQuota:        "Waiting: the quota is used up until the time given",
	ReasonUnauthorized: "Waiting: the provider refuses the service's key",
	ReasonNoWorker:     "Waiting: no live worker serves the provider",
	ReasonRetry:        "Waiting: the last call failed and is made again",
	ReasonPending:      "Waiting: the provider is still computing the answer",
}

// Failure is the problem of a failed answer. Without a detail the title is it.
func Failure(i Identity, code Code, detail string) Problem {
	t := codeTitles[code]
	if detail == "" {
		detail = t.title
	}
	return Problem{
		Type: errorType + string(code), Title: t.title, Status: t.status, Detail: detail,
		Instance: i.ID, Provider: i.Provider, Operation: i.Operation,
	}
}

// reasonDetails say what of a provider is waited for, and untils how its end
// is called.
var reasonDetails = map[Reason]struct{ what, until string }{
	ReasonCircuitOpen:  {"fails and is probed until it recovers", "the next probe at"},
	ReasonPaused:       {"is paused by an operator", "until"},
	ReasonThrottled:    {"asked for a hold", "until"},
	ReasonQuota:        {"has its quota used up", "until"},
	ReasonUnauthorized: {"refuses the service's key", "asked again at"},
	ReasonNoWorker:     {"is served by no live worker", "until"},
	ReasonPending:      {"is still computing the answer", "asked again at"},
	ReasonRetry:        {"failed at the last call", "asked again at"},
}

// Waiting is the problem of a waiting answer; retryAt may be zero. Its detail
// says what is waited for, in the words given or of its own, and until when.
func Waiting(i Identity, reason Reason, detail string, retryAt time.Time) Problem {
	says := reasonDetails[reason]
	if detail == "" {
		detail = i.Provider + " " + says.what
	}
	if until := ", " + says.until + " " + retryAt.UTC().Format(time.RFC3339); !retryAt.IsZero() && !strings.HasSuffix(detail, until) {
		detail += until
	}
	return Problem{
		Type: waitingType + string(reason), Title: reasonTitles[reason], Status: 503, Detail: detail,
		Instance: i.ID, Provider: i.Provider, Operation: i.Operation, RetryAt: retryAt,
	}
}

// Code is the failure code, empty for a waiting problem.
func (p Problem) Code() Code {
	code, _ := strings.CutPrefix(p.Type, errorType)
	if code == p.Type {
		return ""
	}
	return Code(code)
}

// Reason is the waiting reason, empty for a failure.
func (p Problem) Reason() Reason {
	reason, _ := strings.CutPrefix(p.Type, waitingType)
	if reason == p.Type {
		return ""
	}
	return Reason(reason)
}

// Error lets a problem be returned as one, by its address.
func (p *Problem) Error() string {
	word := string(p.Code())
	if word == "" {
		word = string(p.Reason())
	}
	if p.Detail == "" {
		return word + ": " + p.Title
	}
	return word + ": " + p.Detail
}

// encode writes the problem; it cannot fail, for every field is plain.
func (p Problem) encode() []byte {
	b, _ := json.Marshal(p)
	return b
}
