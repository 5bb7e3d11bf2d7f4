package fetch_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// What a provider, or what stands before it, sends, played through the whole
// worker: what comes of it, and how many calls that costs.
func TestWhatStandsInTheWayIsNotTheProvidersWord(t *testing.T) {
	page := func(status int, contentType, body string) providertest.Step {
		return providertest.Step{Status: status, Header: http.Header{"Content-Type": {contentType}}, Body: []byte(body)}
	}
	plain := func(status int, body string) providertest.Step { return page(status, "text/plain", body) }
	const foreign, odd = "not in the provider's own words", ""
	const xhtml = `<?xml version="1.0"?><!-- x --><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "x"><html xmlns="http://www.w3.org/1999/xhtml"><body>blocked</body></html>`
	for name, test := range map[string]struct {
		step   providertest.Step
		detail string // begins
	}{
		"a firewall's text":     {plain(403, "error code: 1010"), foreign},
		"a firewall's page":     {page(403, "text/html", "<!DOCTYPE html><html><body>Just a moment...</body></html>"), foreign},
		"a route that is gone":  {plain(404, "404 page not found"), foreign},
		"a gateway's words":     {providertest.JSON(403, `{"message":"Forbidden"}`), foreign},
		"no words at all":       {providertest.Step{Status: 403}, foreign},
		"a proxy":               {providertest.JSON(407, `{"Error Message":"x"}`), foreign},
		"a page as a success":   {page(200, "text/html", "<html><body>captive</body></html>"), foreign},
		"XHTML as XML":          {page(200, "text/xml", xhtml), foreign},
		"XHTML by its type":     {page(200, "application/xhtml+xml", xhtml), foreign},
		"a login page":          {page(401, "text/html", "<html><body>sign in</body></html>"), foreign},
		"a bad gateway":         {page(502, "text/html", "<html><body>Bad Gateway</body></html>"), foreign},
		"gzip that is none":     {providertest.Step{Status: 200, Raw: true, Header: http.Header{"Content-Encoding": {"gzip"}}, Body: []byte(`[{"symbol":"AAPL"}]`)}, odd},
		"brotli unasked":        {providertest.Step{Status: 200, Header: http.Header{"Content-Encoding": {"br"}}, Body: []byte(`[1]`)}, odd},
		"words as a success":    {plain(200, "one moment, please\nwe are busy, too\n"), odd},
		"accepted":              {providertest.JSON(202, `{"status":"computing"}`), odd},
		"nothing":               {providertest.Step{Status: 204}, odd},
		"a part":                {providertest.JSON(206, `[{"symbol":"AAPL"}]`), odd},
		"a redirect":            {providertest.Step{Status: 302, Header: http.Header{"Location": {"/login"}}}, odd},
		"a misdirected request": {providertest.JSON(421, `{"Error Message":"x"}`), odd},
		"locked":                {providertest.JSON(423, `{"Error Message":"x"}`), odd},
		"too early":             {providertest.JSON(425, `{"Error Message":"x"}`), odd},
		"a failed condition":    {providertest.JSON(412, `{"Error Message":"x"}`), odd},
		"a joke":                {providertest.JSON(418, `{"teapot":true}`), foreign},
		"a missing page":        {page(404, "text/html", "<html><title>404</title></html>"), foreign},
		"an unasked 304":        {providertest.Step{Status: 304}, odd},
		"two documents":         {providertest.JSON(200, `[{"symbol":"AAPL"}][{"symbol":"AAPL"}]`), odd},
		"no number":             {providertest.JSON(200, `NaN`), odd},
		"XML":                   {page(200, "application/xml", `<?xml version="1.0"?><e>blocked</e>`), odd},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.well()
				r.upstream.Script(test.step)
				defer r.whole(1, 1)()
				id := r.quote("alice", "q", "AAPL", "")
				a := r.final(id, 30*time.Second)
				if a.Status != fetchworker.StatusOK || a.Calls != 2 || a.Failures != 1 || len(r.upstream.Calls()) != 2 {
					t.Errorf("%s after %d calls (%d at the provider), %d failures", a.Status, a.Calls, len(r.upstream.Calls()), a.Failures)
				}
				if n := r.count(wire.StreamReview); n != 0 {
					t.Errorf("%d review items", n)
				}
				if !strings.Contains(r.logs.String(), test.detail) {
					t.Errorf("nothing logged begins %q: %s", test.detail, r.logs)
				}
			})
		})
	}
}

