package call

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"golang.org/x/oauth2"

	"fetchworker"
	"fetchworker/internal/providers/classify"
	"fetchworker/internal/providers/headers"
	"fetchworker/internal/providers/plan"
	"fetchworker/internal/providers/redact"
	"fetchworker/internal/wire"
)

// Options are what a single call adds to its plan.
type Options struct {
	ETag         string // of the cached body, sent as If-None-Match
	LastModified string // of the cached body, sent as If-Modified-Since

	// BeforeWrite is called when the connection is ready, right before the
	// request is written: the last moment to find that a permit has lapsed.
	// With an error nothing is written, Result.Sent is false, and Result.Err
	// answers errors.Is for it. It can be called twice: a connection that
	// was found closed before anything was written is replaced by another.
	BeforeWrite func() error
	// Written is called once the request has been written, and in any case when
	// it certainly will not be any more. It may be called twice.
	Written func()
	// Wait is called around each wait for memory that a large body has. Whoever
	// waits must keep nobody else from working; came says that the whole body
	// has come, and its connection is free for others.
	Wait func(came bool, wait func() error) error
}

// Result is how a call ended. Nothing in it holds the key.
type Result struct {
	Class     wire.Class       // ok, transient, throttled, unauthorized or permanent
	Code      fetchworker.Code // for permanent: not_found, not_entitled, rejected or response_too_large
	ErrorType string           // for metrics: the class, or "timeout", "network", "foreign" or "odd"; "" for ok
	Why       string           // what decided the class, for a person who writes a data sheet
	Detail    string           // what went wrong in one line, mostly in the API's words
	Err       error            // what broke the connection or the body; nil when the API answered
	Sent      bool             // false: nothing reached the wire, nothing counts against a limit

	HTTPStatus         int // 0 when there was no answer
	Body               []byte
	SHA256             string // of a large body, lower-case hex; "": nobody has looked
	ContentType        string
	ETag, LastModified string
	Conditional        bool            // the call carried a validator
	NotModified        bool            // the cached body is still right: 304 to ETag or LastModified
	Cacheable          bool            // false for an answer that must not be kept, or may be another in a minute
	Redacted           bool            // Body contained the key, which is no longer in it
	Next               json.RawMessage // parameters of the next page, nil if there is none
	NextLoop           bool            // the page leads back to itself: Next is left out

	WireBytes int64         // of the body as it came over the connection, compressed if it was
	FetchedAt time.Time     // when the origin made the body: as long before the end of the call as Age says
	Age       time.Duration // how old the body was when it came, by RFC 9111
	Latency   time.Duration // of the whole call, without waits for memory

	RetryAfter time.Duration // what the API asks to wait, as far as it is believed; 0 if nothing
	HoldSent   string        // the headers that asked for it, word for word; "" if there are none
	MinHold    time.Duration // what this kind of answer is known to need at least; 0 if nothing
	Remaining  int           // calls left by the API's own count of one of our windows; -1 if it does not say
	Reset      time.Duration // until that count starts anew; -1 if it does not say
	Window     time.Duration // the length of the window the count is about

	header http.Header // redacted, for Record
}

// Types of errors that never got an answer to classify.
const (
	errorTimeout = "timeout"
	errorNetwork = "network"
)

// Hard reports whether the call failed in a way that speaks against the
// provider, or what stands before it, rather than against the request: no
// connection, a time-out, a 5xx, somebody else's words, a key that is refused.
func (r *Result) Hard() bool {
	switch r.Class { //nolint:exhaustive // the others are no failure of the provider
	case wire.ClassUnauthorized:
		return true
	case wire.ClassTransient:
	default:
		return false
	}
	switch r.ErrorType {
	case errorTimeout, errorNetwork, classify.Foreign:
		return true
	case classify.Odd:
		return false
	}
	return r.HTTPStatus == 0 || r.HTTPStatus >= http.StatusInternalServerError
}

