package tools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"fetchworker"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const (
	// standardWait is how long fetch waits for an answer, and longestWait the
	// most: clients of models give a call up after a minute.
	standardWait = 20 * time.Second
	longestWait  = 50 * time.Second
	// storeTime is how long a request may take to be stored.
	storeTime = 10 * time.Second
	// mostRead is the largest body that is looked into.
	mostRead = 64 << 20
)

type fetchInput struct {
	Provider  string          `json:"provider"`
	Operation string          `json:"operation"`
	Params    json.RawMessage `json:"params"`
	ID        string          `json:"id"`
	Wait      *whole          `json:"wait"`
	MaxAge    string          `json:"max_age"`
	MaxStale  string          `json:"max_stale"`
	Use       []string        `json:"use"`
	MaxTokens whole           `json:"max_tokens"`
}

// request is what the arguments ask for.
func (in fetchInput) request() (r fetchworker.Request, err error) {
	r = fetchworker.Request{Provider: in.Provider, Operation: in.Operation, ID: in.ID, Params: in.Params, Use: in.Use}
	var text string
	if json.Unmarshal(in.Params, &text) == nil { // an object as the text of one
		r.Params = json.RawMessage(text)
	}
	for _, d := range []struct {
		name, text string
		to         **fetchworker.Duration
	}{{"max_age", in.MaxAge, &r.MaxAge}, {"max_stale", in.MaxStale, &r.MaxStale}} {
		if d.text == "" {
			continue
		}
		v, err := time.ParseDuration(d.text)
		if err != nil || v < 0 {
			return r, &fetchworker.RequestError{Field: d.name, Want: `a duration such as "30s" or "24h"`}
		}
		*d.to = new(fetchworker.Duration(v))
	}
	return r, nil
}

// handle is what an answer is read by, now and later.
type handle struct {
	Provider  string `json:"provider"`
	Operation string `json:"operation"`
	ID        string `json:"id"`
}

// waits says why an answer is not final.
type waits struct {
	Reason  string    `json:"reason"`
	Detail  string    `json:"detail,omitempty"`
	RetryAt time.Time `json:"retry_at,omitzero"`
	Seconds int       `json:"retry_in_seconds,omitempty"`
}

// answered is an answer, or what is known of one, as a model gets it.
type answered struct {
	Handle      handle               `json:"handle"`
	Status      fetchworker.Status   `json:"status"`
	Final       bool                 `json:"final"`
	Waiting     *waits               `json:"waiting,omitempty"`
	Problem     *fetchworker.Problem `json:"problem,omitempty"`
	Source      fetchworker.Source   `json:"source,omitempty"`
	FetchedAt   time.Time            `json:"fetched_at,omitzero"`
	AgeSeconds  *int                 `json:"age_seconds,omitempty"`
	ContentType string               `json:"content_type,omitempty"`
	Bytes       int64                `json:"bytes,omitempty"`
	NextPage    json.RawMessage      `json:"next_page_params,omitempty"`
	*view
}

// fetch asks for one thing.
func (t *tools) fetch(ctx context.Context, call *mcp.CallToolRequest, in fetchInput) (any, error) {
	r, err := in.request()
	if err != nil {
		return nil, err
	}
	client, leave, err := t.asking(call)
	if err != nil {
		return nil, err
	}
	defer leave()
	storing, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	asked, err := client.Lazily().Ask(storing, r)
	if err != nil {
		return nil, err
	}
	defer asked.Leave()
	waiting, cancel := context.WithTimeout(ctx, waitOf(in.Wait, standardWait))
	defer cancel()
	a, err := asked.Final(waiting)
	var pending *fetchworker.PendingError
	switch {
	case errors.As(err, &pending):
		digest := fetchworker.RequestDigest(r.Operation, r.Params)
		if last := pending.Last; last != nil && last.Digest != "" && last.Digest != digest {
			return nil, fetchworker.ErrIDReused
		}
		return t.unfinished(ctx, client, asked.Identity, pending.Last, in.MaxTokens)
	case err != nil:
		return nil, err
	}
	return t.show(ctx, client, a, query{to: -1}, in.MaxTokens)
}

func waitOf(given *whole, standard time.Duration) time.Duration {
	if given == nil {
		return standard
	}
	return min(max(time.Duration(*given)*time.Second, 0), longestWait)
}

type readInput struct {
	Provider  string `json:"provider"`
	Operation string `json:"operation"`
	ID        string `json:"id"`
	Pointer   string `json:"pointer"`
	Rows      string `json:"rows"`
	Search    string `json:"search"`
	Wait      *whole `json:"wait"`
	MaxTokens whole  `json:"max_tokens"`
}