// What is odd opens no circuit: only these calls wait.
func TestOddAnswersOpenNoCircuit(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		well, empty := respond(200, aapl), respond(202, `{}`)
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			if strings.Contains(q.URL.Path, "ODD") {
				return empty(q)
			}
			return well(q)
		}
		defer r.whole(1, 1)()
		for _, symbol := range []string{"ODD1", "ODD2", "ODD3", "ODD4"} {
			r.quote("bob", symbol, symbol, "")
		}
		time.Sleep(1500 * time.Millisecond)
		if a := r.final(r.quote("alice", "q", "AAPL", ""), time.Second); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v", a)
		}
	})
}

// Who asks to come back later is left alone by the whole fleet, whatever the
// status says it with.
func TestComeBackLater(t *testing.T) {
	for _, test := range []struct {
		step providertest.Step
		wait time.Duration
	}{
		{providertest.Step{Status: 503, Header: http.Header{"Retry-After": {"300"}}}, 300 * time.Second},
		{providertest.Step{Status: 503, Header: http.Header{"Retry-After": {"1800"}}, Body: []byte("<html><body>maintenance</body></html>")}, 1800 * time.Second},
		{providertest.Step{Status: 529, Header: http.Header{"Retry-After": {"30"}}}, 30 * time.Second},
		{providertest.Step{Status: 529}, time.Second},
		{providertest.Step{Status: 429, Header: http.Header{"Retry-After": {"4", "600"}}}, 600 * time.Second},
		{providertest.Step{Status: 429, Header: http.Header{"Retry-After": {"9999999999"}}}, 15 * time.Minute},
		{providertest.Step{Status: 429, Header: http.Header{"X-Ratelimit-Reset": {"20"}}}, 20 * time.Second},
		{providertest.Step{Status: 429, Header: http.Header{"Ratelimit": {`"default";r=0;t=20`}}}, 20 * time.Second},
	} {
		if testing.Short() && test.wait > time.Minute {
			continue
		}
		inBubble(t, func(t *testing.T, r *rig) {
			r.well()
			r.upstream.Script(test.step)
			defer r.whole(2, 1)()
			first := r.quote("alice", "q", "AAPL", "")
			time.Sleep(500 * time.Millisecond)
			second := r.quote("bob", "q", "MSFT", "")
			for _, id := range []fetchworker.Identity{first, second} {
				if a := r.final(id, test.wait+30*time.Second); a.Status != fetchworker.StatusOK || a.Failures != 0 {
					t.Errorf("%d %v: %+v", test.step.Status, test.step.Header, a)
				}
			}
			calls := r.upstream.Calls()
			if held := calls[1].At.Sub(calls[0].At); len(calls) != 3 || held < test.wait*8/10 || held > test.wait*12/10+12*time.Second {
				t.Errorf("%d %v: %d calls, the second after %v, want %v", test.step.Status, test.step.Header, len(calls), held, test.wait)
			}
		})
	}
}

// jobs is a provider whose answers take time to compute.
const jobs = `
providers:
  jobs:
    base_url: http://upstream.test
    auth: none
    errors: [{status: 202, class: pending}]
    operations:
      report: {path: '/reports/{name}', params: {name: {required: true}}, fresh: 1h}
`

