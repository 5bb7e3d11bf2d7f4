package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/gateway"
	"fetchworker/internal/gateway/tokens"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestPagesOfOthersMayNotAsk(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.Origins = []string{"https://app.example.com"} })
	for name, c := range map[string]struct {
		headers []string
		want    int
	}{
		"a name bound to this address": {[]string{"Host", "evil.example.com:8081"}, 403},
		"a name that begins well":      {[]string{"Host", "localhost.evil.example.com"}, 403},
		"an address of the network":    {[]string{"Host", "10.0.0.1:8081"}, 403},
		"a zero":                       {[]string{"Host", "0.0.0.0:8081"}, 403},
		"localhost":                    {[]string{"Host", "localhost:1"}, 200},
		"IPv6":                         {[]string{"Host", "[::1]:8081"}, 200},
		"another site":                 {[]string{"Origin", "https://evil.example.com"}, 403},
		"no site":                      {[]string{"Origin", "null"}, 403},
		"nothing":                      {[]string{"Origin", ""}, 403},
		"another port":                 {[]string{"Origin", "http://127.0.0.1:1"}, 403},
		"a file":                       {[]string{"Origin", "file://"}, 403},
		"ours with another scheme":     {[]string{"Host", "localhost:1", "Origin", "ftp://localhost:1"}, 403},
		"an image in a page":           {[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		"a page of a neighbour":        {[]string{"Sec-Fetch-Site", "same-site"}, 403},
		"typed by a person":            {[]string{"Sec-Fetch-Site", "none"}, 200},
		"a page of ours":               {[]string{"Host", "localhost:1", "Origin", "http://localhost:1", "Sec-Fetch-Site", "same-origin"}, 200},
		"a page that may":              {[]string{"Origin", "https://app.example.com", "Sec-Fetch-Site", "cross-site"}, 200},
		"nearly one that may":          {[]string{"Origin", "https://app.example.com.evil.com"}, 403},
	} {
		for _, path := range []string{"/v1/fmp/quote?symbol=AAPL", "/v1/providers", "/"} {
			s := r.get(path, c.headers...)
			if s.StatusCode != c.want {
				t.Errorf("%s: %s: %d %s", name, path, s.StatusCode, s.body)
			}
			if c.want == 403 {
				s.problem(t)
			}
		}
	}
	s := r.do(http.MethodOptions, "/v1/fmp/quote", "", "Origin", "https://app.example.com", "Access-Control-Request-Method", "POST")
	if s.StatusCode != http.StatusNoContent || s.Header.Get("Access-Control-Allow-Origin") != "https://app.example.com" {
		t.Errorf("%d %v", s.StatusCode, s.Header)
	}
	if s := r.do(http.MethodOptions, "/v1/fmp/quote", "", "Origin", "https://evil.example.com"); s.StatusCode != http.StatusForbidden || s.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%d %v", s.StatusCode, s.Header)
	}
}

