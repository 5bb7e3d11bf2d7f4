package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"

	"go.uber.org/zap"
)

// A feed beside its model, the list of all events: what it remembers is the
// newest of them within both bounds, whoever asks from a place gets what comes
// there and nothing else, and who asks for what is forgotten is told so.
func TestAFeedIsTheEndOfAllEvents(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	large := bytes.Repeat([]byte("x"), 3<<20)
	f := newFeed(nil)
	f.round = 7
	var all []event // by place
	newest := uint64(0)
	for step := range 12_000 {
		size := dice.IntN(100)
		if step > 6000 { // few of them fill it
			size = dice.IntN([]int{100, 64 << 10, len(large)}[dice.IntN(3)])
		}
		e := event{sequence: uint64(dice.IntN(20_000)), text: large[:size]}
		all, newest = append(all, e), max(newest, e.sequence)
		changed := f.changed
		f.change(7, func() { f.remember(e) })
		select {
		case <-changed:
		default:
			t.Fatal("nobody is told of an event")
		}
		if n := len(f.events); n > feedEvents || n > 1 && f.bytes > feedBytes || n == 0 {
			t.Fatalf("%d events of %d bytes are remembered", n, f.bytes)
		}
		if f.next() != len(all) || f.newest != newest {
			t.Fatalf("the next place is %d of %d, the newest %d of %d", f.next(), len(all), f.newest, newest)
		}
		place := len(all) - dice.IntN(min(len(all), 1200)+1)
		some, behind, _, err := f.from(place)
		there := all[place:]
		switch {
		case err != nil:
			t.Fatal(err)
		case behind && (len(some) > 0 || place >= f.first):
			t.Fatalf("who asks from %d is told to be behind, and gets %d", place, len(some))
		case !behind && place < f.first:
			t.Fatalf("who asks from %d is not told that all below %d is forgotten", place, f.first)
		case !behind && (len(some) != min(len(there), 64) || !slices.EqualFunc(some, there[:len(some)], func(a, b event) bool { return a.sequence == b.sequence && len(a.text) == len(b.text) })):
			t.Fatalf("from %d come %d events, of %d", place, len(some), len(there))
		}
	}
	// Bytes are those of what is remembered: else nothing would be, in time.
	sum := 0
	for _, e := range f.events {
		sum += len(e.text)
	}
	if sum != f.bytes {
		t.Errorf("%d bytes count as %d", sum, f.bytes)
	}
	// A run that was ended changes nothing any more.
	before, changed := f.next(), f.changed
	f.change(6, func() { f.remember(event{sequence: 1}) })
	f.change(8, func() { f.err = io.EOF })
	if f.next() != before || f.err != nil || f.changed != changed {
		t.Error("another run than the present one changes it")
	}
}

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

// An event holds a body that is JSON and small, and says how large any is.
func TestWhatAnEventHolds(t *testing.T) {
	exactly := func(n int) []byte { return []byte(`"` + strings.Repeat("x", n-2) + `"`) }
	for name, c := range map[string]struct {
		a    fetchworker.Answer
		size int64
		body bool
	}{
		"small":     {fetchworker.Answer{Body: []byte(`{"a":1}`)}, 7, true},
		"the most":  {fetchworker.Answer{Body: exactly(8 << 10)}, 8 << 10, true},
		"too large": {fetchworker.Answer{Body: exactly(8<<10 + 1)}, 8<<10 + 1, false},
		"no JSON":   {fetchworker.Answer{Body: []byte("a\n\ndata: b")}, 10, false},
		"none":      {fetchworker.Answer{}, 0, false},
		"claimed":   {fetchworker.Answer{Claim: &fetchworker.Claim{Bytes: 3 << 20}}, 3 << 20, false},
		"lines":     {fetchworker.Answer{Body: []byte("{\n\n\"a\":\n1}")}, 10, true},
	} {
		c.a.Identity, c.a.Sequence = fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}, 17
		e := eventOf(c.a)
		lines := strings.Split(strings.TrimSuffix(string(e.text), "\n\n"), "\n")
		var told answerEvent
		if len(lines) != 3 || lines[0] != "id: 17" || lines[1] != "event: answer" || json.Unmarshal([]byte(strings.TrimPrefix(lines[2], "data: ")), &told) != nil {
			t.Errorf("%s: %s", name, e.text)
		}
		if e.sequence != 17 || told.Bytes != c.size || (len(told.Body) > 0) != c.body {
			t.Errorf("%s: %d bytes, %.50s", name, told.Bytes, told.Body)
		}
	}
}

