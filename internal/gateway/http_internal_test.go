package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"

	"go.uber.org/zap"
)

// What callers say in headers.
func TestWhatHeadersMean(t *testing.T) {
	g := &Gateway{config: Config{patience: usual}}
	with := func(name string, values ...string) *call {
		r := httptest.NewRequest(http.MethodGet, "/v1/fmp/quote", nil)
		for _, v := range values {
			r.Header.Add(name, v)
		}
		return &call{w: g.newWriter(httptest.NewRecorder()), r: r, ctx: t.Context()}
	}
	const std = 7 * time.Second
	for _, c := range []struct {
		prefer  []string
		wait    time.Duration
		applied string
	}{
		{nil, std, ""},
		{[]string{"wait=5"}, 5 * time.Second, "wait=5"},
		{[]string{`wait="5"`}, 5 * time.Second, "wait=5"},
		{[]string{"Wait = 5; x=y"}, 5 * time.Second, "wait=5"},
		{[]string{"wait=0"}, 0, "wait=0"},
		{[]string{"wait=119"}, 119 * time.Second, "wait=119"},
		{[]string{"wait=120"}, 120 * time.Second, "wait=120"},
		{[]string{"wait=121"}, 120 * time.Second, "wait=120"},
		{[]string{"wait=2147483647"}, 120 * time.Second, "wait=120"},
		{[]string{"wait=4294967296"}, std, ""},
		{[]string{"wait=-1"}, std, ""},
		{[]string{"wait=soon"}, std, ""},
		{[]string{"wait"}, std, ""},
		{[]string{"wait=5, wait=9"}, 5 * time.Second, "wait=5"},
		{[]string{"wait=x", "wait=9"}, 9 * time.Second, "wait=9"},
		{[]string{"respond-async"}, 0, "respond-async"},
		{[]string{"respond-async, wait=5"}, 5 * time.Second, "wait=5"},
		{[]string{"handling=lenient", "RESPOND-ASYNC"}, 0, "respond-async"},
	} {
		call := with("Prefer", c.prefer...)
		if got := preferred(call, std); got != c.wait || call.w.Header().Get("Preference-Applied") != c.applied {
			t.Errorf("Prefer %q: %v, %q", c.prefer, got, call.w.Header().Get("Preference-Applied"))
		}
	}
	for _, c := range []struct {
		control    []string
		age, stale string // empty: not said
		bad        bool
	}{
		{nil, "", "", false},
		{[]string{"no-cache"}, "0s", "", false},
		{[]string{"max-age=5"}, "5s", "", false},
		{[]string{`MAX-AGE="5"`}, "5s", "", false},
		{[]string{"max-age=5, max-stale=60"}, "5s", "1m0s", false},
		{[]string{"max-age=5", "max-age=9"}, "5s", "", false},
		{[]string{"no-cache, max-age=9"}, "0s", "", false},
		{[]string{"no-store, private, x=1"}, "", "", false},
		{[]string{"max-age=2147483647"}, "596523h14m7s", "", false},
		{[]string{"max-age=2147483648"}, "", "", true},
		{[]string{"max-age=-1"}, "", "", true},
		{[]string{"max-age"}, "", "", true},
		{[]string{"max-stale"}, "", "", true},
	} {
		var r fetchworker.Request
		err := cacheControl(with("Cache-Control", c.control...).r.Header, &r)
		text := func(d *fetchworker.Duration) string {
			if d == nil {
				return ""
			}
			return time.Duration(*d).String()
		}
		if (err != nil) != c.bad || err == nil && (text(r.MaxAge) != c.age || text(r.MaxStale) != c.stale) {
			t.Errorf("Cache-Control %q: %s, %s, %v", c.control, text(r.MaxAge), text(r.MaxStale), err)
		}
	}
	said := fetchworker.Request{MaxAge: new(fetchworker.Duration(time.Hour)), MaxStale: new(fetchworker.Duration(time.Hour))}
	if err := cacheControl(with("Cache-Control", "max-age=1, max-stale=1").r.Header, &said); err != nil || *said.MaxAge != fetchworker.Duration(time.Hour) || *said.MaxStale != fetchworker.Duration(time.Hour) {
		t.Errorf("what the body says is not what counts: %+v, %v", said, err)
	}
	for _, c := range []struct {
		keys []string
		key  string
		bad  bool
	}{
		{nil, "", false},
		{[]string{"q-1"}, "q-1", false},
		{[]string{` "q-1" `}, "q-1", false},
		{[]string{`"`}, "", true},
		{[]string{`""`}, "", true},
		{[]string{""}, "", true},
		{[]string{"a b"}, "", true},
		{[]string{strings.Repeat("k", 64)}, strings.Repeat("k", 64), false},
		{[]string{strings.Repeat("k", 65)}, "", true},
		{[]string{"a", "a"}, "", true},
	} {
		if key, err := idempotencyKey(with("Idempotency-Key", c.keys...).r.Header); (err != nil) != c.bad || key != c.key {
			t.Errorf("Idempotency-Key %q: %q, %v", c.keys, key, err)
		}
	}
	for _, c := range []struct {
		id      string
		after   uint64
		resumes bool
		bad     bool
	}{
		{"", 0, false, false},
		{"0", 0, true, false},
		{"17", 17, true, false},
		{"9223372036854775807", 1<<63 - 1, true, false},
		{"9223372036854775808", 0, true, true},
		{"-1", 0, true, true},
		{"x", 0, true, true},
	} {
		after, resumes, err := lastEventID(with("Last-Event-ID", c.id).r)
		if (err != nil) != c.bad || err == nil && (after != c.after || resumes != c.resumes) {
			t.Errorf("Last-Event-ID %q: %d, %t, %v", c.id, after, resumes, err)
		}
	}
	for _, c := range []struct {
		conditions []string
		tag        string
		want       bool
	}{
		{nil, `"a"`, false},
		{[]string{`"a"`}, `"a"`, true},
		{[]string{`W/"a"`}, `"a"`, true},
		{[]string{`"b", "a"`}, `"a"`, true},
		{[]string{`"b"`, `"a"`}, `"a"`, true},
		{[]string{"*"}, "", true},
		{[]string{""}, "", false},
		{[]string{`"ab"`}, `"a"`, false},
		{[]string{"a"}, `"a"`, false},
	} {
		if got := matches(c.conditions, c.tag); got != c.want {
			t.Errorf("If-None-Match %q of %s: %t", c.conditions, c.tag, got)
		}
	}
	for _, c := range []struct {
		authorization []string
		token         string
	}{
		{nil, ""}, {[]string{"Bearer x"}, "x"}, {[]string{"bearer   x"}, "x"}, {[]string{"Bearer x", "Bearer x"}, ""}, {[]string{"Bearer "}, ""}, {[]string{"Basic x"}, ""}, {[]string{"Bearerx"}, ""}, {[]string{""}, ""},
	} {
		if token, ok := bearer(with("Authorization", c.authorization...).r); ok != (c.token != "") || ok && token != c.token {
			t.Errorf("Authorization %q: %q, %t", c.authorization, token, ok)
		}
	}
}