// read reads a stored answer. Nothing is asked.
func (t *tools) read(ctx context.Context, call *mcp.CallToolRequest, in readInput) (any, error) {
	q, err := newQuery(in.Pointer, in.Rows, in.Search)
	if err != nil {
		return nil, err
	}
	client, leave, err := t.asking(call)
	if err != nil {
		return nil, err
	}
	defer leave()
	id := fetchworker.Identity{Provider: in.Provider, Operation: in.Operation, ID: in.ID, Agent: client.Agent()}
	var a fetchworker.Answer
	if wait := waitOf(in.Wait, 0); wait == 0 {
		reading, cancel := context.WithTimeout(ctx, storeTime)
		defer cancel()
		a, err = client.Lazily().Result(reading, id)
	} else {
		waiting, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		a, err = client.Lazily().Wait(waiting, id)
	}
	var pending *fetchworker.PendingError
	switch {
	case errors.As(err, &pending) && pending.Last != nil:
		return t.unfinished(ctx, client, id, pending.Last, in.MaxTokens)
	case errors.As(err, &pending):
		return nil, fetchworker.ErrNoAnswer
	case err != nil:
		return nil, err
	case !a.Final:
		return t.unfinished(ctx, client, id, &a, in.MaxTokens)
	}
	return t.show(ctx, client, a, q, in.MaxTokens)
}

// unfinished is what is known of a request that has no final answer yet: why it
// waits and until when, and a stale body if there is one.
func (t *tools) unfinished(ctx context.Context, client *fetchworker.Client, id fetchworker.Identity, last *fetchworker.Answer, tokens whole) (any, error) {
	out := answered{Handle: handle{id.Provider, id.Operation, id.ID}, Status: fetchworker.StatusWaiting}
	w := &waits{Reason: "queued", Detail: "it is stored, and will be answered"}
	if last != nil {
		w.Reason, w.RetryAt = string(last.Reason), last.RetryAt
		w.Detail = ""
		if last.Problem != nil {
			w.Detail = last.Problem.Detail
		}
	} else if p, err := t.catalogue.Standing(ctx, id.Provider); err == nil && p.Now != nil {
		if p.Now.Reason != "" {
			w.Reason, w.RetryAt, w.Detail = string(p.Now.Reason), p.Now.RetryAt, ""
		} else if time.Until(p.Now.NextAt) > 0 {
			w.RetryAt = p.Now.NextAt
		}
	}
	if !w.RetryAt.IsZero() {
		w.Seconds = max(1, int(time.Until(w.RetryAt).Seconds()+1))
	}
	out.Waiting = w
	if last == nil || last.Status != fetchworker.StatusStale {
		return out, nil
	}
	shown, err := t.show(ctx, client, *last, query{to: -1}, tokens)
	if stale, ok := shown.(answered); ok && err == nil {
		stale.Waiting = w
		return stale, nil
	}
	return out, nil
}

// show is a final answer, its body as far as the query asks for it and there is
// room. A failure is an error of the tool.
func (t *tools) show(ctx context.Context, client *fetchworker.Client, a fetchworker.Answer, q query, tokens whole) (any, error) {
	out := answered{
		Handle: handle{a.Identity.Provider, a.Identity.Operation, a.Identity.ID}, Status: a.Status, Final: a.Final, Problem: a.Problem,
		Source: a.Source, FetchedAt: a.FetchedAt, ContentType: a.ContentType, Bytes: int64(len(a.Body)), NextPage: a.Next,
	}
	if a.Problem != nil {
		return nil, refusedError{out}
	}
	if !a.FetchedAt.IsZero() {
		out.AgeSeconds = new(int(max(time.Since(a.FetchedAt), a.Age, 0).Seconds()))
	}
	if a.Claim != nil {
		out.Bytes = a.Claim.Bytes
	}
	body, done, err := t.body(ctx, client, a)
	if err != nil {
		return nil, err
	}
	defer done()
	for room := room(tokens); ; room = room * 2 / 3 {
		if out.view, err = look(body, a.ContentType, q, room); err != nil {
			return nil, err
		}
		text, err := json.Marshal(out)
		if err != nil {
			return nil, fmt.Errorf("write: %w", err)
		}
		if cost(text) <= int(max(min(orStandard(tokens), mostTokens), fewestTokens))*bytesAToken-200 || room < 300 {
			return out, nil
		}
	}
}

func orStandard(tokens whole) whole {
	if tokens == 0 {
		return standardTokens
	}
	return tokens
}

// body reads a whole body, few at a time.
func (t *tools) body(ctx context.Context, client *fetchworker.Client, a fetchworker.Answer) (body []byte, done func(), err error) {
	if a.Claim == nil {
		return a.Body, func() {}, nil
	}
	if a.Claim.Bytes > mostRead {
		return nil, nil, fmt.Errorf("the body has %d bytes, too many to look into: GET /v1/requests/%s has it", a.Claim.Bytes, strings.Join([]string{a.Identity.Provider, a.Identity.Operation, a.Identity.ID}, "/"))
	}
	select {
	case t.reading <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	done = func() { <-t.reading }
	for part, err := range client.Parts(ctx, a) {
		if err != nil {
			done()
			return nil, nil, err
		}
		if body == nil {
			// Something has come, so that its size is no empty promise: room for all
			// of it, for a body that grows leaves copies of itself behind.
			body = make([]byte, 0, max(a.Claim.Bytes, int64(len(part))))
		}
		body = append(body, part...)
	}
	return body, done, nil
}
