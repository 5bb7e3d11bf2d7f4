package call_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/memory"
	"fetchworker/internal/providers/call"
	"fetchworker/internal/providers/classify"
	"fetchworker/internal/providers/plan"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

// of is a caller of an API that is told by a sheet, and a call of its operation.
func of(t *testing.T, spec sheet.Spec, env map[string]string, dial call.DialFunc) (*call.Caller, *plan.Call) {
	t.Helper()
	spec.Name, spec.EnvPrefix, spec.Timeout = "tides", "TIDES", 5*time.Second
	spec.Operations = map[string]*sheet.Operation{"heights": {Name: "heights", Path: "/heights"}}
	api, err := plan.New(spec)
	if err != nil {
		t.Fatal(err)
	}
	planned, err := api.Plan("heights", nil)
	if err != nil {
		t.Fatal(err)
	}
	c := call.New(api, func(name string) string { return env[name] }, dial)
	t.Cleanup(c.Close)
	return c, planned
}

// serve is a server of one answer.
func serve(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	return server.URL
}

// Wherever an error's text is cut, no part of the key is left in what is told.
func TestACutLeavesNoPartOfTheKey(t *testing.T) {
	const key = "k3y-0123456789abcdef"
	for pad := 360; pad < 402; pad++ {
		said := strings.Repeat("x", pad) + key
		c, planned := of(t, sheet.Spec{BaseURL: "http://tides.test", Auth: []sheet.Auth{{Kind: sheet.AuthBearer}}}, map[string]string{"TIDES_API_KEY": key},
			func(context.Context, string, string) (net.Conn, error) { return nil, errors.New(said) })
		r := c.Do(t.Context(), planned, call.Options{})
		if r.Class != wire.ClassTransient || strings.Contains(r.Detail+r.Err.Error(), key[:4]) {
			t.Fatalf("after %d: %s, %v", pad, r.Detail, r.Err)
		}
	}
}