// Do makes the call: one request on the wire at most, no redirect followed.
// It never fails: whatever happens is in the result.
func (p *Caller) Do(ctx context.Context, call *plan.Call, o Options) *Result {
	start := time.Now()
	within := newPatience(ctx, p.api.TimeoutOf(call.Operation))
	defer within.end()

	r := &Result{Remaining: -1, Reset: -1, Conditional: o.ETag != "" || o.LastModified != ""}
	w := &writeGate{before: o.BeforeWrite, after: o.Written, within: within}
	var res *http.Response
	req, err := p.request(within, call, o)
	if err == nil {
		res, err = p.transport.RoundTrip(req.WithContext(w.trace(within))) // which copies it
	}
	if err != nil && o.Written != nil {
		o.Written() // HTTP/2 says nothing of what it never wrote
	}
	if err == nil && !plausible(res.StatusCode) {
		// After 101 the connection would be ours, and no context ends a read of
		// it; what is beyond the statuses of HTTP is none.
		_ = res.Body.Close()
		err = errNoAnswer
	}
	end := time.Now()
	if err != nil {
		p.broken(r, w.cause(within.told(err)))
	} else {
		end = p.answered(r, call, res, within, p.reader(ctx, within, res.StatusCode, o))
	}
	if r.ErrorType == errorTimeout {
		w.shared.Load().retire()
	}
	r.Sent = w.sent.Load()
	r.Latency = end.Sub(start)
	if r.HTTPStatus > 0 {
		r.Age = headers.Age(r.header, start, end)
	}
	r.FetchedAt = end.Add(-r.Age)
	return r
}

// errNoAnswer: what came is not the answer of an HTTP API.
var errNoAnswer = errors.New("the API sent no HTTP answer")

func plausible(status int) bool { return status >= 200 && status <= 599 }

// Headers that are kept are stored with the answer, where there is room for
// some 60 KB in all; no real API comes near these limits, in bytes.
const (
	maxContentType = 256
	maxValidator   = 1 << 10
)

// kept is a header's value if it can be kept.
func kept(value string, most int) string {
	if len(value) > most || strings.ContainsFunc(value, unicode.IsControl) {
		return ""
	}
	return value
}

// userAgent and encodings are the values of headers that every call carries.
var userAgent, encodings = []string{"fetchworker"}, []string{"gzip"}

// request is built anew for each attempt; the keys are only in it.
func (p *Caller) request(ctx context.Context, call *plan.Call, o Options) (req http.Request, err error) {
	header := http.Header{"User-Agent": userAgent, "Accept-Encoding": encodings}
	for _, fixed := range []map[string]string{p.api.Header, call.Operation.Header} {
		for name, value := range fixed {
			header.Set(name, p.fill(value))
		}
	}
	query, err := p.sign(ctx, call, header)
	if err != nil {
		return req, err
	}
	if o.ETag != "" {
		header.Set("If-None-Match", o.ETag)
	}
	if o.LastModified != "" {
		header.Set("If-Modified-Since", o.LastModified)
	}
	target := &url.URL{Scheme: p.api.Base().Scheme, Host: p.api.Base().Host, RawPath: call.Path, RawQuery: query}
	target.Path, _ = url.PathUnescape(call.Path) // Plan has made it of valid parts
	req = http.Request{Method: http.MethodGet, URL: target, Host: p.api.Base().Host, Header: header}
	if call.Body != nil {
		// Without GetBody net/http never sends it a second time by itself.
		req.Method, req.ContentLength = http.MethodPost, int64(len(call.Body))
		req.Body = io.NopCloser(bytes.NewReader(call.Body))
		header.Set("Content-Type", call.ContentType)
	}
	return req, nil
}