func TestEachMistakeHasItsStatus(t *testing.T) {
	r := newRig(t, nil)
	ok := `{"params":{"symbol":"AAPL"}}`
	for name, c := range map[string]struct {
		method, path, body string
		headers            []string
		want               int
	}{
		"no JSON":              {"POST", "/v1/fmp/quote", `{"params":`, nil, 400},
		"a list":               {"POST", "/v1/fmp/quote", `[]`, nil, 400},
		"no UTF-8":             {"POST", "/v1/fmp/quote", "{\"id\":\"\xff\"}", nil, 400},
		"a mark of byte order": {"POST", "/v1/fmp/quote", "\ufeff" + ok, nil, 400},
		"UTF-16":               {"POST", "/v1/fmp/quote", "{\x00}\x00", nil, 400},
		"another field":        {"POST", "/v1/fmp/quote", `{"symbol":"AAPL"}`, nil, 400},
		"a field twice":        {"POST", "/v1/fmp/quote", `{"id":"a","id":"b"}`, nil, 400},
		"where copies go":      {"POST", "/v1/fmp/quote", `{"reply_to":"fetch.reply.http.x"}`, nil, 400},
		"two ids":              {"POST", "/v1/fmp/quote", `{"id":"a"}`, []string{"Idempotency-Key", "b"}, 400},
		"a bad key":            {"POST", "/v1/fmp/quote", ok, []string{"Idempotency-Key", "a b"}, 400},
		"an empty key":         {"POST", "/v1/fmp/quote", ok, []string{"Idempotency-Key", ""}, 400},
		"two keys":             {"POST", "/v1/fmp/quote", ok, []string{"Idempotency-Key", "a", "Idempotency-Key", "b"}, 400},
		"a long key":           {"POST", "/v1/fmp/quote", ok, []string{"Idempotency-Key", strings.Repeat("k", 65)}, 400},
		"a wildcard":           {"POST", "/v1/*/quote", ok, nil, 404},
		"a subject":            {"POST", "/v1/fmp/quote.alice", ok, nil, 404},
		"upper case":           {"GET", "/v1/FMP/quote", "", nil, 404},
		"a slash in a name":    {"GET", "/v1/fmp/quote%2Falice", "", nil, 404},
		"a zero in a name":     {"GET", "/v1/fmp/quote%00", "", nil, 404},
		"a bad query":          {"GET", "/v1/fmp/quote?symbol=%zz", "", nil, 400},
		"a query of noise":     {"GET", "/v1/fmp/quote?symbol=%ff%fe", "", nil, 400},
		"a query and a body":   {"POST", "/v1/fmp/quote?symbol=AAPL", ok, nil, 400},
		"a lane":               {"GET", "/v1/fmp/quote?symbol=AAPL", "", []string{"Fetch-Lane", "express"}, 400},
		"an agent":             {"GET", "/v1/fmp/quote?symbol=AAPL", "", []string{"Fetch-Agent", "Al Ice"}, 400},
		"an agent of stars":    {"GET", "/v1/fmp/quote?symbol=AAPL", "", []string{"Fetch-Agent", "*"}, 400},
		"an age":               {"GET", "/v1/fmp/quote?symbol=AAPL", "", []string{"Cache-Control", "max-age=soon"}, 400},
		"an old age":           {"GET", "/v1/fmp/quote?symbol=AAPL", "", []string{"Cache-Control", "max-age=99999999999999999999"}, 400},
		"XML":                  {"POST", "/v1/fmp/quote", ok, []string{"Content-Type", "text/xml"}, 400},
		"a charset":            {"POST", "/v1/fmp/quote", ok, []string{"Content-Encoding", "gzip"}, 415},
		"large":                {"POST", "/v1/fmp/quote", `{"params":{"symbol":"` + strings.Repeat("A", 65<<10) + `"}}`, nil, 413},
		"very large":           {"POST", "/v1/fmp/quote", strings.Repeat(" ", 150<<10), nil, 413},
		"large for a tool":     {"POST", "/mcp", strings.Repeat(" ", 150<<10), nil, 413},
		"large to look":        {"GET", "/v1/limits", strings.Repeat(" ", 150<<10), nil, 413},
		"a large header":       {"GET", "/v1/fmp/quote?symbol=A", "", []string{"X-Large", strings.Repeat("x", 45<<10)}, 431},
		"a long address":       {"GET", "/v1/fmp/quote?symbol=" + strings.Repeat("x", 45<<10), "", nil, 431},
		"nothing here":         {"GET", "/v2/fmp", "", nil, 404},
		"no operation":         {"GET", "/v1/fmp/", "", nil, 404},
		"a method":             {"PUT", "/v1/fmp/quote", ok, nil, 405},
		"another":              {"PATCH", "/v1/requests/fmp/quote/q-1", "", nil, 405},
		"a delete":             {"DELETE", "/v1/answers", "", nil, 405},
		"a strange one":        {"BREW", "/v1/fmp/quote", "", nil, 405},
		"an id":                {"GET", "/v1/requests/fmp/quote/a%20b", "", nil, 404},
		"an event":             {"GET", "/v1/answers", "", []string{"Last-Event-ID", "abc"}, 400},
		"a minus event":        {"GET", "/v1/answers", "", []string{"Last-Event-ID", "-1"}, 400},
	} {
		if name == "XML" { // the second of two types
			c.headers = nil
		}
		t.Log(name)
		s := r.do(c.method, c.path, c.body, c.headers...)
		if name == "XML" {
			continue
		}
		if s.StatusCode != c.want {
			t.Errorf("%s: %d, not %d: %s", name, s.StatusCode, c.want, s.body)
			continue
		}
		if c.want != 431 {
			s.problem(t)
		}
		if c.want == 405 && s.Header.Get("Allow") == "" {
			t.Errorf("%s: no Allow", name)
		}
	}
	for _, contentType := range []string{"text/xml", "multipart/form-data; boundary=x", "application/json; charset=latin1", "application/octet-stream", ";"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/v1/fmp/quote", strings.NewReader(ok))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		res, err := r.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _ = res.Body.Close(); res.StatusCode != http.StatusUnsupportedMediaType {
			t.Errorf("%s: %d", contentType, res.StatusCode)
		}
	}
	if n := len(r.questions()); n > 1 { // XML's, that was sent as JSON
		t.Errorf("%d of them were asked", n)
	}
}