// What an API tells of its counts is believed for the window that it is about, and
// of several counts the least.
func TestOfSeveralCountsTheLeastIsBelieved(t *testing.T) {
	for name, c := range map[string]struct {
		header map[string]string
		left   int
	}{
		"one":                         {map[string]string{"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "50", "X-RateLimit-Reset": "10"}, 50},
		"the least comes last":        {map[string]string{"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "50", "RateLimit-Limit": "100", "RateLimit-Remaining": "20"}, 20},
		"the least comes first":       {map[string]string{"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "5", "RateLimit-Limit": "100", "RateLimit-Remaining": "20"}, 5},
		"of a longer window than any": {map[string]string{"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "5", "X-RateLimit-Reset": "3600"}, -1},
		"of no window of ours":        {map[string]string{"X-RateLimit-Limit": "70", "X-RateLimit-Remaining": "5"}, -1},
		"nothing":                     {nil, -1},
	} {
		url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			for name, value := range c.header {
				w.Header().Set(name, value)
			}
			_, _ = io.WriteString(w, `[1]`)
		})
		caller, planned := of(t, sheet.Spec{BaseURL: url, Auth: []sheet.Auth{{Kind: sheet.AuthNone}}, Limits: ledger.Limits{{N: 100, Per: time.Minute}}}, nil, nil)
		if r := caller.Do(t.Context(), planned, call.Options{}); r.Remaining != c.left {
			t.Errorf("%s: %d left, want %d", name, r.Remaining, c.left)
		}
	}
}

// packed is a body as it comes over the connection.
func packed(body []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(body)
	_ = w.Close()
	return b.Bytes()
}

// What an API echoes of its key is nowhere in a result, in whatever form it was
// sent.
func TestNoFormOfAKeyIsTold(t *testing.T) {
	both := base64.StdEncoding.EncodeToString([]byte("user-0123456:password-0123456"))
	for name, auth := range map[string]sheet.Auth{
		"basic":  {Kind: sheet.AuthBasic, UserEnv: "USER", PasswordEnv: "PASSWORD"},
		"bearer": {Kind: sheet.AuthBearer},
		"header": {Kind: sheet.AuthHeader, Name: "X-Key", Prefix: "Token "},
	} {
		url := serve(t, func(w http.ResponseWriter, r *http.Request) {
			sent := r.Header.Get("Authorization") + r.Header.Get("X-Key")
			w.Header().Set("Etag", `"`+sent+`"`)
			_, _ = fmt.Fprintf(w, `{"sent":%q}`, sent)
		})
		c, planned := of(t, sheet.Spec{BaseURL: url, Auth: []sheet.Auth{auth}}, map[string]string{"USER": "user-0123456", "PASSWORD": "password-0123456", "TIDES_API_KEY": "key-0123456789"}, nil)
		r := c.Do(t.Context(), planned, call.Options{})
		for _, secret := range []string{both, both[:12], "user-0123456", "password-0123456", "key-0123456789"} {
			if strings.Contains(string(r.Body)+r.ETag, secret) {
				t.Errorf("%s: %s %s", name, r.Body, r.ETag)
			}
		}
		if !r.Redacted {
			t.Errorf("%s: nothing was taken out of %s", name, r.Body)
		}
	}
}

// A token is used until shortly before its end, and while nobody refuses it and the
// credentials that it was got for are those in force.
func TestHowLongATokenIsUsed(t *testing.T) {
	for name, c := range map[string]struct {
		lasts   int // seconds
		refused bool
		change  string // of these credentials between the calls
		got     int
	}{
		"long":                 {3600, false, "", 1},
		"without an end":       {0, false, "", 1},
		"about to end":         {20, false, "", 3},
		"refused":              {3600, true, "", 3},
		"for another secret":   {3600, false, "SECRET", 3},
		"for another identity": {3600, false, "ID", 3},
	} {
		t.Run(name, func(t *testing.T) {
			got := 0
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/token":
					got++
					w.Header().Set("Content-Type", "application/json")
					_, _ = fmt.Fprintf(w, `{"access_token":"token-%d-0123","token_type":"bearer","expires_in":%d}`, got, c.lasts)
				case r.Header.Get("Authorization") != fmt.Sprintf("Bearer token-%d-0123", got):
					t.Errorf("sent %q of %d", r.Header.Get("Authorization"), got)
				case c.refused:
					w.WriteHeader(http.StatusUnauthorized)
				default:
					_, _ = io.WriteString(w, `[1]`)
				}
			}))
			defer server.Close()
			env := map[string]string{"ID": "id-0123", "SECRET": "secret-0123"}
			caller, planned := of(t, sheet.Spec{BaseURL: server.URL, Auth: []sheet.Auth{{
				Kind: sheet.AuthOAuth2, TokenURL: server.URL + "/token", ClientIDEnv: "ID", ClientSecretEnv: "SECRET",
			}}}, env, nil)
			pool := x509.NewCertPool()
			pool.AddCert(server.Certificate())
			call.Trust(caller, pool)
			for n := range 3 {
				if c.change != "" {
					env[c.change] = fmt.Sprint("changed-", n)
				}
				r := caller.Do(t.Context(), planned, call.Options{})
				if want := map[bool]wire.Class{false: wire.ClassOK, true: wire.ClassUnauthorized}[c.refused]; r.Class != want {
					t.Fatalf("%s: %s", r.Class, r.Detail)
				}
			}
			if got != c.got {
				t.Errorf("%d tokens were got, want %d", got, c.got)
			}
		})
	}
}

// What the address of a token answers is no word about the key unless it says
// so, and where it redirects to is told no secret.
func TestWhatATokensAddressAnswers(t *testing.T) {
	for status, want := range map[int]wire.Class{
		400: wire.ClassUnauthorized, 401: wire.ClassUnauthorized, 403: wire.ClassUnauthorized,
		302: wire.ClassTransient, 307: wire.ClassTransient, 429: wire.ClassTransient, 500: wire.ClassTransient, 503: wire.ClassTransient,
	} {
		asked := 0
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			if r.URL.Path != "/token" {
				t.Errorf("%d: %s is asked for", status, r.URL)
			}
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
		}))
		caller, planned := of(t, sheet.Spec{BaseURL: server.URL, Auth: []sheet.Auth{{
			Kind: sheet.AuthOAuth2, TokenURL: server.URL + "/token", ClientIDEnv: "ID", ClientSecretEnv: "SECRET",
		}}}, map[string]string{"ID": "id-0123", "SECRET": "secret-0123"}, nil)
		pool := x509.NewCertPool()
		pool.AddCert(server.Certificate())
		call.Trust(caller, pool)
		if r := caller.Do(t.Context(), planned, call.Options{}); r.Class != want || r.Sent || asked > 2 {
			t.Errorf("%d: %s, sent %t, asked %d times: %s", status, r.Class, r.Sent, asked, r.Detail)
		}
		server.Close()
	}
}

