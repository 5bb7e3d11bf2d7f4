package call_test

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fetchworker/internal/providers/call"
	"fetchworker/internal/providers/plan"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// caller is one of an API with one operation, and a call of it.
func caller(t *testing.T, baseURL string) (*call.Caller, *plan.Call) {
	t.Helper()
	return callerBy(t, baseURL, nil, 5*time.Second)
}

// callerBy is caller with a dialer and a time-out.
func callerBy(t *testing.T, baseURL string, dial call.DialFunc, timeout time.Duration) (*call.Caller, *plan.Call) {
	t.Helper()
	api, err := plan.New(sheet.Spec{
		Name: "tides", BaseURL: baseURL, EnvPrefix: "TIDES", Timeout: timeout,
		Auth:       []sheet.Auth{{Kind: sheet.AuthBearer}},
		Operations: map[string]*sheet.Operation{"heights": {Name: "heights", Path: "/heights"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	planned, err := api.Plan("heights", nil)
	if err != nil {
		t.Fatal(err)
	}
	c := call.New(api, func(string) string { return "secret-key" }, dial)
	t.Cleanup(c.Close)
	return c, planned
}

var errLapsed = errors.New("the permit has lapsed")

// A permit that lapses while the connection is made is found right before
// the request is written: the server never sees it.
func TestBeforeWrite(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2"} {
		t.Run(protocol, func(t *testing.T) {
			var seen, opened atomic.Int32
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				seen.Add(1)
				_, _ = io.WriteString(w, `[1]`)
			}))
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					opened.Add(1)
				}
			}
			pool := x509.NewCertPool()
			switch protocol {
			case "HTTP/1.1":
				server.Start()
			default:
				server.EnableHTTP2 = protocol == "HTTP/2"
				server.StartTLS()
				pool.AddCert(server.Certificate())
			}
			defer server.Close()
			p, planned := caller(t, server.URL)
			if protocol == "HTTP/1.1 over TLS" {
				server.TLS.NextProtos = []string{"http/1.1"}
			}
			call.Trust(p, pool)

			checked := 0
			fine := func() error { checked++; return nil }
			var told atomic.Int32
			written := func() { told.Add(1) }
			lapsed := func() error { told.Store(0); return errLapsed }
			for range 200 {
				if r := p.Do(t.Context(), planned, call.Options{BeforeWrite: fine, Written: written}); r.Class != wire.ClassOK || !r.Sent {
					t.Fatalf("%s %s", r.Class, r.Detail)
				}
				r := p.Do(t.Context(), planned, call.Options{BeforeWrite: lapsed, Written: written})
				if told.Load() == 0 {
					t.Fatal("nobody is told that it will not be written")
				}
				if r.Sent || r.Class != wire.ClassTransient || !errors.Is(r.Err, errLapsed) || r.HTTPStatus != 0 {
					t.Fatalf("sent %v, %s, %v", r.Sent, r.Class, r.Err)
				}
			}
			if seen.Load() != 200 || checked != 200 {
				t.Errorf("the server saw %d calls, %d were checked, want 200", seen.Load(), checked)
			}
			if n := opened.Load(); protocol == "HTTP/2" && n != 1 {
				t.Errorf("a call that is not made takes the connection of all others with it: %d connections", n)
			}
		})
	}
}

// A connection that was found closed before anything was written is replaced;
// a permit that has lapsed by then stands for a call that was never made.
func TestALapseOnTheSecondConnectionIsNoCall(t *testing.T) {
	var seen atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		seen.Add(1)
		_, _ = io.WriteString(w, `[1]`)
	}))
	defer server.Close()
	var last net.Conn
	p, planned := callerBy(t, server.URL, func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		last = conn
		return conn, err
	}, 5*time.Second)
	if r := p.Do(t.Context(), planned, call.Options{}); r.Class != wire.ClassOK {
		t.Fatalf("%s %s", r.Class, r.Detail)
	}
	looks := 0
	r := p.Do(t.Context(), planned, call.Options{BeforeWrite: func() error {
		if looks++; looks > 1 {
			return errLapsed
		}
		return last.Close()
	}})
	if looks != 2 || r.Sent || !errors.Is(r.Err, errLapsed) || seen.Load() != 1 {
		t.Errorf("%d looks, sent %v, %v; the server saw %d calls", looks, r.Sent, r.Err, seen.Load())
	}
}

// Where a redirect leads is told by its host: what else is in it may be meant
// for us only.
func TestARedirectTellsItsHostOnly(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "https://login.example.com/enter/here?session=c0ffee")
		w.WriteHeader(http.StatusFound)
	}))
	defer server.Close()
	p, planned := caller(t, server.URL)
	r := p.Do(t.Context(), planned, call.Options{})
	if r.Class != wire.ClassTransient || !strings.Contains(r.Detail, "login.example.com") || strings.Contains(r.Detail, "c0ffee") || strings.Contains(r.Detail, "enter") {
		t.Errorf("%s %s", r.Class, r.Detail)
	}
}