// What no client would send is refused by what reads HTTP, and the next
// request is not read out of it.
func TestSmuggling(t *testing.T) {
	r := newRig(t, nil)
	host := strings.TrimPrefix(r.url, "http://")
	inner := "GET /v1/fmp/quote?symbol=SMUGGLED HTTP/1.1\r\nHost: localhost\r\n\r\n"
	for name, text := range map[string]string{
		"two lengths":          "POST /v1/fmp/quote HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 60\r\n\r\n{}" + inner,
		"length and chunks":    "POST /v1/fmp/quote HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + inner,
		"chunks that are none": "POST /v1/fmp/quote HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inner,
		"a bad chunk":          "POST /v1/fmp/quote HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
		"a folded header":      "GET /v1/fmp/quote?symbol=A HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\x00c\r\n\r\n",
		"two hosts":            "GET /v1/fmp/quote?symbol=A HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
		"no host":              "GET /v1/fmp/quote?symbol=A HTTP/1.1\r\n\r\n",
		"an old one":           "GET /v1/fmp/quote?symbol=A HTTP/1.0\r\n\r\n",
		"a space in a name":    "GET /v1/fmp/quote?symbol=A HTTP/1.1\r\nHost : localhost\r\n\r\n",
		"noise":                "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"a zero":               "GET /v1/fmp/quote?symbol=\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		nc, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(nc, text); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if _ = res.Body.Close(); res.StatusCode < 400 || res.StatusCode >= 500 && res.StatusCode != http.StatusNotImplemented && res.StatusCode != http.StatusHTTPVersionNotSupported {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
		_ = nc.Close()
	}
	for _, q := range r.questions() {
		t.Errorf("asked: %s", q.Params)
	}
}

// Who sends slowly is cut off, and costs nobody else.
func TestSlowSenders(t *testing.T) {
	r := newRig(t, (*gateway.Config).Hurry)
	host := strings.TrimPrefix(r.url, "http://")
	var slow []net.Conn
	for n := range 200 {
		nc, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		text := "GET /v1/fmp/quote HTTP/1.1\r\nHost: local"
		if n%2 == 0 {
			text = "POST /v1/fmp/quote HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
		}
		if _, err := io.WriteString(nc, text); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, nc)
	}
	for range 20 {
		if s := r.get("/v1/fmp/quote?symbol=AAPL"); s.StatusCode != http.StatusOK {
			t.Errorf("%d %s", s.StatusCode, s.body)
		}
	}
	for _, nc := range []net.Conn{slow[0], slow[1]} {
		_ = nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		text, err := io.ReadAll(nc)
		if err != nil {
			t.Errorf("it may go on: %v %s", err, text)
		}
		if nc == slow[0] && !strings.HasPrefix(string(text), "HTTP/1.1 408 ") {
			t.Errorf("%s", text)
		}
	}
}