// Of an error as much is read as people look at, however long it is.
func TestAnErrorIsReadOnlySoFar(t *testing.T) {
	const long = 3 << 20
	for status, most := range map[int]int{500: 1 << 20, 404: 1 << 20, 302: 1 << 20, 200: long} {
		url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `"`+strings.Repeat("x", long-2)+`"`)
		})
		caller, planned := of(t, sheet.Spec{BaseURL: url, Auth: []sheet.Auth{{Kind: sheet.AuthNone}}}, nil, nil)
		r := caller.Do(t.Context(), planned, call.Options{})
		if len(r.Body) > most || r.HTTPStatus != status || status == 200 && len(r.Body) != long {
			t.Errorf("%d: %d bytes are kept", status, len(r.Body))
		}
	}
}

// What a sheet says of an API's counts is done, and what it does not say is looked
// for where most tell it.
func TestWhatASheetSaysOfCounts(t *testing.T) {
	usual := map[string]string{"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "50", "X-RateLimit-Reset": "10"}
	own := map[string]string{"X-Quota": "100", "X-Left": "7", "X-Again": "20", "X-RateLimit-Remaining": "50"}
	for name, c := range map[string]struct {
		sheet  *sheet.RateHeaders
		header map[string]string
		status int
		left   int
		window time.Duration
		wait   time.Duration // that is asked for
	}{
		"nothing":                       {nil, usual, 200, 50, time.Minute, 0},
		"nothing, and it is throttled":  {nil, usual, 429, 50, time.Minute, 10 * time.Second},
		"that none is to be believed":   {&sheet.RateHeaders{Off: true}, usual, 200, -1, 0, 0},
		"other names":                   {&sheet.RateHeaders{Limit: "X-Quota", Remaining: "X-Left", Reset: "X-Again"}, own, 200, 7, time.Minute, 0},
		"other names, throttled":        {&sheet.RateHeaders{Limit: "X-Quota", Remaining: "X-Left", Reset: "X-Again"}, own, 429, 7, time.Minute, 20 * time.Second},
		"one other name":                {&sheet.RateHeaders{Remaining: "X-Left"}, map[string]string{"X-RateLimit-Limit": "100", "X-Left": "7"}, 200, 7, time.Minute, 0},
		"other names that are not sent": {&sheet.RateHeaders{Remaining: "X-Left"}, usual, 200, -1, 0, 0},
		"the window":                    {&sheet.RateHeaders{Window: time.Hour}, usual, 200, 50, time.Hour, 0},
		"a window that is too short":    {&sheet.RateHeaders{Window: time.Minute}, map[string]string{"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "50", "X-RateLimit-Reset": "3600"}, 200, -1, 0, 0},
		"names and a window":            {&sheet.RateHeaders{Remaining: "X-Left", Reset: "X-Again", Window: time.Hour}, own, 200, 7, time.Hour, 0},
	} {
		url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			for name, value := range c.header {
				w.Header().Set(name, value)
			}
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, `[1]`)
		})
		caller, planned := of(t, sheet.Spec{
			BaseURL: url, Auth: []sheet.Auth{{Kind: sheet.AuthNone}}, RateHeaders: c.sheet,
			Limits: ledger.Limits{{N: 100, Per: time.Minute}, {N: 1000, Per: time.Hour}},
		}, nil, nil)
		r := caller.Do(t.Context(), planned, call.Options{})
		if r.Remaining != c.left || r.Window != c.window || r.RetryAfter != c.wait {
			t.Errorf("%s: %d left in %v, waits for %v; want %d, %v, %v", name, r.Remaining, r.Window, r.RetryAfter, c.left, c.window, c.wait)
		}
	}
}

