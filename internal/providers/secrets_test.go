package providers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"fetchworker/internal/providers"
	"fetchworker/internal/providers/call"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// The key is in nothing that can be printed, logged or stored, however a
// call ends.
func TestNoKeyAnywhere(t *testing.T) {
	forms := []string{key, url.QueryEscape(key), strings.NewReplacer("%2F", "%2f", "%2B", "%2b").Replace(url.QueryEscape(key)), url.QueryEscape(url.QueryEscape(key)), url.PathEscape(key), `canary\/K3Y+with\u0026escapes`}
	everywhere := strings.Join(forms, " ")
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect was followed: %s", r.URL)
	}))
	defer elsewhere.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = zap.NewStdLog(zap.NewNop()) // it complains of clients that do not trust it
	secure.StartTLS()
	defer secure.Close()

	text := http.Header{"Content-Type": {"text/plain"}}
	steps := map[string]providertest.Step{
		"echo in a success":         providertest.JSON(200, fmt.Sprintf(`[{"url":%q,"status":"ok"}]`, everywhere)),
		"echo in an error":          providertest.JSON(403, fmt.Sprintf(`{"Error Message":"no %[1]s","error":"no %[1]s","error_message":"no %[1]s","message":"no %[1]s"}`, strings.ReplaceAll(everywhere, `\`, `\\`))),
		"echo at the cut of detail": {Status: 404, Header: text, Body: []byte(strings.Repeat("x", 370) + key + strings.Repeat("y", 100))},
		"echo in a plain text":      {Status: 402, Header: text, Body: []byte("Restricted Endpoint: " + everywhere)},
		"echo in headers":           {Status: 200, Header: http.Header{"Content-Type": {"text/plain;" + key}, "Etag": {`"` + key + `"`}, "Last-Modified": {key}}, Body: []byte(`[1]`)},
		"echo in an encoding":       {Status: 200, Raw: true, Header: http.Header{"Content-Encoding": {key}}, Body: []byte(`[1]`)},
		"echo in the next page":     providertest.JSON(200, `{"next_url":"https://x.test/v3/reference/tickers?cursor=`+url.QueryEscape(key)+`&apiKey=`+url.QueryEscape(key)+`"}`),
		"redirect":                  {Status: 302, Header: http.Header{"Location": {elsewhere.URL + "/?apikey=" + url.QueryEscape(key)}}},
		"redirect to nowhere":       {Status: 301, Header: http.Header{"Location": {"http://%zz/" + key}}},
		"redirect on the host":      {Status: 307, Header: http.Header{"Location": {"/x?k=" + url.QueryEscape(key)}}},
		"broken before the answer":  {Cut: -1},
		"broken in the body":        {Status: 200, Cut: 1, Body: []byte(`[` + key)},
		"wrong length":              {Status: 200, Header: http.Header{"Content-Length": {"100"}}, Body: []byte(`["` + key)},
		"bad body":                  providertest.JSON(200, `{"`+key),
		"page of HTML":              {Status: 500, Body: []byte("<html>" + everywhere)},
	}
	for _, generation := range all {
		for name, step := range steps {
			t.Run(generation+"/"+name, func(t *testing.T) {
				p, server := play(t, generation, nil)
				server.Script(step)
				operation, params := "get", `{"path":"/x"}`
				if p.Name == "polygon" {
					operation, params = "tickers", `{}`
				}
				r := p.Do(t.Context(), plan(t, p, operation, params), providers.Options{})
				noKeyIn(t, p, r)
				if strings.HasPrefix(name, "echo in a success") && (!r.Redacted || r.Class != wire.ClassOK || !json.Valid(r.Body)) {
					t.Errorf("redacted %v, class %s, body %s", r.Redacted, r.Class, r.Body)
				}
				if strings.HasPrefix(name, "redirect") && (r.Class != wire.ClassTransient || !strings.Contains(r.Detail, "not followed")) {
					t.Errorf("%s %s", r.Class, r.Detail)
				}
				if name != "echo in a success" && name != "echo in headers" && name != "echo in the next page" && r.Class == wire.ClassOK {
					t.Error("this is no success")
				}
			})
		}

		name := strings.TrimSuffix(generation, "-stable")
		refuse := func(context.Context, string, string) (net.Conn, error) {
			return nil, fmt.Errorf("proxy says no to %s: %w", everywhere, errCanary)
		}
		unknown := func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: everywhere, IsNotFound: true}}
		}
		dials := map[string]func(context.Context, string, string) (net.Conn, error){"dialler's own": refuse, "no such host": unknown}
		for how, vars := range map[string]map[string]string{
			"refused":        {prefixes[name] + "_BASE_URL": "http://127.0.0.1:1" + basePaths[generation]},
			"no such host":   {},
			"no certificate": {prefixes[name] + "_BASE_URL": secure.URL + basePaths[generation]},
			"no TLS":         {prefixes[name] + "_BASE_URL": strings.Replace(elsewhere.URL, "http:", "https:", 1) + basePaths[generation]},
			"dialler's own":  {},
		} {
			t.Run(generation+"/"+how, func(t *testing.T) {
				vars[prefixes[name]+"_API_KEY"] = key
				var options []providers.Option
				if dial := dials[how]; dial != nil {
					options = append(options, providers.WithDial(dial))
				}
				p, _ := load(t, vars, options...).Provider(name)
				r := p.Do(t.Context(), plan(t, p, "get", `{"path":"/x"}`), providers.Options{})
				noKeyIn(t, p, r)
				if r.Class != wire.ClassTransient || r.ErrorType != "network" || r.Sent || r.Err == nil || r.HTTPStatus != 0 {
					t.Errorf("%s %s %s, sent %v, status %d", r.Class, r.ErrorType, r.Detail, r.Sent, r.HTTPStatus)
				}
				if how == "dialler's own" && !errors.Is(r.Err, errCanary) {
					t.Errorf("%v hides what it was made of", r.Err)
				}
			})
		}
	}
}

var errCanary = errors.New("refused with " + key)

// noKeyIn looks at everything that can be printed of a result.
func noKeyIn(t *testing.T, p *providers.Provider, r *providers.Result) {
	t.Helper()
	var printed bytes.Buffer
	for _, value := range []any{r, *r, r.Err, p, *p, p.Spec, p.Operations} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			fmt.Fprintf(&printed, verb+"\n", value)
		}
	}
	for err := r.Err; err != nil; err = errors.Unwrap(err) {
		fmt.Fprintf(&printed, "%v %+v %#v\n", err, err, err)
	}
	fmt.Fprintf(&printed, "%s %s %s", r.Body, r.Next, r.Detail)
	for _, part := range []string{"canary", "K3Y", "with&esc", "with%26esc"} {
		if i := strings.Index(printed.String(), part); i >= 0 {
			t.Fatalf("the key shows: …%s…", printed.String()[max(0, i-60):min(printed.Len(), i+60)])
		}
	}
}