// When to come back is told in whole seconds, at least one, at most a day.
func TestWhenToComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for wait, want := range map[time.Duration]string{
			-time.Hour: "1", 0: "1", time.Millisecond: "1", time.Second: "1", 1500 * time.Millisecond: "2", time.Minute: "60",
			24 * time.Hour: "86400", 1000 * time.Hour: "86400",
		} {
			if got := retryAfter(time.Now().Add(wait)); got != want {
				t.Errorf("in %v: %s, want %s", wait, got, want)
			}
		}
		id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}
		g := &Gateway{config: Config{patience: usual}, metrics: newMetrics(nil)}
		p := fetchworker.Waiting(id, fetchworker.ReasonPaused, "", time.Now().Add(90*time.Second))
		for name, c := range map[string]struct {
			last   fetchworker.Answer
			after  string
			reason fetchworker.Reason
		}{
			"a time":     {fetchworker.Answer{Identity: id, Status: fetchworker.StatusWaiting, Problem: &p}, "90", fetchworker.ReasonPaused},
			"no time":    {fetchworker.Answer{Identity: id, Status: fetchworker.StatusWaiting, Problem: new(fetchworker.Waiting(id, fetchworker.ReasonNoWorker, "", time.Time{}))}, "10", fetchworker.ReasonNoWorker},
			"stale":      {fetchworker.Answer{Identity: id, Status: fetchworker.StatusStale, Reason: fetchworker.ReasonRetry, RetryAt: time.Now().Add(5 * time.Second)}, "5", fetchworker.ReasonRetry},
			"stale, ???": {fetchworker.Answer{Identity: id, Status: fetchworker.StatusStale, Reason: fetchworker.ReasonRetry}, "10", fetchworker.ReasonRetry},
		} {
			w := httptest.NewRecorder()
			g.accepted(&call{w: g.newWriter(w), r: httptest.NewRequest(http.MethodGet, "/", nil), ctx: t.Context()}, id, &c.last)
			var told fetchworker.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &told); err != nil {
				t.Fatal(err)
			}
			h := w.Header()
			if w.Code != http.StatusAccepted || told.Status != w.Code || h.Get("Retry-After") != c.after || told.Reason() != c.reason || h.Get("Location") != "/v1/requests/fmp/quote/q-1" || h.Get("Fetch-Request-Id") != "q-1" || h.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %d %v %s", name, w.Code, h, w.Body)
			}
		}
	})
}

