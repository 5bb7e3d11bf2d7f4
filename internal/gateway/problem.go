package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"fetchworker"
)

// plainProblem is a problem of HTTP itself (RFC 9457), which no request of the
// fleet has.
type plainProblem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// refuse answers with a problem of HTTP itself.
func refuse(w http.ResponseWriter, status int, detail string) {
	problem(w, status, plainProblem{"about:blank", http.StatusText(status), status, detail})
}

func problem(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil { // every field is plain
		text = nil
	}
	h := w.Header()
	h.Set("Content-Type", fetchworker.ProblemType)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text) // the client is gone then
}

// failed answers with a problem of the fleet's, under its status.
func failed(w http.ResponseWriter, p fetchworker.Problem) {
	if p.Status < 400 || p.Status > 599 {
		p.Status = http.StatusBadGateway
	}
	if !p.RetryAt.IsZero() {
		w.Header().Set("Retry-After", retryAfter(p.RetryAt))
	}
	problem(w, p.Status, p)
}

// own are the problems that only a gateway has.
const (
	typeIDReused   = "urn:fetch:error:id_reused"
	typeNoAnswer   = "urn:fetch:error:no_answer"
	typeUnreached  = "urn:fetch:error:unreached"
	typeBody       = "urn:fetch:error:body_corrupt"
	typeQueued     = "urn:fetch:waiting:queued"
	queuedAgain    = 2 * time.Second  // where nothing says when
	unknownAgain   = 10 * time.Second // where what is waited for says no time
	fullAgain      = 5 * time.Second
	longestAgain   = 24 * time.Hour
	statusCanceled = 499 // the client is gone, and told nothing
)

// httpError is what is wrong with a request as HTTP.
type httpError struct {
	status int
	detail string
}

func (e *httpError) Error() string { return e.detail }

// fail answers with what an error of the client means.
func fail(w http.ResponseWriter, id fetchworker.Identity, err error) {
	var wrong *fetchworker.RequestError
	var plain *httpError
	if errors.As(err, &plain) {
		refuse(w, plain.status, plain.detail)
		return
	}
	p := fetchworker.Problem{Instance: id.ID, Provider: id.Provider, Operation: id.Operation}
	switch {
	case errors.As(err, &wrong) && (wrong.Field == "provider" || wrong.Field == "operation"):
		code := fetchworker.CodeUnknownProvider
		if wrong.Field == "operation" {
			code = fetchworker.CodeUnknownOperation
		}
		p = fetchworker.Failure(id, code, wrong.Error())
	case errors.As(err, &wrong):
		p = fetchworker.Failure(id, fetchworker.CodeInvalidRequest, wrong.Error())
	case errors.Is(err, fetchworker.ErrNotObject):
		p = fetchworker.Failure(id, fetchworker.CodeInvalidRequest, err.Error())
	case errors.Is(err, fetchworker.ErrIDReused):
		p.Type, p.Title, p.Status = typeIDReused, "The key was used before for another request", http.StatusUnprocessableEntity
		p.Detail = "what is stored under " + id.ID + " answers other parameters; ask under another Idempotency-Key"
	case errors.Is(err, fetchworker.ErrNoAnswer):
		p.Type, p.Title, p.Status = typeNoAnswer, "No answer is stored", http.StatusNotFound
		p.Detail = "nothing is stored under " + id.ID + " for you: never asked, not answered yet, or older than answers are kept"
	case errors.Is(err, fetchworker.ErrQueueFull):
		p = fetchworker.Failure(id, fetchworker.CodeBacklogFull, "nothing was stored; ask again later")
		p.RetryAt = time.Now().Add(fullAgain)
	case errors.Is(err, fetchworker.ErrNotPermitted):
		p = fetchworker.Failure(id, fetchworker.CodeRightsViolation, "the server does not permit this gateway to ask so for "+id.Agent)
	case errors.Is(err, fetchworker.ErrBodyCorrupt):
		p.Type, p.Title, p.Status = typeBody, "The stored body is not what its answer promises", http.StatusBadGateway
		p.Detail = "ask again under another Idempotency-Key"
	default: // no server, no worker, or not in time
		p.Type, p.Title, p.Status = typeUnreached, "The service cannot be reached just now", http.StatusServiceUnavailable
		p.Detail = "it is not sure that the request is stored; asked again under the same Idempotency-Key it is made once"
		p.RetryAt = time.Now().Add(queuedAgain)
		if errors.Is(err, fetchworker.ErrNobodyServes) {
			p.Detail = "no worker answers"
		}
	}
	failed(w, p)
}

// retryAfter is a moment as Retry-After has it: whole seconds, at least one.
func retryAfter(at time.Time) string {
	wait := min(time.Until(at), longestAgain)
	return strconv.Itoa(max(1, int(math.Ceil(wait.Seconds()))))
}

// waitsFor is the problem of a request that has no final answer yet: that of
// its last answer, else what its provider waits for, else that it is queued.
func (g *Gateway) waitsFor(ctx context.Context, id fetchworker.Identity, last *fetchworker.Answer) fetchworker.Problem {
	if last != nil {
		if last.Problem != nil {
			return *last.Problem
		}
		return fetchworker.Waiting(id, last.Reason, "", last.RetryAt)
	}
	queued := fetchworker.Problem{
		Type: typeQueued, Title: "Waiting: the request is in the queue", Detail: "it is stored, and will be answered",
		Instance: id.ID, Provider: id.Provider, Operation: id.Operation,
	}
	ctx, cancel := context.WithTimeout(ctx, queuedAgain)
	defer cancel()
	sheet, err := g.catalogue.Standing(ctx, id.Provider)
	switch {
	case errors.Is(err, fetchworker.ErrNobodyServes):
		return fetchworker.Waiting(id, fetchworker.ReasonNoWorker, "no worker answers", time.Time{})
	case err != nil || sheet.Now == nil:
	case sheet.Now.Reason != "":
		return fetchworker.Waiting(id, sheet.Now.Reason, "", sheet.Now.RetryAt)
	case time.Until(sheet.Now.NextAt) > 0:
		queued.RetryAt = sheet.Now.NextAt
		queued.Detail += "; the next call can be made at " + sheet.Now.NextAt.UTC().Format(time.RFC3339)
	}
	return queued
}

// accepted answers that a request goes on: where its answer will be, why it
// waits, and when it makes sense to ask.
func (g *Gateway) accepted(c *call, id fetchworker.Identity, last *fetchworker.Answer) {
	p := g.waitsFor(context.WithoutCancel(c.ctx), id, last)
	p.Status = http.StatusAccepted
	at := p.RetryAt
	switch {
	case !at.IsZero():
	case p.Type == typeQueued:
		at = time.Now().Add(queuedAgain)
	default:
		at = time.Now().Add(unknownAgain)
	}
	h := c.w.Header()
	if last != nil {
		tell(h, *last)
	}
	h.Set(headerID, id.ID)
	h.Set("Location", location(id))
	h.Set("Retry-After", retryAfter(at))
	problem(c.w, http.StatusAccepted, p)
}

// location is where the answer of a request is.
func location(id fetchworker.Identity) string {
	return "/v1/requests/" + strings.Join([]string{id.Provider, id.Operation, id.ID}, "/")
}