// A placeholder is not a key: it must not damage every answer that has the
// word in it.
func TestShortKeysDamageNothing(t *testing.T) {
	p, server := play(t, "fmp", map[string]string{"FMP_API_KEY": "demo"})
	const body = `[{"sector":"demography"}]`
	server.Script(providertest.JSON(200, body))
	if r := p.Do(t.Context(), plan(t, p, "quote", `{"symbol":"AAPL"}`), providers.Options{}); string(r.Body) != body || r.Redacted {
		t.Errorf("%s, redacted %v", r.Body, r.Redacted)
	}
}

// A recording has no key, no cookie, and is what a server can play again.
func TestRecord(t *testing.T) {
	p, server := play(t, "fmp", nil)
	server.Script(providertest.Step{
		Status: 200, Body: []byte(`[{"echo":"` + key + `"}]`),
		Header: http.Header{"Content-Type": {"application/json"}, "Etag": {`W/"1"`}, "Set-Cookie": {"session=1"}, "X-Request-Id": {"7"}, "Retry-After": {"5"}},
	})
	var out bytes.Buffer
	r, err := p.Record(t.Context(), plan(t, p, "quote", `{"symbol":"AAPL"}`), &out)
	if err != nil || !r.Redacted {
		t.Fatalf("%v, redacted %v", err, r.Redacted)
	}
	const want = "GET /api/v3/quote/AAPL\n200\nContent-Type: application/json\nEtag: W/\"1\"\nRetry-After: 5\n\n[{\"echo\":\"REDACTED\"}]"
	if out.String() != want {
		t.Errorf("recorded\n%s\nwant\n%s", out.String(), want)
	}
	e, err := call.ParseExchange("x", out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	again, err := providertest.Listen(e)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	q, _ := load(t, map[string]string{"FMP_API_KEY": key, "FMP_BASE_URL": again.URL() + "/api/v3"}).Provider("fmp")
	if r := q.Do(t.Context(), plan(t, q, "quote", `{"symbol":"AAPL"}`), providers.Options{}); string(r.Body) != `[{"echo":"REDACTED"}]` || r.RetryAfter != 5*time.Second {
		t.Errorf("played again: %s %v", r.Body, r.RetryAfter)
	}

	server.SetDown(true)
	out.Reset()
	if _, err := p.Record(t.Context(), plan(t, p, "quote", `{"symbol":"AAPL"}`), &out); err == nil || out.Len() > 0 || strings.Contains(err.Error(), "canary") {
		t.Errorf("no answer: %v, wrote %q", err, out.String())
	}
	server.SetDown(false)
	if _, err := p.Record(t.Context(), plan(t, p, "quote", `{"symbol":"AAPL"}`), failingWriter{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a writer that fails: %v", err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestParseExchangeRefuses(t *testing.T) {
	for content, want := range map[string]string{
		"":                             "x: expected",
		"GET /a\n200\n":                "x: expected",
		"GET /a\n\n{}":                 "x: expected",
		"PUT /a\n200\n\n{}":            "x:1: expected",
		"GET /a\n> {}\n200\n\n{}":      "x:2: expected",
		"GET a\n200\n\n{}":             "x:1: expected",
		"# note\nGET /a\n2000\n\n{}":   "x:3: expected",
		"GET /a\n200\nno header\n\n{}": "x:3: expected",
	} {
		if _, err := call.ParseExchange("x", []byte(content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
}