// broken fills in a result for a call that got no answer.
func (p *Caller) broken(r *Result, err error) {
	r.Class, r.ErrorType = wire.ClassTransient, connectionErrorType(err)
	if refused := new(oauth2.RetrieveError); errors.As(err, &refused) && refused.Response.StatusCode/100 == 4 && refused.Response.StatusCode != http.StatusTooManyRequests {
		r.Class, r.ErrorType = wire.ClassUnauthorized, string(wire.ClassUnauthorized)
	}
	r.Err = p.redact.Error(err)
	r.Detail = redact.Shorten(p.redact.Text(told(err, p.api.Base().Host).Error()), redact.MaxDetail)
}

// reader is of the body of one answer.
func (p *Caller) reader(ctx context.Context, within *patience, status int, o Options) *bodyReader {
	b := &bodyReader{ctx: ctx, budget: p.budget, limit: MaxBody, within: within, around: o.Wait}
	if status >= http.StatusMultipleChoices {
		b.limit = maxErrorBody
	}
	return b
}

// answered fills in a result from an answer, and returns when its body had
// come, had we never kept it waiting.
func (p *Caller) answered(r *Result, call *plan.Call, res *http.Response, within *patience, from *bodyReader) time.Time {
	body, onWire, readErr := from.read(res)
	_ = res.Body.Close() // what is unread is not worth an error
	came, readErr := time.Now().Add(-within.waited), within.told(readErr)
	done, ended := from.turn(int64(len(body)), true)
	defer done()
	readErr = cmp.Or(readErr, ended) // the worker is made to end
	header := res.Header
	r.HTTPStatus, r.WireBytes, r.header = res.StatusCode, onWire, p.redactHeader(header)
	r.ContentType = kept(r.header.Get("Content-Type"), maxContentType)
	r.ETag, r.LastModified = kept(r.header.Get("Etag"), maxValidator), kept(r.header.Get("Last-Modified"), maxValidator)
	p.told(r, res.StatusCode, time.Now())
	if res.StatusCode == http.StatusNotModified && r.Conditional {
		r.Class, r.NotModified, r.Cacheable = wire.ClassOK, true, true
		return came
	}

	if readErr != nil && !errors.Is(readErr, classify.ErrTooLarge) {
		readErr = told(readErr, p.api.Base().Host)
	}
	in := classify.Input{Format: call.Operation.Format, Columns: call.Operation.Columns, Status: res.StatusCode, Header: r.header, Body: body, ReadErr: readErr}
	looked := from.looked(body)
	if looked != nil {
		in.Checked, in.IsJSON = true, looked.json.Valid()
	}
	v := classify.Answer(&p.api.Spec, in)
	r.Body, r.Redacted = p.redact.Body(body)
	if looked != nil && !r.Redacted {
		r.SHA256 = looked.sha256()
	}
	if r.Redacted {
		// A detail is made of a part of the body, and a cut through the key
		// would leave a half that nobody recognises: so it is made of the body
		// without the key.
		in.Body, in.Checked = r.Body, false
		v.Detail = classify.Answer(&p.api.Spec, in).Detail
	}
	if r.Conditional && v.Code == fetchworker.CodeRejected {
		// Perhaps only our question whether the body has changed is refused.
		v.Class, v.Code, v.ErrorType = wire.ClassTransient, "", classify.Odd
		v.Detail += " (asked with validators; the next try goes without)"
	}
	if v.Class == wire.ClassUnauthorized {
		p.tokens.forget()
	}
	if location := header.Get("Location"); location != "" && res.StatusCode/100 == 3 {
		v.Detail = fmt.Sprintf("status %d: redirected to %s, which is not followed", res.StatusCode, hostOf(location))
	}
	r.Class, r.Code, r.ErrorType, r.MinHold, r.Why = v.Class, v.Code, v.ErrorType, v.MinHold, v.Why
	r.Detail = redact.Shorten(p.redact.Text(v.Detail), redact.MaxDetail)
	if readErr != nil {
		r.Err = p.redact.Error(errors.Join(readErr, errors.Unwrap(readErr)))
		if v.Class == wire.ClassTransient && res.StatusCode < 300 && !errors.Is(readErr, errEncoding) {
			r.ErrorType = connectionErrorType(readErr)
		}
	}
	if r.Class == wire.ClassOK {
		r.Cacheable = !v.NoCache && !strings.Contains(strings.ToLower(header.Get("Cache-Control")), "no-store")
		r.Next, r.NextLoop = p.next(call, r.header, r.Body)
	}
	return came
}