// What an answer says of itself in HTTP.
func TestAnAnswerAsHTTP(t *testing.T) {
	id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}
	now := time.Now()
	good := fetchworker.Answer{Identity: id, Status: fetchworker.StatusOK, Final: true, Generation: 1, FetchedAt: now.Add(-10 * time.Second), ContentType: "text/csv", Body: []byte("a,b\n"), SHA256: strings.Repeat("ab", 32)}
	stale, old, young, large := good, good, good, good
	stale.Status = fetchworker.StatusStale
	old.Age = time.Minute
	young.FetchedAt = now.Add(time.Hour) // another clock
	large.Body, large.Claim = nil, &fetchworker.Claim{Prefix: "fetch.body.x", Parts: 3, Bytes: 3 << 20, SHA256: good.SHA256}
	failure := fetchworker.Failure(id, fetchworker.CodeBudgetExhausted, "")
	failure.RetryAt = now.Add(time.Hour)
	wrong := fetchworker.Answer{Identity: id, Status: fetchworker.StatusFailed, Final: true, Generation: 1, Problem: &failure}
	odd := wrong
	odd.Problem = &fetchworker.Problem{Type: "urn:x", Title: "x", Status: 200}
	tag := `"` + good.SHA256 + `"`
	for name, c := range map[string]struct {
		a         fetchworker.Answer
		method    string
		fresh     time.Duration
		condition string
		status    int
		headers   map[string]string
		body      string
	}{
		"good":                 {good, "GET", time.Minute, "", 200, map[string]string{"Cache-Control": "private, max-age=60", "Etag": tag, "Content-Length": "4", "Content-Type": "text/csv", "Age": "10"}, "a,b\n"},
		"nothing is known":     {good, "GET", 0, `"other"`, 200, map[string]string{"Cache-Control": "private, no-cache"}, "a,b\n"},
		"stale":                {stale, "GET", time.Minute, "", 200, map[string]string{"Cache-Control": "private, no-cache", "Fetch-Status": "stale"}, "a,b\n"},
		"old when it was told": {old, "GET", 0, "", 200, map[string]string{"Age": "60"}, "a,b\n"},
		"of the future":        {young, "GET", 0, "", 200, map[string]string{"Age": "0"}, "a,b\n"},
		"not changed":          {good, "GET", time.Minute, tag, 304, map[string]string{"Content-Type": "", "Etag": tag, "Cache-Control": "private, max-age=60"}, ""},
		"asked by POST":        {good, "POST", 0, tag, 200, map[string]string{"Etag": tag}, "a,b\n"},
		"its head":             {good, "HEAD", 0, "", 200, map[string]string{"Content-Length": "4"}, ""},
		"the head of a large":  {large, "HEAD", 0, "", 200, map[string]string{"Content-Length": "3145728", "Fetch-Body-Prefix": "", "Fetch-Body-Parts": ""}, ""},
		"a failure":            {wrong, "GET", time.Minute, "*", 429, map[string]string{"Cache-Control": "no-store", "Retry-After": "3600", "Fetch-Sha256": "", "Etag": "", "Fetch-Status": "failed"}, ""},
		"an odd failure":       {odd, "GET", 0, "", 502, map[string]string{"Content-Type": fetchworker.ProblemType}, ""},
	} {
		g := &Gateway{config: Config{patience: usual, Logger: zap.NewNop()}, metrics: newMetrics(nil)}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(c.method, "/", nil)
		if c.condition != "" {
			r.Header.Set("If-None-Match", c.condition)
		}
		g.answer(&call{w: g.newWriter(w), r: r, ctx: t.Context()}, &c.a, c.fresh)
		if w.Code != c.status || c.body != w.Body.String() && c.status < 400 {
			t.Errorf("%s: %d %q", name, w.Code, w.Body)
		}
		for header, want := range c.headers {
			if got := w.Header().Get(header); got != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
		if vary := w.Header().Get("Vary"); c.status < 400 && (!strings.Contains(vary, "Authorization") || !strings.Contains(vary, "Fetch-Agent")) {
			t.Errorf("%s: one agent's answer is another's: Vary %q", name, vary)
		}
	}
}

