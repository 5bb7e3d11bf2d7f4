package call

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"fetchworker/internal/providers/plan"
)

// Exchange is one request with its answer, as a file keeps it:
//
//	# what it shows, in any number of such lines
//	GET /stable/quote?symbol=AAPL
//	200
//	Content-Type: application/json
//
//	[{"symbol":"AAPL"}]
//
// A POST says after its target what it sends, on one line: "> {"id":7}". The
// request has no key. The body is everything after the empty line, byte
// for byte. "Content-Encoding: gzip" means that the body, which is kept
// readable here, goes over the wire compressed.
type Exchange struct {
	Name   string // of the file, without folder and extension
	Notes  []string
	Method string // GET or POST
	Target string // path and query
	Sent   []byte // the request's body, of a POST
	Status int
	Header http.Header
	Body   []byte
}

var errExchange = errors.New(`expected "GET /path?query" or "POST /path" and "> body", a status, headers, an empty line and the body`)

// ParseExchange reads a file's content. The error tells the line.
func ParseExchange(name string, content []byte) (*Exchange, error) {
	e := &Exchange{Name: name, Header: http.Header{}}
	head, body, found := bytes.Cut(content, []byte("\n\n"))
	if !found {
		return nil, fmt.Errorf("%s: %w", name, errExchange)
	}
	e.Body = body
	for i, line := range strings.Split(string(head), "\n") {
		wrong := fmt.Errorf("%s:%d: %w", name, i+1, errExchange)
		switch {
		case strings.HasPrefix(line, "#"):
			e.Notes = append(e.Notes, strings.TrimSpace(line[1:]))
		case e.Target == "":
			method, target, _ := strings.Cut(line, " ")
			if method != http.MethodGet && method != http.MethodPost || !strings.HasPrefix(target, "/") {
				return nil, wrong
			}
			e.Method, e.Target = method, target
		case e.Method == http.MethodPost && e.Status == 0 && e.Sent == nil && strings.HasPrefix(line, "> "):
			e.Sent = []byte(line[2:])
		case e.Status == 0:
			status, err := strconv.Atoi(line)
			if err != nil || status < 100 || status > 599 {
				return nil, wrong
			}
			e.Status = status
		default:
			key, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, wrong
			}
			e.Header.Add(strings.TrimSpace(key), strings.TrimSpace(value))
		}
	}
	if e.Status == 0 {
		return nil, fmt.Errorf("%s: %w", name, errExchange)
	}
	return e, nil
}

// WriteTo writes the exchange in the form ParseExchange reads.
func (e *Exchange) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	for _, note := range e.Notes {
		fmt.Fprintf(&b, "# %s\n", note)
	}
	fmt.Fprintf(&b, "%s %s\n", cmp.Or(e.Method, http.MethodGet), e.Target)
	if e.Sent != nil {
		fmt.Fprintf(&b, "> %s\n", e.Sent)
	}
	fmt.Fprintf(&b, "%d\n", e.Status)
	for _, name := range slices.Sorted(maps.Keys(e.Header)) {
		for _, value := range e.Header[name] {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	b.WriteString("\n")
	b.Write(e.Body)
	return b.WriteTo(w)
}

// Headers that say something about the answer. All others, cookies and
// request ids above all, are left out of a recording.
var recordedHeaders = []string{
	"Cache-Control", "Content-Encoding", "Content-Type", "Etag", "Last-Modified", "Link", "Retry-After",
	"Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset",
	"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset",
}

// Record makes a call and writes it as an Exchange, the key redacted. An
// error answer is as good a recording as any; only when there was no answer,
// or its body broke off, Record writes nothing and returns why.
func (p *Caller) Record(ctx context.Context, call *plan.Call, w io.Writer) (*Result, error) {
	r := p.Do(ctx, call, Options{})
	if r.Err != nil {
		return r, fmt.Errorf("recording %s %s: %w", p.api.Name, call.Operation.Name, r.Err)
	}
	e := &Exchange{Method: http.MethodGet, Target: p.redact.Text(call.Target()), Status: r.HTTPStatus, Header: http.Header{}, Body: r.Body}
	if call.Body != nil {
		e.Method, e.Sent = http.MethodPost, []byte(p.redact.Text(string(call.Body)))
	}
	for _, name := range recordedHeaders {
		if values := r.header[name]; len(values) > 0 {
			e.Header[name] = values
		}
	}
	if _, err := e.WriteTo(w); err != nil {
		return r, fmt.Errorf("writing the recording: %w", err)
	}
	return r, nil
}