func TestATokenIsAnAgent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	alice, line, err := tokens.New("alice")
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# the agents\n" + line + "\n")
	core, logs := observer.New(zap.DebugLevel)
	known, err := tokens.Load(file, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *gateway.Config) { c.Tokens, c.Logger = known, zap.New(core) })
	ask := func(want int, headers ...string) said {
		t.Helper()
		s := r.get("/v1/fmp/quote?symbol=AAPL", headers...)
		if s.StatusCode != want {
			t.Errorf("%d, not %d: %s", s.StatusCode, want, s.body)
		}
		if want >= 400 {
			s.problem(t)
		}
		if strings.Contains(s.body, alice) {
			t.Error("the token comes back")
		}
		return s
	}
	ask(200, "Authorization", "Bearer "+alice, "Host", "gateway.example.com")
	ask(200, "Authorization", "bearer  "+alice, "Fetch-Agent", "alice")
	if q := r.questions(); q[0].Agent != "alice" || q[1].Agent != "alice" {
		t.Errorf("%+v", q)
	}
	ask(403, "Authorization", "Bearer "+alice, "Fetch-Agent", "bob")
	for _, wrong := range []string{"", "Bearer", "Bearer ", "Bearer x", "Basic " + alice, alice, "Bearer " + alice + "x", "Bearer " + strings.SplitN(line, ":", 2)[0]} {
		if s := ask(401, "Authorization", wrong); s.Header.Get("WWW-Authenticate") == "" {
			t.Error("no challenge")
		}
	}
	ask(401)
	ask(401, "Authorization", "Bearer "+alice, "Authorization", "Bearer "+alice)
	ask(403, "Authorization", "Bearer "+alice, "Origin", "https://evil.example.com")

	bob, other, err := tokens.New("bob")
	if err != nil {
		t.Fatal(err)
	}
	open := r.listen("Authorization", "Bearer "+alice)
	r.answered("alice", "hers")
	if e := open.next(); e.Data.ID != "hers" {
		t.Errorf("%+v", e)
	}
	write(other + "\n")
	ask(401, "Authorization", "Bearer "+alice)
	r.answered("alice", "not-hers-any-more")
	if e := open.next(); e.ID != "" {
		t.Errorf("a token that was taken back reads on: %+v", e)
	}
	ask(200, "Authorization", "Bearer "+bob)
	write(other + "\n" + bob + ": alice\n") // a token where its hash belongs
	ask(200, "Authorization", "Bearer "+bob)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	ask(401, "Authorization", "Bearer "+bob)
	write(line + "\n")
	ask(200, "Authorization", "Bearer "+alice)
	if logs.FilterMessage("the file of tokens cannot be read").Len() != 2 {
		t.Errorf("%v", logs.All())
	}
	for _, entry := range logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, alice) || strings.Contains(text, bob) {
			t.Errorf("a token is logged: %s", text)
		}
	}
}

func TestMistakesInAFileOfTokens(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	for name, text := range map[string]string{
		"a list": "- " + hash, "a short hash": "0a: alice", "a bad name": hash + ": Alice", "twice": hash + ": alice\n" + strings.ToUpper(hash) + ": bob",
		"nested": hash + ": {a: b}", "no YAML": "{", "a text": "x",
	} {
		file := filepath.Join(t.TempDir(), "tokens.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := tokens.Load(file, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "tokens.yaml") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := tokens.Load("/no/such/file", zap.NewNop()); err == nil {
		t.Error("a file that is not there")
	}
	if _, _, err := tokens.New("Al Ice"); err == nil {
		t.Error("a bad name")
	}
}

func TestWithoutTokensOnlyThisMachineIsServed(t *testing.T) {
	r := newRig(t, nil)
	nc := r.b.Connect(t)
	defer nc.Close()
	g, err := gateway.New(gateway.Config{NC: nc, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0", "example.com:0"} {
		if l, err := g.Listen(addr); err == nil {
			t.Errorf("%s is served", addr)
			_ = l.Close()
		}
	}
}

func TestAServerThatIsGoneIsTold(t *testing.T) {
	r := newRig(t, (*gateway.Config).Hurry)
	r.b.Server.Shutdown()
	s := r.post("/v1/fmp/quote", `{"params":{"symbol":"AAPL"}}`, "Idempotency-Key", "q-1", "Prefer", "wait=1")
	if p := s.problem(t); s.StatusCode != http.StatusServiceUnavailable || p.Type != "urn:fetch:error:unreached" || s.Header.Get("Retry-After") == "" || s.Header.Get("Fetch-Request-Id") != "q-1" {
		t.Errorf("%d %v %s", s.StatusCode, s.Header, s.body)
	}
}

// Who says that it sends no more is taken for gone, and is told nothing: no
// empty answer that looks like a good one.
func TestNobodyIsToldAnEmptyAnswer(t *testing.T) {
	r := newRig(t, nil)
	r.says(silence)
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"fetch","arguments":{"provider":"fmp","operation":"quote","params":{"symbol":"A"},"wait":9}}}`
	for name, text := range map[string]string{
		"asking":   "GET /v1/fmp/quote?symbol=A HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"waiting":  "GET /v1/requests/fmp/quote/none HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=9\r\n\r\n",
		"a tool's": fmt.Sprintf("POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMcp-Protocol-Version: 2025-06-18\r\nContent-Length: %d\r\n\r\n%s", len(call), call),
	} {
		nc := r.dial()
		if _, err := io.WriteString(nc, text); err != nil {
			t.Fatal(err)
		}
		if err := nc.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(20 * time.Second))
		said, err := io.ReadAll(nc)
		if err != nil || strings.Contains(string(said), "\r\nContent-Length: 0\r\n") || strings.HasPrefix(string(said), "HTTP/1.1 200 ") {
			t.Errorf("%s: %v %q", name, err, said)
		}
	}
}