// What goes wrong has its status, and nothing of ours beside it.
func TestWhatGoesWrongHasItsStatus(t *testing.T) {
	id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}
	for _, c := range []struct {
		err         error
		status      int
		what, again string
	}{
		{&fetchworker.RequestError{Field: "provider", Want: "another"}, 404, "unknown_provider", ""},
		{&fetchworker.RequestError{Field: "operation", Want: "another"}, 404, "unknown_operation", ""},
		{&fetchworker.RequestError{Field: "params", Want: "other"}, 400, "invalid_request", ""},
		{fetchworker.ErrNotObject, 400, "invalid_request", ""},
		{fetchworker.ErrIDReused, 422, "id_reused", ""},
		{fetchworker.ErrNoAnswer, 404, "no_answer", ""},
		{fetchworker.ErrQueueFull, 429, "backlog_full", "5"},
		{fetchworker.ErrNotPermitted, 403, "rights_violation", ""},
		{fetchworker.ErrBodyCorrupt, 502, "body_corrupt", ""},
		{fetchworker.ErrNobodyServes, 503, "unreached", "2"},
		{context.DeadlineExceeded, 503, "unreached", "2"},
		{errors.New("secret"), 503, "unreached", "2"},
		{&httpError{http.StatusTeapot, "no coffee"}, 418, "about:blank", ""},
	} {
		w := httptest.NewRecorder()
		fail(w, id, fmt.Errorf("wrapped: %w", c.err))
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.what) || w.Header().Get("Retry-After") != c.again || strings.Contains(w.Body.String(), "secret") || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%v: %d %v %s", c.err, w.Code, w.Header(), w.Body)
		}
	}
	// Who has gone is told nothing, and counts as gone.
	g := &Gateway{config: Config{patience: usual}, metrics: newMetrics(nil)}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	w := httptest.NewRecorder()
	c := &call{w: g.newWriter(w), r: httptest.NewRequest(http.MethodGet, "/", nil).WithContext(gone), ctx: gone}
	if g.failed(c, id, gone.Err()); c.w.status != statusCanceled || w.Body.Len() > 0 {
		t.Errorf("%d %s", c.w.status, w.Body)
	}
}