// An answer that is being computed is asked for again until it is there, and
// nothing else waits for it.
func TestAnAnswerThatIsStillComputing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.catalogue(jobs)
		computing := providertest.JSON(202, `{"status":"computing"}`)
		left := 5
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			if strings.HasSuffix(q.URL.Path, "/slow") && left > 0 {
				left--
				return &computing
			}
			return respond(200, `{"status":"done"}`)(q)
		}
		defer r.whole(1, 1)()
		slow := r.ask("fetch.request.jobs.interactive.report.alice", "slow", `{"id":"slow","params":{"name":"slow"}}`)
		a := r.until(slow, 2*time.Second, func(a fetchworker.Answer) bool { return a.Status == fetchworker.StatusWaiting })
		if a.Problem.Reason() != "pending" || a.Reason != "pending" || a.Problem.RetryAt.IsZero() || a.Final {
			t.Errorf("%+v %+v", a, a.Problem)
		}
		other := r.ask("fetch.request.jobs.interactive.report.bob", "quick", `{"id":"quick","params":{"name":"quick"}}`)
		if a := r.final(other, time.Second); a.Status != fetchworker.StatusOK {
			t.Errorf("another waits: %+v", a)
		}
		a = r.final(slow, time.Minute)
		if a.Status != fetchworker.StatusOK || string(a.Body) != `{"status":"done"}` || a.Failures != 0 || a.Calls != 6 {
			t.Errorf("%+v", a)
		}
		var at []time.Time
		for _, call := range r.upstream.Calls() {
			if strings.HasSuffix(call.Target, "/slow") {
				at = append(at, call.At)
			}
		}
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second} {
			if wait := at[i+1].Sub(at[i]); wait < want || wait > want+2*time.Second {
				t.Errorf("question %d came after %v, want %v", i+2, wait, want)
			}
		}
		// What was computing is in no cache.
		if a := r.final(r.ask("fetch.request.jobs.interactive.report.carol", "s2", `{"id":"s2","params":{"name":"slow"}}`), time.Second); a.Source != fetchworker.SourceCache || string(a.Body) != `{"status":"done"}` {
			t.Errorf("%+v", a)
		}
	})
}

// What the provider asks for is how long it is waited, and a request that may
// not live so long ends on time.
func TestPendingAsLongAsTheProviderAsks(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.catalogue(jobs)
		r.upstream.Fallback = func(*http.Request) *providertest.Step {
			return &providertest.Step{Status: 202, Header: http.Header{"Retry-After": {"20"}}, Body: []byte(`{}`)}
		}
		defer r.whole(1, 1)()
		a := r.final(r.ask("fetch.request.jobs.interactive.report.alice", "q", `{"id":"q","ttl":"50s","params":{"name":"x"}}`), time.Minute)
		if a.Problem == nil || a.Problem.Code() != fetchworker.CodeDeadlineExceeded || len(r.upstream.Calls()) != 3 {
			t.Errorf("%d calls, %+v", len(r.upstream.Calls()), a.Problem)
		}
	})
}

// A call that asked whether a body is still right and failed is made again
// without asking.
func TestValidatorsAreACourtesy(t *testing.T) {
	fails := map[string]providertest.Step{
		"412": {Status: 412}, "400": providertest.JSON(400, `{"Error Message":"bad header"}`), "500": providertest.JSON(500, `{}`), "cut": {Cut: -1},
	}
	for name, fail := range fails {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.upstream.Fallback = func(q *http.Request) *providertest.Step {
					if q.Header.Get("If-None-Match") != "" {
						return &fail
					}
					step := providertest.JSON(200, aapl)
					step.Header.Set("Etag", `"v1"`)
					return &step
				}
				defer r.whole(1, 1)()
				r.final(r.quote("alice", "first", "AAPL", ""), 5*time.Second)
				for i, id := range []string{"second", "third"} {
					time.Sleep(time.Second) // what came in the moment of a request is young enough for it
					a := r.final(r.quote("alice", id, "AAPL", `,"max_age":"0s"`), 10*time.Second)
					if a.Status != fetchworker.StatusOK || a.Source != fetchworker.SourceOrigin || a.Calls != 2-i {
						t.Errorf("%s: %s from %s after %d calls", id, a.Status, a.Source, a.Calls)
					}
				}
				if n := r.count(wire.StreamReview); n != 0 || len(r.upstream.Calls()) != 4 {
					t.Errorf("%d review items, %d calls", n, len(r.upstream.Calls()))
				}
			})
		})
	}
}