// No secret of a sheet is told, wherever it is written and wherever the API or an
// agent repeats it: in a result, an address that is shown, or a recording.
func TestNoSecretOfASheetIsTold(t *testing.T) {
	secrets := []string{"key-0123456789", "fixed-0123456789", "header-0123456789", "own-0123456789", "inner-9876543210"}
	key, fixed, header, own, ownHeader := secrets[0], secrets[1], secrets[2], secrets[3], secrets[4]
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		sent, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, `{"target":%q,"header":%q,"sent":%q,"keys":["%s"]}`, r.URL, fmt.Sprint(r.Header), sent, strings.Join(secrets, `","`))
	})
	spec := sheet.Spec{
		Name: "tides", EnvPrefix: "TIDES", Timeout: 5 * time.Second, BaseURL: url, Auth: []sheet.Auth{{Kind: sheet.AuthQuery, Name: "apikey"}},
		Query: map[string]string{"token": fixed}, Header: map[string]string{"X-Secret": "Bearer " + header},
		Operations: map[string]*sheet.Operation{
			"heights": {
				Name: "heights", Path: "/heights/{of}", Query: map[string]string{"secret": own}, Header: map[string]string{"X-Token": ownHeader},
				Params: []sheet.Param{{Name: "of", Type: sheet.TypeString, Required: true}, {Name: "q", Type: sheet.TypeString}},
			},
			"search": {
				Name: "search", Path: "/heights/{of}", Method: http.MethodPost, ReadsOnly: true, Body: sheet.BodyJSON,
				Params: []sheet.Param{{Name: "of", Type: sheet.TypeString, Required: true}, {Name: "q", Type: sheet.TypeString, At: "/q"}},
			},
			"form": {
				Name: "form", Path: "/heights/{of}", Method: http.MethodPost, ReadsOnly: true, Body: sheet.BodyForm,
				Params: []sheet.Param{{Name: "of", Type: sheet.TypeString, Required: true}, {Name: "q", Type: sheet.TypeString, At: "/q"}},
			},
		},
	}
	api, err := plan.New(spec)
	if err != nil {
		t.Fatal(err)
	}
	caller := call.New(api, func(string) string { return key }, nil)
	defer caller.Close()
	for i, secret := range slices.Repeat(secrets, 3) {
		planned, err := api.Plan([]string{"heights", "search", "form"}[i/len(secrets)], []byte(fmt.Sprintf(`{"of":%q,"q":%q}`, secret, secret)))
		if err != nil {
			t.Fatal(err)
		}
		var recorded strings.Builder
		r, err := caller.Record(t.Context(), planned, &recorded)
		if err != nil || r.Class != wire.ClassOK || !r.Redacted {
			t.Fatalf("%s: %v", r.Class, err)
		}
		for where, text := range map[string]string{"the body": string(r.Body), "the address": caller.URL(planned).String(), "the recording": recorded.String()} {
			for _, secret := range secrets {
				if strings.Contains(text, secret) {
					t.Errorf("%s is in %s: %s", secret, where, text)
				}
			}
			if !strings.Contains(text, "heights") {
				t.Errorf("%s: %s", where, text)
			}
		}
	}
}

// A body is as old as it says and as its way took.
func TestTheWayIsPartOfTheAge(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(50 * time.Millisecond)
		w.Header().Set("Age", "5")
		_, _ = io.WriteString(w, `[1]`)
	})
	c, planned := of(t, sheet.Spec{BaseURL: url, Auth: []sheet.Auth{{Kind: sheet.AuthNone}}}, nil, nil)
	if r := c.Do(t.Context(), planned, call.Options{}); r.Age < 5*time.Second+50*time.Millisecond || r.Age > 5*time.Second+r.Latency {
		t.Errorf("%v old, after %v", r.Age, r.Latency)
	}
}

// What is no HTTP answer ends a call at once, and is none.
func TestAnAnswerThatHandsTheConnectionOver(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack() //nolint:errcheck,forcetypeassert // of HTTP/1.1
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	})
	c, planned := of(t, sheet.Spec{BaseURL: url, Auth: []sheet.Auth{{Kind: sheet.AuthNone}}}, nil, nil)
	r := c.Do(t.Context(), planned, call.Options{})
	if r.Class != wire.ClassTransient || r.HTTPStatus != 0 || !strings.Contains(r.Detail, "no HTTP answer") || r.Latency > 3*time.Second {
		t.Errorf("%s %d after %v: %s", r.Class, r.HTTPStatus, r.Latency, r.Detail)
	}
}

