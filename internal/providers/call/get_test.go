package call

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fetchworker/internal/providers/plan"
	"fetchworker/internal/providers/sheet"
)

// Whatever path and query an agent writes, a planned get stays below the
// provider's host, decoding it any number of times climbs nowhere, and no key
// but ours is in it.
func TestGetStaysInside(t *testing.T) {
	api, err := plan.New(sheet.Spec{
		Name: "fred", BaseURL: "https://api.stlouisfed.org/fred", EnvPrefix: "FRED", Timeout: time.Second,
		Auth: []sheet.Auth{{Kind: sheet.AuthQuery, Name: "api_key"}},
		GetPaths: []sheet.GetPath{
			{Prefix: "/v2/", Auth: []sheet.Auth{{Kind: sheet.AuthBearer}}},
			{Prefix: "/geofred/", FromRoot: true, Auth: []sheet.Auth{{Kind: sheet.AuthQuery, Name: "api_key"}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := New(api, func(string) string { return "k" }, nil)
	direct := newPlain(&url.URL{Scheme: "http", Host: api.Base().Host}, nil, false)
	part := rapid.SampledFrom([]string{"/", "a", "..", ".", "%2e", "%2F", "%252e", "%25", "%", "@", ":", "?", "#", `\`, "//", "http://", "é", " ", "\x00", "\n", "%0a", ";", "fred", "v2", "geofred"})
	rapid.Check(t, func(t *rapid.T) {
		path := strings.Join(rapid.SliceOfN(part, 0, 8).Draw(t, "path"), "")
		query := map[string]string{rapid.SampledFrom([]string{"a", "api_key", "Api_Key", "&api_key", "b=c"}).Draw(t, "name"): path}
		params, err := json.Marshal(map[string]any{"path": path, "query": query})
		if err != nil {
			t.Fatal(err)
		}
		call, err := api.Plan("get", params)
		if err != nil {
			return
		}
		header, sent, err := p.head(t.Context(), call, Options{})
		if err != nil {
			t.Fatal(err)
		}
		req := p.request(call, sent, header)
		if direct.takes(call, sent, header) {
			sameRequest(t, &req, direct.appendRequest(nil, call.Path, sent, header))
		}
		if req.URL.Host != "api.stlouisfed.org" || req.URL.User != nil || req.URL.Fragment != "" {
			t.Fatalf("%s leads to %s", params, req.URL)
		}
		if climbs := req.URL.EscapedPath(); strings.Contains(climbs, "..") || strings.Contains(strings.ToLower(climbs), "%2") && !strings.Contains(climbs, "%20") || strings.HasPrefix(climbs, "//") {
			t.Fatalf("%s climbs: %s", params, climbs)
		}
		inQuery := call.Auth[0].Kind == sheet.AuthQuery
		if keys := req.URL.Query()["api_key"]; len(keys) > 1 || inQuery != (len(keys) == 1 && keys[0] == "k") {
			t.Fatalf("%s sends the keys %q", params, keys)
		}
	})
}

// sameRequest checks that a request is what the transport would have sent.
func sameRequest(t *rapid.T, req *http.Request, plain []byte) {
	t.Helper()
	var usual bytes.Buffer
	if err := req.Write(&usual); err != nil {
		t.Fatalf("%q goes a way on which nobody looks at it: %v", plain, err)
	}
	lines := func(b []byte) []string {
		all := strings.Split(string(b), "\r\n")
		slices.Sort(all[1:]) // headers may come in any order
		return all
	}
	if a, b := lines(usual.Bytes()), lines(plain); !slices.Equal(a, b) {
		t.Fatalf("the transport sends %q, we %q", a, b)
	}
}

// What is not plain goes the transport's way, or is sent in the same letters.
func TestWhatIsPlain(t *testing.T) {
	for host, want := range map[string]bool{
		"http://api.example.com": true, "http://127.0.0.1:80": true, "http://[::1]:8080": true, "http://a_b.internal": true,
		"https://api.example.com": false, "http://bücher.example": false, "http://[fe80::1%25en0]": false, "http://u:p@api.example.com": false, "http://api.example.com:": false,
	} {
		base, err := url.Parse(host)
		if err != nil {
			t.Fatal(err)
		}
		if got := newPlain(base, nil, false) != nil; got != want {
			t.Errorf("%s: plain %t", host, got)
		}
	}
	var none *plain
	if none.takes(&plan.Call{Path: "/"}, "", nil) {
		t.Error("taken by nobody")
	}
	p := newPlain(&url.URL{Scheme: "http", Host: "api.example.com"}, nil, false)
	for _, value := range []string{"a\nX-B: b", "a\rb", "\x00", "a\x7f"} {
		if p.takes(&plan.Call{Path: "/a"}, "", http.Header{"X-A": {value}}) {
			t.Errorf("a header of %q goes a way on which nobody looks at it", value)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("aZ09-._~!$&'()*+,;=:@[]%/ ?#\"<>\\^`{|}\x00\n\x7fé")), 0, 8, -1)
		wild := func(what string) string { // two of three are not
			if rapid.IntRange(0, 2).Draw(t, what+" is wild") > 0 {
				return "a"
			}
			return text.Draw(t, what)
		}
		call := &plan.Call{Path: "/" + wild("path")}
		header := http.Header{"User-Agent": userAgent}
		name := rapid.SampledFrom([]string{"X-A", "Authorization", "Host", "Connection", "Content-Length", "Trailer", "Transfer-Encoding", "x a", "É", ""}).Draw(t, "name")
		header[name] = []string{wild("value")}
		query := wild("query")
		if !p.takes(call, query, header) {
			return
		}
		target := &url.URL{Scheme: "http", Host: "api.example.com", RawPath: call.Path, RawQuery: query}
		if target.Path, _ = url.PathUnescape(call.Path); target.Path == "" {
			return // Plan makes none that cannot be read
		}
		sameRequest(t, &http.Request{Method: http.MethodGet, URL: target, Host: target.Host, Header: header}, p.appendRequest(nil, call.Path, query, header))
	})
}
