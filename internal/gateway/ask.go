package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"fetchworker"
)

const (
	// standardWait is how long an answer is waited for, and longestWait the most
	// that a caller may ask for.
	standardWait = 30 * time.Second
	longestWait  = 120 * time.Second
)

// ask asks, and answers with the final answer if it comes in time.
func (g *Gateway) ask(c *call) {
	r, err := g.request(c)
	id := fetchworker.Identity{Provider: r.Provider, Operation: r.Operation, Agent: c.agent.Agent(), ID: r.ID}
	if err != nil {
		fail(c.w, id, err)
		return
	}
	wait := preferred(c, standardWait)
	storing, cancel := context.WithTimeout(c.ctx, g.config.patience.store)
	defer cancel()
	asked, err := c.agent.Ask(storing, r)
	if err != nil {
		g.failed(c, id, err)
		return
	}
	defer asked.Leave()
	g.lately.note(id)
	if wait == 0 {
		g.accepted(c, id, nil)
		return
	}
	waiting, cancel := context.WithTimeout(c.ctx, wait)
	defer cancel()
	a, err := asked.Final(waiting)
	var pending *fetchworker.PendingError
	switch {
	case errors.As(err, &pending):
		if last := pending.Last; last != nil && last.Digest != "" && last.Digest != fetchworker.RequestDigest(r.Operation, r.Params) {
			g.failed(c, id, fetchworker.ErrIDReused)
			return
		}
		g.accepted(c, id, pending.Last)
	case err != nil:
		g.failed(c, id, err)
	default:
		g.answer(c, &a, g.freshness(c.ctx, r))
	}
}

// failed answers with an error of the client, and remembers that a client has
// gone, to whom nothing can be answered.
func (g *Gateway) failed(c *call, id fetchworker.Identity, err error) {
	if c.r.Context().Err() != nil {
		c.w.status = statusCanceled
		return
	}
	if errors.Is(err, fetchworker.ErrBodyCorrupt) {
		g.metrics.corrupt.Inc()
	}
	c.w.Header().Set(headerID, id.ID)
	fail(c.w, id, err)
}

// request is what an HTTP request asks for. It has an id, also where the error
// says that it is none.
func (g *Gateway) request(c *call) (r fetchworker.Request, err error) {
	defer func() {
		r.Provider, r.Operation = c.r.PathValue("provider"), c.r.PathValue("operation")
		r.Agent = c.agent.Agent()
		if r.ID == "" {
			r.ID = fetchworker.NewID()
		}
	}()
	for _, name := range []string{"provider", "operation"} {
		if !fetchworker.ValidToken(c.r.PathValue(name)) {
			return r, &fetchworker.RequestError{Field: name, Want: "1 to 32 of a-z 0-9 _ -"}
		}
	}
	key, err := idempotencyKey(c.r.Header)
	if err != nil {
		return r, err
	}
	if c.r.Method == http.MethodPost {
		r, err = fromBody(c)
	} else {
		r.Params, err = fromQuery(c.r.URL.RawQuery)
	}
	if err != nil {
		return r, err
	}
	if key != "" {
		if r.ID != "" && r.ID != key {
			return r, &fetchworker.RequestError{Field: "id", Want: "the same as the Idempotency-Key, or left out"}
		}
		r.ID = key
	}
	if lane := c.r.Header.Get(headerLane); lane != "" {
		if r.Lane = fetchworker.Lane(lane); !r.Lane.Valid() {
			r.Lane = ""
			return r, &fetchworker.RequestError{Field: headerLane, Want: "interactive or batch"}
		}
	}
	return r, cacheControl(c.r.Header, &r)
}

// fromBody is the request of a body, as an agent would publish it, but for
// where copies go.
func fromBody(c *call) (fetchworker.Request, error) {
	if coding := c.r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return fetchworker.Request{}, &httpError{http.StatusUnsupportedMediaType, "send the body as it is, without a Content-Encoding"}
	}
	if !jsonOrCurl(c.r.Header.Get("Content-Type")) {
		return fetchworker.Request{}, &httpError{http.StatusUnsupportedMediaType, "the Content-Type is application/json, in UTF-8"}
	}
	switch {
	case len(c.body) > fetchworker.MaxRequestBytes:
		return fetchworker.Request{}, &httpError{http.StatusRequestEntityTooLarge, "a request has at most " + strconv.Itoa(fetchworker.MaxRequestBytes) + " bytes"}
	case c.r.URL.RawQuery != "":
		return fetchworker.Request{}, &fetchworker.RequestError{Field: "params", Want: "in the body of a POST, not in its address"}
	case len(strings.TrimSpace(string(c.body))) == 0:
		return fetchworker.Request{}, nil
	case !utf8.Valid(c.body):
		return fetchworker.Request{}, &fetchworker.RequestError{Want: "the body is not UTF-8"}
	}
	r, err := fetchworker.DecodeRequest(c.body)
	if err == nil && r.ReplyTo != "" {
		err = &fetchworker.RequestError{Field: "reply_to", Want: "left out: the answer comes over HTTP"}
	}
	return r, err
}