// A refusal of a question whether a body has changed is none of the request.
func TestARefusedConditionIsNoRefusal(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"bad header"}`)
	})
	c, planned := of(t, sheet.Spec{BaseURL: url, Auth: []sheet.Auth{{Kind: sheet.AuthNone}}}, nil, nil)
	for name, x := range map[string]struct {
		o    call.Options
		want wire.Class
	}{
		"asked for all":     {call.Options{}, wire.ClassPermanent},
		"asked by its tag":  {call.Options{ETag: `"v1"`}, wire.ClassTransient},
		"asked by its date": {call.Options{LastModified: "Sun, 01 Mar 2026 12:00:00 GMT"}, wire.ClassTransient},
	} {
		if r := c.Do(t.Context(), planned, x.o); r.Class != x.want {
			t.Errorf("%s: %s %s", name, r.Class, r.Detail)
		}
	}
}

// However a large body ends, the memory that it had is for others.
func TestTheMemoryOfABodyIsGivenBackHoweverItEnds(t *testing.T) {
	const all = 256 << 20
	for name, c := range map[string]struct {
		encoding string
		body     []byte
		cut      bool
	}{
		"whole":               {"", append(append([]byte(`["`), make([]byte, 3<<20)...), `"]`...), false},
		"cut off":             {"", make([]byte, 3<<20), true},
		"packed, and is not":  {"gzip", make([]byte, 3<<20), false},
		"packed, and cut off": {"gzip", make([]byte, 3<<20), true},
		// As it comes it is small, and it waits as it is until it is unpacked.
		"packed well":              {"gzip", packed(append(append([]byte(`["`), bytes.Repeat([]byte("x"), 3<<20)...), `"]`...)), false},
		"packed well, and no JSON": {"gzip", packed(make([]byte, 3<<20)), false},
		"packed well, and cut off": {"gzip", packed(make([]byte, 3<<20)), true},
	} {
		budget := memory.New(all)
		url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if c.encoding != "" {
				w.Header().Set("Content-Encoding", c.encoding)
			}
			size := len(c.body)
			if c.cut {
				size *= 2
			}
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = w.Write(c.body)
		})
		caller, planned := of(t, sheet.Spec{BaseURL: url, Auth: []sheet.Auth{{Kind: sheet.AuthNone}}}, nil, nil)
		caller.Within(budget)
		r := caller.Do(t.Context(), planned, call.Options{})
		r.Body = nil
		budget.Ended()
		if unpark, ok := budget.Park(all / 4); !ok {
			t.Errorf("%s: %s, and its place among those that wait packed is not given back", name, r.Class)
		} else {
			unpark()
		}
		room := budget.TryReserve(all / 10 * 9)
		if room == nil {
			t.Errorf("%s: %s, and its memory is not given back", name, r.Class)
			continue
		}
		room.Close()
	}
}

// What speaks against a provider, and what against the request only, or nothing.
func TestWhatSpeaksAgainstAProvider(t *testing.T) {
	for _, c := range []struct {
		class  wire.Class
		kind   string
		status int
		hard   bool
	}{
		{wire.ClassTransient, "timeout", 0, true},
		{wire.ClassTransient, "network", 0, true},
		{wire.ClassTransient, "network", 200, true}, // its body broke off
		{wire.ClassTransient, "timeout", 200, true},
		{wire.ClassTransient, classify.Foreign, 403, true},
		{wire.ClassTransient, classify.Foreign, 200, true},
		{wire.ClassTransient, classify.Foreign, 407, true},
		{wire.ClassTransient, "transient", 500, true},
		{wire.ClassTransient, "transient", 503, true},
		{wire.ClassTransient, "transient", 0, true},
		{wire.ClassUnauthorized, "unauthorized", 401, true},
		{wire.ClassTransient, classify.Odd, 200, false},
		{wire.ClassTransient, classify.Odd, 302, false},
		{wire.ClassTransient, "transient", 408, false},
		{wire.ClassTransient, "transient", 425, false},
		{wire.ClassThrottled, "throttled", 429, false},
		{wire.ClassThrottled, "throttled", 503, false},
		{wire.ClassPermanent, "permanent", 404, false},
		{wire.ClassOK, "", 200, false},
	} {
		if r := (&call.Result{Class: c.class, ErrorType: c.kind, HTTPStatus: c.status}); r.Hard() != c.hard {
			t.Errorf("%s, %s, %d: %t", c.class, c.kind, c.status, r.Hard())
		}
	}
}