// told fills in what the headers say of waiting and of calls left. A count is
// believed for the window that it is about, and for no other.
func (p *Caller) told(r *Result, status int, now time.Time) {
	longest := time.Duration(0)
	for _, w := range p.api.Limits {
		longest = max(longest, w.Per)
	}
	var resets []string
	if told := p.api.RateHeaders; told != nil && told.Reset != "" {
		resets = []string{told.Reset}
	}
	hold := headers.HoldOf(r.header, status, longest, now, resets...)
	r.RetryAfter, r.HoldSent = hold.Wait, hold.Sent
	for _, count := range p.counts(r.header, now) {
		window, ok := p.about(count)
		if ok && count.Remaining >= 0 && (r.Remaining < 0 || count.Remaining < r.Remaining) {
			r.Remaining, r.Reset, r.Window = count.Remaining, count.Reset, window
		}
	}
}

// counts are the API's own, where the sheet says that they are.
func (p *Caller) counts(header http.Header, now time.Time) []headers.Count {
	told := p.api.RateHeaders
	switch {
	case told == nil:
		return headers.Counts(header, now)
	case told.Off:
		return nil
	case told.Limit == "" && told.Remaining == "" && told.Reset == "":
		counts := headers.Counts(header, now)
		for i := range counts {
			counts[i].Window = told.Window
		}
		return counts
	}
	names := headers.Names{
		Limit:     cmp.Or(told.Limit, "X-RateLimit-Limit"),
		Remaining: cmp.Or(told.Remaining, "X-RateLimit-Remaining"),
		Reset:     cmp.Or(told.Reset, "X-RateLimit-Reset"),
	}
	count, ok := headers.CountUnder(header, names, now)
	if !ok {
		return nil
	}
	count.Window = cmp.Or(told.Window, count.Window)
	return []headers.Count{count}
}

// about is the length of the window that a count is about: the one whose
// calls are as many as the limit told, and which is not shorter than the time
// until it starts anew.
func (p *Caller) about(count headers.Count) (window time.Duration, ok bool) {
	if told := p.api.RateHeaders; told != nil && told.Window > 0 {
		return told.Window, count.Reset <= told.Window
	}
	for _, w := range p.api.Limits {
		fits := w.N == count.Limit && w.Per >= count.Reset && (count.Window == 0 || count.Window == w.Per)
		if fits && (!ok || w.Per < window) {
			window, ok = w.Per, true
		}
	}
	return window, ok
}

// next are the parameters of the next page, the key redacted.
func (p *Caller) next(call *plan.Call, header http.Header, body []byte) (next json.RawMessage, loop bool) {
	next, loop = p.api.Next(call, header, body)
	if next != nil {
		next = json.RawMessage(p.redact.Text(string(next)))
	}
	return next, loop
}

// redactHeader takes the key out of a header, which hardly ever holds it.
func (p *Caller) redactHeader(header http.Header) http.Header {
	clean := header
	for name, values := range header {
		for i, value := range values {
			without := p.redact.Text(value)
			if without == value {
				continue
			}
			if &clean[name][0] == &values[0] { // not yet a copy
				clean = clean.Clone()
			}
			clean[name][i] = without
		}
	}
	return clean
}

// hostOf is the host a redirect leads to; its path and query are not shown,
// since they may repeat the key.
func hostOf(location string) string {
	target, err := url.Parse(location)
	if err != nil {
		return "an unreadable address"
	}
	if target.Host == "" {
		return "another path"
	}
	return target.Host
}