// jsonOrCurl reports whether a body is JSON by its type, or has the one that
// curl gives to whatever it sends.
func jsonOrCurl(contentType string) bool {
	if contentType == "" {
		return true
	}
	name, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
		return false
	}
	return name == "application/json" || strings.HasPrefix(name, "application/") && strings.HasSuffix(name, "+json") || name == "application/x-www-form-urlencoded" || name == "text/plain"
}

// fromQuery are the parameters of an address, as texts; a name that comes more
// than once is a list.
func fromQuery(query string) (json.RawMessage, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, &fetchworker.RequestError{Field: "params", Want: "a query such as symbol=AAPL&limit=5"}
	}
	params := map[string]any{}
	for name, all := range values {
		for _, text := range append([]string{name}, all...) {
			if !utf8.ValidString(text) {
				return nil, &fetchworker.RequestError{Field: "params", Want: "a query in UTF-8"}
			}
		}
		if params[name] = all[0]; len(all) > 1 {
			params[name] = all
		}
	}
	return fetchworker.Params(params), nil
}

// idempotencyKey is the id that a caller gives, as the draft has it, a text in
// quotes, or bare.
func idempotencyKey(h http.Header) (string, error) {
	values := h.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	key := strings.TrimSpace(values[0])
	if len(key) > 1 && strings.HasPrefix(key, `"`) && strings.HasSuffix(key, `"`) {
		key = key[1 : len(key)-1]
	}
	if len(values) > 1 || !fetchworker.ValidID(key) {
		return "", &fetchworker.RequestError{Field: "Idempotency-Key", Want: "one key, 1 to 64 of A-Z a-z 0-9 _ -"}
	}
	return key, nil
}

// cacheControl takes in what the caller says of caches (RFC 9111), where the
// body does not say it.
func cacheControl(h http.Header, r *fetchworker.Request) error {
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(strings.ToLower(directive)), "=")
		switch name {
		case "no-cache":
			name, value = "max-age", "0"
		case "max-age", "max-stale":
		default:
			continue
		}
		seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
		if err != nil {
			return &fetchworker.RequestError{Field: "Cache-Control", Want: fmt.Sprintf("%s with a number of seconds, such as %s=60", name, name)}
		}
		d := fetchworker.Duration(time.Duration(seconds) * time.Second) // it has 31 bits
		switch {
		case name == "max-age" && r.MaxAge == nil:
			r.MaxAge = &d
		case name == "max-stale" && r.MaxStale == nil:
			r.MaxStale = &d
		}
	}
	return nil
}

// preferred is how long the caller would wait for a final answer (RFC 7240),
// and says what was made of it.
func preferred(c *call, standard time.Duration) time.Duration {
	wait, async, waits := standard, false, false
	for preference := range strings.SplitSeq(strings.Join(c.r.Header.Values("Prefer"), ","), ",") {
		preference, _, _ = strings.Cut(preference, ";")
		name, value, _ := strings.Cut(preference, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "respond-async":
			async = true
		case "wait":
			value = strings.Trim(strings.TrimSpace(value), `"`)
			if seconds, err := strconv.ParseUint(value, 10, 31); err == nil && !waits { // the first counts
				wait, waits = min(time.Duration(seconds)*time.Second, longestWait), true // it has 31 bits
			}
		}
	}
	switch {
	case waits:
		c.w.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(wait/time.Second)))
	case async:
		wait = 0
		c.w.Header().Set("Preference-Applied", "respond-async")
	}
	return wait
}

// freshness is how long an answer is fresh: as the caller asked, else as long
// as the operation's.
func (g *Gateway) freshness(ctx context.Context, r fetchworker.Request) time.Duration {
	if r.MaxAge != nil {
		return time.Duration(*r.MaxAge)
	}
	return g.catalogue.Fresh(ctx, r.Provider, r.Operation)
}
