package fetch

import (
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/cache"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// TestDecide: what a call's result becomes, by what is at hand besides.
func TestDecide(t *testing.T) {
	const (
		ok           = wire.ClassOK
		transient    = wire.ClassTransient
		throttled    = wire.ClassThrottled
		unauthorized = wire.ClassUnauthorized
		permanent    = wire.ClassPermanent
		pending      = wire.ClassPending
	)
	body := func(age time.Duration) *cache.Entry {
		return &cache.Entry{FetchedAt: noon.Add(-age), CameAt: noon.Add(-age), Body: []byte("[1]"), HTTPStatus: 200}
	}
	type want struct {
		status          fetchworker.Status // "": no answer
		final, review   bool
		source          fetchworker.Source
		calls, failures int
		wait            time.Duration // of the letter; -1: no letter
		reason          fetchworker.Reason
	}
	for name, c := range map[string]struct {
		result         providers.Result
		made           made
		failures       int
		cache          *cache.Entry
		maxStale       time.Duration // accepted as final
		hold           time.Duration // of the fleet
		failedBefore   time.Duration // the first time, ago
		outage         bool
		want           want
		spareSince     time.Duration // ago; 0: none
		letterFailedAt time.Duration
	}{
		"ok":                                     {result: providers.Result{Class: ok}, want: want{"ok", true, false, "origin", 1, 0, -1, ""}},
		"ok of another's call":                   {result: providers.Result{Class: ok, FetchedAt: noon.Add(-time.Second), Age: time.Millisecond}, made: shared, want: want{"ok", true, false, "cache", 0, 0, -1, ""}},
		"not found":                              {result: providers.Result{Class: permanent, Code: fetchworker.CodeNotFound}, want: want{"failed", true, false, "", 1, 0, -1, ""}},
		"not found by another's call":            {result: providers.Result{Class: permanent, Code: fetchworker.CodeNotFound}, made: shared, want: want{"failed", true, false, "", 0, 0, -1, ""}},
		"rejected":                               {result: providers.Result{Class: permanent, Code: fetchworker.CodeRejected}, want: want{"failed", true, true, "", 1, 0, 0, ""}},
		"throttled for a moment":                 {result: providers.Result{Class: throttled, RetryAfter: 20 * time.Second}, want: want{calls: 1, wait: 20 * time.Second}},
		"throttled, and longer by the fleet":     {result: providers.Result{Class: throttled, RetryAfter: 20 * time.Second}, hold: 5 * time.Minute, want: want{"waiting", false, false, "", 1, 0, 5 * time.Minute, fetchworker.ReasonThrottled}},
		"throttled for long":                     {result: providers.Result{Class: throttled, RetryAfter: 91 * time.Second}, want: want{"waiting", false, false, "", 1, 0, 91 * time.Second, fetchworker.ReasonThrottled}},
		"throttled, of a kind that needs long":   {result: providers.Result{Class: throttled, MinHold: time.Hour}, want: want{"waiting", false, false, "", 1, 0, time.Hour, fetchworker.ReasonThrottled}},
		"throttled for long, a body to show":     {result: providers.Result{Class: throttled, RetryAfter: time.Hour}, cache: body(time.Minute), want: want{"stale", false, false, "cache", 1, 0, time.Hour, fetchworker.ReasonThrottled}},
		"throttled for a moment, a body to show": {result: providers.Result{Class: throttled, RetryAfter: time.Second}, cache: body(time.Minute), want: want{calls: 1, wait: time.Second}},
		"throttled, a body that will do":         {result: providers.Result{Class: throttled, RetryAfter: time.Hour}, cache: body(time.Minute), maxStale: time.Minute, want: want{"stale", true, false, "cache", 1, 0, -1, ""}},
		"throttled, a body too old":              {result: providers.Result{Class: throttled, RetryAfter: time.Second}, cache: body(2 * time.Hour), maxStale: time.Minute, want: want{calls: 1, wait: time.Second}},
		"pending":                                {result: providers.Result{Class: pending}, want: want{"waiting", false, false, "", 1, 0, time.Second, fetchworker.ReasonPending}},
		"pending, for as long as it says":        {result: providers.Result{Class: pending, RetryAfter: 40 * time.Second}, want: want{"waiting", false, false, "", 1, 0, 40 * time.Second, fetchworker.ReasonPending}},
		"pending, a body to show":                {result: providers.Result{Class: pending}, cache: body(time.Minute), want: want{"stale", false, false, "cache", 1, 0, time.Second, fetchworker.ReasonPending}},
		"unauthorized":                           {result: providers.Result{Class: unauthorized}, want: want{"waiting", false, false, "", 1, 0, time.Second, fetchworker.ReasonUnauthorized}},
		"a failure":                              {result: providers.Result{Class: transient}, want: want{calls: 1, failures: 1, wait: time.Second}, letterFailedAt: 0},
		"a failure, a body to show":              {result: providers.Result{Class: transient}, cache: body(time.Minute), want: want{"stale", false, false, "cache", 1, 1, time.Second, fetchworker.ReasonRetry}},
		"a failure, a body that will do":         {result: providers.Result{Class: transient}, cache: body(time.Minute), maxStale: time.Hour, want: want{"stale", true, false, "cache", 1, 0, -1, ""}},
		"a failure, a body beyond what is shown": {result: providers.Result{Class: transient}, cache: body(2 * time.Hour), want: want{calls: 1, failures: 1, wait: time.Second}},
		"the third":                              {result: providers.Result{Class: transient}, failures: 2, failedBefore: 9 * time.Second, outage: true, want: want{calls: 1, failures: 3, wait: 3 * time.Second}, letterFailedAt: 9 * time.Second},
		"the last":                               {result: providers.Result{Class: transient}, failures: 3, failedBefore: 9 * time.Second, want: want{calls: 1, failures: 4, wait: 0}, letterFailedAt: 9 * time.Second},
		"the last, a body to show":               {result: providers.Result{Class: transient}, failures: 3, failedBefore: 9 * time.Second, cache: body(time.Minute), want: want{calls: 1, failures: 4, wait: 0}, letterFailedAt: 9 * time.Second},
		"the last, in an outage":                 {result: providers.Result{Class: transient}, failures: 3, failedBefore: 9 * time.Second, outage: true, want: want{"waiting", false, false, "", 1, 3, 0, fetchworker.ReasonCircuitOpen}, spareSince: 9 * time.Second},
		"the last, in an outage, a body to show": {result: providers.Result{Class: transient}, failures: 3, failedBefore: 9 * time.Second, outage: true, cache: body(time.Minute), want: want{"stale", false, false, "cache", 1, 3, 0, fetchworker.ReasonCircuitOpen}, spareSince: 9 * time.Second},
		"a probe":                                {result: providers.Result{Class: transient}, made: probe, failures: 1, failedBefore: 9 * time.Second, want: want{"waiting", false, false, "", 1, 1, 0, fetchworker.ReasonCircuitOpen}},
	} {
		t.Run(name, func(t *testing.T) {
			l := dlq.Letter{Identity: fetchworker.Identity{Provider: "p", Operation: "o", Agent: "a", ID: "i"}, Generation: 1, Failures: c.failures}
			if c.failedBefore > 0 {
				l.FirstFailedAt = noon.Add(-c.failedBefore)
			}
			hold := time.Time{}
			if c.hold > 0 {
				hold = noon.Add(c.hold)
			}
			e := decide(facts{
				letter: l, result: &c.result, made: c.made, now: noon, retries: 3, cache: c.cache, maxStale: c.maxStale, stale: time.Hour,
				retryWait: func(n int) time.Duration { return time.Duration(n) * time.Second },
				hold:      func() time.Time { return hold },
				outage:    func(time.Time) bool { return c.outage },
				circuit:   func() *budget.ClosedError { return nil },
			})
			w := c.want
			switch {
			case e.answer == nil && w.status != "", e.answer != nil && w.status == "":
				t.Fatalf("answer %+v", e.answer)
			case e.answer != nil:
				a := e.answer
				reason := a.Reason
				if a.Problem != nil {
					reason = a.Problem.Reason()
				}
				if a.Status != w.status || a.Final != w.final || a.Review != w.review || a.Source != w.source || a.Calls != w.calls || a.Failures != w.failures || reason != w.reason {
					t.Errorf("answer %+v, reason %q", a, reason)
				}
				if a.Status == fetchworker.StatusOK && c.made == shared && a.Age != noon.Sub(c.result.FetchedAt) {
					t.Errorf("the body of another's call is %v old", a.Age)
				}
			}
			switch {
			case e.letter == nil && w.wait >= 0, e.letter != nil && w.wait < 0:
				t.Fatalf("letter %+v", e.letter)
			case e.letter != nil:
				if wait := e.letter.NotBefore.Sub(noon); wait != w.wait || e.letter.Calls != w.calls || e.letter.Failures != w.failures {
					t.Errorf("letter: wait %v, %d calls, %d failures", wait, e.letter.Calls, e.letter.Failures)
				}
				if w.failures > c.failures && !e.letter.FirstFailedAt.Equal(noon.Add(-c.letterFailedAt)) {
					t.Errorf("failed first at %v", e.letter.FirstFailedAt)
				}
				if n := len(e.letter.History); n != 1 || e.letter.History[0].Class != c.result.Class {
					t.Errorf("history %+v", e.letter.History)
				}
			}
			if spared := !e.spare.IsZero(); spared != (c.spareSince > 0) || spared && !e.spare.Equal(noon.Add(-c.spareSince)) {
				t.Errorf("spared since %v", e.spare)
			}
		})
	}
}

// TestHowLongARefusedKeyWaits doubles from a second to a quarter of an hour,
// counts refusals in a row only, and so does the wait for what is computed.
func TestHowLongARefusedKeyWaits(t *testing.T) {
	of := func(classes ...wire.Class) (h []dlq.Attempt) {
		for _, c := range classes {
			h = append(h, dlq.Attempt{Class: c})
		}
		return h
	}
	row := func(class wire.Class, n int) []dlq.Attempt {
		var h []dlq.Attempt
		for range min(n, dlq.HistoryKept) {
			h = append(h, dlq.Attempt{Class: class})
		}
		return h
	}
	const u, p, x = wire.ClassUnauthorized, wire.ClassPending, wire.ClassTransient
	for n := 1; n <= 12; n++ {
		want := min(time.Second<<(n-1), longestRetry)
		if n >= dlq.HistoryKept {
			want = longestRetry
		}
		if got := unauthorizedWait(row(u, n)); got != want {
			t.Errorf("refused %d times: %v, want %v", n, got, want)
		}
		if got, want := pendingWait(0, row(p, n)), min(time.Second<<(n-1), time.Minute); got != want {
			t.Errorf("pending %d times: %v, want %v", n, got, want)
		}
	}
	if got := unauthorizedWait(of(u, u, u, x, u, u)); got != 2*time.Second {
		t.Errorf("after another end: %v", got)
	}
	if got := pendingWait(0, of(p, p, p, x, p, p)); got != 2*time.Second {
		t.Errorf("pending after another end: %v", got)
	}
	if got := unauthorizedWait(append(of(x), append(row(u, 9), row(u, 9)...)...)); got != longestRetry {
		t.Errorf("a history longer than we keep: %v", got)
	}
	if got := pendingWait(7*time.Second, row(p, 9)); got != 7*time.Second {
		t.Errorf("what is asked for: %v", got)
	}
}

// requestOf is one that has come as far as its permit.
func requestOf(lane fetchworker.Lane, generation int, e *cache.Entry, maxStale *time.Duration) *request {
	r := &request{Letter: dlq.Letter{Identity: fetchworker.Identity{Provider: "p", Operation: "o", Agent: "a", ID: "i"}, Lane: lane, Generation: generation}}
	r.call = &providers.Call{Operation: &sheet.Operation{Stale: time.Hour}}
	r.cache = e
	if maxStale != nil {
		d := fetchworker.Duration(*maxStale)
		r.asked.MaxStale = &d
	}
	return r
}

// TestBeyondBudget: who may still be called as the month's bytes run out, and
// what the others get.
func TestBeyondBudget(t *testing.T) {
	body := &cache.Entry{FetchedAt: noon.Add(-time.Minute), Body: []byte("[1]")}
	none, two := time.Duration(0), 2*time.Minute
	for name, c := range map[string]struct {
		r           *request
		used, limit int64
		status      fetchworker.Status // "": it may be called
		review      bool
	}{
		"no budget":                          {requestOf(fetchworker.LaneBatch, 1, nil, nil), 1000, 0, "", false},
		"enough left":                        {requestOf(fetchworker.LaneBatch, 1, nil, nil), 949, 1000, "", false},
		"batch near the end":                 {requestOf(fetchworker.LaneBatch, 1, nil, nil), 950, 1000, "failed", false},
		"interactive near the end":           {requestOf(fetchworker.LaneInteractive, 1, nil, nil), 999, 1000, "", false},
		"interactive at the end":             {requestOf(fetchworker.LaneInteractive, 1, nil, nil), 1000, 1000, "failed", false},
		"a body that may be shown":           {requestOf(fetchworker.LaneInteractive, 1, body, nil), 950, 1000, "stale", false},
		"one as old as the agent accepts":    {requestOf(fetchworker.LaneBatch, 1, body, &two), 1000, 1000, "stale", false},
		"one that the agent does not accept": {requestOf(fetchworker.LaneBatch, 1, body, &none), 1000, 1000, "failed", false},
		"a life that a person began":         {requestOf(fetchworker.LaneBatch, 2, nil, nil), 1000, 1000, "failed", true},
	} {
		e, over := beyondBudget(c.r, c.used, c.limit, noon)
		switch {
		case over != (c.status != ""):
			t.Errorf("%s: over %t", name, over)
		case over && (e.answer.Status != c.status || !e.answer.Final || e.answer.Review != c.review || (e.letter != nil) != c.review):
			t.Errorf("%s: %+v, letter %+v", name, e.answer, e.letter)
		}
	}
}

// TestParkedWaitsForItsGate: no failure is counted, the time is the gate's, and
// the class is what the replayer releases it by.
func TestParkedWaitsForItsGate(t *testing.T) {
	hour := time.Hour
	body := &cache.Entry{FetchedAt: noon.Add(-time.Minute), Body: []byte("[1]")}
	for reason, class := range map[fetchworker.Reason]wire.Class{
		fetchworker.ReasonPaused: wire.ClassPaused, fetchworker.ReasonThrottled: wire.ClassThrottled,
		fetchworker.ReasonQuota: wire.ClassQuota, fetchworker.ReasonCircuitOpen: wire.ClassCircuitOpen,
	} {
		by := &budget.ClosedError{Reason: reason, Until: noon.Add(10 * time.Minute)}
		r := requestOf(fetchworker.LaneBatch, 1, nil, nil)
		r.Failures = 2
		e := parked(r, by, noon)
		if e.letter == nil || e.letter.Class != class || !e.letter.NotBefore.Equal(by.Until) || e.letter.Failures != 2 || e.answer.Status != fetchworker.StatusWaiting || e.answer.Problem.Reason() != reason || !e.answer.Problem.RetryAt.Equal(by.Until) {
			t.Errorf("%s: letter %+v, answer %+v", reason, e.letter, e.answer)
		}
		if e := parked(requestOf(fetchworker.LaneBatch, 1, body, nil), by, noon); e.letter == nil || e.answer.Status != fetchworker.StatusStale || e.answer.Final || e.answer.Reason != reason {
			t.Errorf("%s, a body to show: %+v", reason, e.answer)
		}
		if e := parked(requestOf(fetchworker.LaneBatch, 1, body, &hour), by, noon); e.letter != nil || e.answer.Status != fetchworker.StatusStale || !e.answer.Final {
			t.Errorf("%s, a body that will do: %+v", reason, e.answer)
		}
	}
	past := parked(requestOf(fetchworker.LaneBatch, 1, nil, nil), &budget.ClosedError{Reason: fetchworker.ReasonPaused}, noon)
	if !past.letter.NotBefore.Equal(noon) {
		t.Errorf("until nobody knows: not before %v", past.letter.NotBefore)
	}
}