// The newest requests are remembered, and no more than there is room for.
func TestTheNewestRequestsAreKnown(t *testing.T) {
	l := newLately()
	id := func(n int) fetchworker.Identity { return fetchworker.Identity{ID: strconv.Itoa(n)} }
	for n := range 2 * mostLately {
		l.note(id(n))
		if n%997 == 0 {
			for _, back := range []int{0, 1, mostLately/2 - 1} {
				if n >= back && !l.asked(id(n-back)) {
					t.Fatalf("after %d the one %d before is unknown", n, back)
				}
			}
			if l.asked(id(n + 1)) {
				t.Fatal("one that was never asked is known")
			}
			if kept := len(l.now) + len(l.old); kept > mostLately {
				t.Fatalf("%d are kept", kept)
			}
		}
	}
}

// A slow client's bytes are let go and read again: they must be the same.
func TestWhatWasLetGoIsReadAgain(t *testing.T) {
	whole := []byte(strings.Repeat("0123456789", 10))
	for name, c := range map[string]struct {
		again []byte
		err   error
		good  bool
	}{
		"the same": {whole, nil, true}, "shorter": {whole[:50], nil, false}, "longer": {append(whole[:100:100], 'x'), nil, false}, "nothing": {nil, nil, false}, "not now": {nil, io.EOF, false},
	} {
		l := &loaned{bytes: whole, whole: len(whole)}
		read := 0
		again := func(context.Context) ([]byte, error) { read++; return c.again, c.err }
		var got []byte
		piece := make([]byte, 30)
		var err error
		for at := 0; at < len(whole) && err == nil; {
			var n int
			if n, err = l.piece(t.Context(), piece, at, again); err == nil {
				got = append(got, piece[:n]...)
				at += n
			}
			if at == 30 {
				l.letGo()
			}
		}
		if (err == nil) != c.good || c.good && (!bytes.Equal(got, whole) || read != 1) {
			t.Errorf("%s: %q after %d reads, %v", name, got, read, err)
		}
		if !c.good && c.err == nil && !errors.Is(err, fetchworker.ErrBodyCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An agent has one client as long as anybody uses it, and for five minutes
// more; where there are too many, those go that nobody uses, the longest idle
// first.
func TestAgentsComeAndGo(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		a := newAgents(b.NC)
		use := func(name string) (*agent, func()) {
			t.Helper()
			one, leave, err := a.use(name)
			if err != nil {
				t.Fatal(err)
			}
			return one, leave
		}
		known := func() int {
			a.mu.Lock()
			defer a.mu.Unlock()
			return len(a.byName)
		}
		first, leave := use("alice")
		second, leaveToo := use("alice")
		if first != second {
			t.Error("an agent has two clients")
		}
		leave()
		leave() // again is nothing
		time.Sleep(2 * agentIdle)
		if known() != 1 {
			t.Error("an agent that is in use is forgotten")
		}
		leaveToo()
		time.Sleep(agentIdle - time.Second)
		if third, leave := use("alice"); third != first {
			t.Error("an agent is forgotten too soon")
		} else {
			leave()
		}
		time.Sleep(agentIdle - time.Second)
		if known() != 1 {
			t.Error("it is forgotten since its first use")
		}
		time.Sleep(2 * time.Second)
		if known() != 0 {
			t.Error("an idle agent is not forgotten")
		}
		var leaves []func()
		for n := range mostAgents {
			_, leave := use(fmt.Sprint("agent-", n))
			leaves = append(leaves, leave)
		}
		if _, _, err := a.use("one-more"); !errors.Is(err, errTooManyAgents) {
			t.Errorf("one more than there may be: %v", err)
		}
		if _, leave := use("agent-7"); known() != mostAgents {
			t.Error("one of them is not served")
		} else {
			leave()
		}
		for _, n := range []int{5, 3, 9} {
			leaves[n]()
			time.Sleep(time.Second)
		}
		for _, n := range []int{5, 3, 9} {
			_, leave := use(fmt.Sprint("more-", n))
			defer leave()
			a.mu.Lock()
			_, still := a.byName[fmt.Sprint("agent-", n)]
			a.mu.Unlock()
			if still || known() != mostAgents {
				t.Errorf("agent-%d, idle for longest, is still there: %t of %d", n, still, known())
			}
		}
		a.close()
		if _, _, err := a.use("alice"); !errors.Is(err, fetchworker.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// The description is made anew as often as what it is made of, and has the same
// tag while it is the same.
func TestTheDescriptionGrowsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a cachedAPI
		made, says, wrong := 0, "one", error(nil)
		get := func(want string, times int) string {
			t.Helper()
			text, tag, err := a.get(t.Context(), func(context.Context) ([]byte, error) { made++; return []byte(says), wrong })
			if string(text) != want || made != times || (err != nil) != (want == "") {
				t.Errorf("%q, %v, made %d times, want %q, %d", text, err, made, want, times)
			}
			return tag
		}
		first := get("one", 1)
		says = "two"
		time.Sleep(apiAge - 1)
		if again := get("one", 1); again != first {
			t.Error("another tag of the same")
		}
		time.Sleep(time.Nanosecond)
		if other := get("two", 2); other == first {
			t.Error("the same tag of another")
		}
		time.Sleep(apiAge)
		wrong = io.EOF
		get("", 3)
		wrong = nil
		get("two", 4)
	})
}

// No more streams are open than there may be, and one that is refused takes no
// place; nor does a request keep its agent once it has its answer.
func TestPlacesAreGivenBack(t *testing.T) {
	b := brokertest.Start(t)
	nc := b.Connect(t)
	defer nc.Close()
	g, err := New(Config{NC: nc, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ask := func(path string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil)
		r.Host = "localhost"
		g.ServeHTTP(w, r)
		return w
	}
	g.streams.Store(mostStreams)
	for range 2 {
		if w := ask("/v1/answers"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || g.streams.Load() != mostStreams {
			t.Errorf("%d, %d streams of %d", w.Code, g.streams.Load(), mostStreams)
		}
	}
	if w := ask("/v1/requests/fmp/quote/none"); w.Code != http.StatusNotFound {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	g.agents.mu.Lock()
	defer g.agents.mu.Unlock()
	if one := g.agents.byName[anybody]; one == nil || one.users != 0 {
		t.Errorf("%+v", one)
	}
}

// What a stream has from the store it does not send again from the feed.
func TestWhatWasReadIsNotSentAgain(t *testing.T) {
	b := brokertest.Start(t)
	client, err := fetchworker.NewClient(b.NC, anybody)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	g := &Gateway{config: Config{patience: usual}}
	w := httptest.NewRecorder()
	s := &stream{g: g, read: 5, c: &call{w: g.newWriter(w), r: httptest.NewRequest(http.MethodGet, "/", nil), ctx: t.Context(), agent: &agent{Client: client}}}
	for _, sequences := range [][]uint64{{3, 5}, {6, 4}, {}, {7, 8}} {
		var some []event
		for _, n := range sequences {
			some = append(some, event{n, fmt.Appendf(nil, "%d ", n)})
		}
		if err := s.send(some); err != nil {
			t.Fatal(err)
		}
	}
	if w.Body.String() != "6 7 8 " || s.sent != 8 || s.place != 6 {
		t.Errorf("%s was sent, up to %d and the place %d", w.Body, s.sent, s.place)
	}
}

// No more connections are held than there is room for, and a place is free
// again once, however often its connection is closed.
func TestConnectionsTakeTurns(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &bounded{Listener: ln, room: make(chan struct{}, 2)}
	dial := func() net.Conn {
		t.Helper()
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	accept := func() net.Conn {
		t.Helper()
		nc, err := b.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	for range 5 {
		nc := dial()
		t.Cleanup(func() { _ = nc.Close() })
	}
	one, two := accept(), accept()
	if len(b.room) != 2 {
		t.Fatalf("two take %d places", len(b.room))
	}
	_ = one.Close()
	_ = one.Close()
	if len(b.room) != 1 {
		t.Errorf("one of two has left, and %d places are taken", len(b.room))
	}
	three := accept()
	third := make(chan net.Conn)
	go func() {
		nc, _ := b.Accept()
		third <- nc
	}()
	_ = two.Close()
	_ = three.Close()
	_ = (<-third).Close()
	_ = ln.Close()
	if _, err := b.Accept(); err == nil || len(b.room) != 0 {
		t.Errorf("a listener that is closed: %v, %d places are taken", err, len(b.room))
	}
}