// A body is as old as its origin says, now and whenever it is served again.
func TestABodyIsAsOldAsItsOriginSays(t *testing.T) {
	for name, header := range map[string]http.Header{
		"Age":             {"Age": {"240"}},
		"X-Cached-Result": {"X-Cached-Result": {"true"}, "Date": nil},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				up := true
				r.upstream.Fallback = func(*http.Request) *providertest.Step {
					if !up {
						return &providertest.Step{Status: 500}
					}
					step := providertest.JSON(200, aapl)
					for k, v := range header {
						if k == "Date" {
							v = []string{time.Now().Add(-4 * time.Minute).UTC().Format(http.TimeFormat)}
						}
						step.Header[k] = v
					}
					return &step
				}
				defer r.whole(1, 1)()
				a := r.final(r.quote("alice", "first", "AAPL", `,"max_age":"1m"`), 5*time.Second)
				if a.Source != fetchworker.SourceOrigin || a.Age < 4*time.Minute || a.Age > 5*time.Minute || time.Since(a.FetchedAt) < 4*time.Minute {
					t.Errorf("%s, %v old, fetched at %v", a.Source, a.Age, a.FetchedAt)
				}
				time.Sleep(2 * time.Second)
				// It is too old for one who wants it no older than that.
				if a := r.final(r.quote("alice", "second", "AAPL", `,"max_age":"3m"`), 5*time.Second); a.Source != fetchworker.SourceOrigin {
					t.Errorf("max_age 3m: %+v", a)
				}
				up = false
				time.Sleep(2 * time.Minute)
				a = r.until(r.quote("alice", "third", "AAPL", `,"max_stale":"5m"`), 5*time.Second, func(a fetchworker.Answer) bool { return a.Status == fetchworker.StatusStale })
				if a.Final || a.Age < 6*time.Minute {
					t.Errorf("six minutes old and accepted under max_stale 5m: final %v, %v", a.Final, a.Age)
				}
			})
		})
	}
}

// What cannot be kept does not hide what is.
func TestWhatPassesByHidesNothing(t *testing.T) {
	for name, passing := range map[string]providertest.Step{
		"an empty list": providertest.JSON(200, `[]`),
		"no-store":      {Status: 200, Header: http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}}, Body: []byte(aapl)},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.upstream.Fallback = respond(500, `{}`)
				r.upstream.Script(providertest.JSON(200, aapl), passing)
				defer r.whole(1, 1)()
				r.final(r.quote("alice", "first", "AAPL", ""), 5*time.Second)
				time.Sleep(time.Minute)
				r.final(r.quote("alice", "second", "AAPL", `,"max_age":"0s"`), 5*time.Second)
				time.Sleep(time.Minute)
				a := r.final(r.quote("alice", "third", "AAPL", `,"max_age":"0s","max_stale":"1h"`), 10*time.Second)
				if a.Status != fetchworker.StatusStale || string(a.Body) != aapl {
					t.Errorf("%s %s", a.Status, a.Body)
				}
			})
		})
	}
}

// A stale body that is shown meanwhile says why the request waits and until
// when.
func TestAProvisionalAnswerSaysWhyItIsOne(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = respond(500, `{}`)
		r.upstream.Script(providertest.JSON(200, aapl))
		defer r.start(nil)()
		r.final(r.quote("alice", "first", "AAPL", ""), 5*time.Second)
		time.Sleep(time.Minute)
		a := r.until(r.quote("alice", "second", "AAPL", `,"max_age":"0s"`), 5*time.Second, func(fetchworker.Answer) bool { return true })
		if a.Status != fetchworker.StatusStale || a.Final || a.Reason != "retry" || time.Until(a.RetryAt) > 2*time.Second || a.RetryAt.IsZero() {
			t.Errorf("%s, reason %q until %v", a.Status, a.Reason, a.RetryAt)
		}
	})
}

// catalogue is what the workers that start from here on read.
func (r *rig) catalogue(text string) {
	r.t.Helper()
	file := filepath.Join(r.t.TempDir(), "catalog.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.env["FETCH_CATALOG"] = file
}
