package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker/internal/gateway"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// noise makes requests that no client would make.
type noise struct{ *rand.Rand }

func (n noise) of(all ...string) string { return all[n.IntN(len(all))] }

func (n noise) text() string {
	switch n.IntN(8) {
	case 0:
		return strings.Repeat(n.of("a", "A", "%41", "é", "\xff", "../", "*", ">", "."), n.IntN(200))
	case 1:
		b := make([]byte, n.IntN(40))
		for i := range b {
			b[i] = byte(n.IntN(256))
		}
		return string(b)
	default:
		return n.of("fmp", "quote", "AAPL", "q-1", "..", "%2e%2e", "%00", "%ff", "*", ">", "fetch.put.a.b.c.d", "$JS", "a b", "<script>", "'", "\"", "{}", "requests", "providers", "%0d%0aX: y")
	}
}

func (n noise) request() string {
	path := n.of("/v1/", "/v1/requests/", "/mcp", "/openapi.json", "/", "//", "/v1//", "/v1/limits/", "*", "http://evil/v1/") + n.text() + n.of("", "/", "/"+n.text(), "/"+n.text()+"/"+n.text()) + n.of("", "?symbol=AAPL", "?"+n.text()+"="+n.text(), "#x")
	if n.IntN(3) == 0 {
		path = "/v1/fmp/quote" + n.of("", "?symbol="+n.text())
	}
	path = strings.Map(func(r rune) rune { // a line is a line
		if r == '\r' || r == '\n' {
			return '_'
		}
		return r
	}, path)
	body := n.of("", `{"params":{"symbol":"AAPL"}}`, `{"params":`+n.text()+`}`, `{"id":"`+n.text()+`"}`, n.text(), strings.Repeat("[", n.IntN(5000)), `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"fetch","arguments":{"provider":"`+n.of("fmp", "*")+`","operation":"quote","params":`+n.of("{}", "[]", "1", `"x"`)+`,"wait":0}}}`, strings.Repeat(" ", n.IntN(200_000)))
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.%d\r\n", n.of("GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PRI", "get", "G\x00T"), path, n.IntN(3))
	fmt.Fprintf(&b, "Host: %s\r\nConnection: close\r\nPrefer: wait=%s\r\n", n.of("localhost", "127.0.0.1:1", "[::1]", "evil.example.com", "", "localhost.", "0x7f.1", n.of("a b", "localhost@evil")), n.of("0", "1", "-1", "x"))
	for range n.IntN(4) {
		name := n.of("Origin", "Idempotency-Key", "Content-Type", "Content-Encoding", "Cache-Control", "Fetch-Agent", "Fetch-Lane", "Authorization", "If-None-Match", "traceparent", "Accept", "Mcp-Protocol-Version", "Sec-Fetch-Site", "Expect", "Upgrade", "X-"+strings.Repeat("x", n.IntN(300)))
		fmt.Fprintf(&b, "%s: %s\r\n", name, strings.Map(func(r rune) rune {
			if r == '\r' || r == '\n' {
				return '_'
			}
			return r
		}, n.of(n.text(), "application/json", "null", "100-continue", "max-age=1", strings.Repeat("y", n.IntN(50_000)))))
	}
	switch n.IntN(6) {
	case 0:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body)+n.IntN(2), body)
	case 1:
		fmt.Fprintf(&b, "Content-Length: %s\r\n\r\n%s", n.of("-1", "x", "99999999999999999999", "1", "0"), body)
	default:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	}
	return b.String()
}

// Whatever comes, each request has a status that is about it, nothing panics,
// and nothing is left behind. FETCH_CHAOS=full sends ten thousand.
func TestNoise(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	r := newRig(t, func(c *gateway.Config) {
		c.Hurry()
		c.Logger = zap.New(core)
	})
	many := 800
	if os.Getenv("FETCH_CHAOS") == "full" {
		many = 10_000
	}
	host := strings.TrimPrefix(r.url, "http://")
	var next atomic.Int64
	var mu sync.Mutex
	seen := map[int]int{}
	var senders sync.WaitGroup
	for seed := range 8 {
		n := noise{rand.New(rand.NewPCG(uint64(seed), 1))}
		senders.Go(func() {
			for next.Add(1) <= int64(many) {
				text := n.request()
				status := send(t, host, text)
				mu.Lock()
				seen[status]++
				mu.Unlock()
				if status >= 500 && status != http.StatusNotImplemented && status != http.StatusHTTPVersionNotSupported || status == 0 && len(text) < 10_000 && !strings.Contains(text, "HTTP/1.2") {
					t.Errorf("%d for %.300q", status, text)
				}
			}
		})
	}
	senders.Wait()
	t.Log(seen)
	if logs.Len() > 0 {
		t.Error(logs.All())
	}
	if s := r.get("/v1/fmp/quote?symbol=AAPL"); s.StatusCode != http.StatusOK {
		t.Errorf("after it: %d %s", s.StatusCode, s.body)
	}
	for _, q := range r.questions() {
		if q.Provider == "" || strings.ContainsAny(q.Provider+q.Operation+q.Agent+q.ID, ".*> ") {
			t.Errorf("%+v", q)
		}
	}
}

// send sends a text and reads the status; 0: the connection was cut without one.
func send(t *testing.T, host, text string) int {
	t.Helper()
	nc, err := net.Dial("tcp", host)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(nc, text) // it may be refused before all is sent
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if res.StatusCode == http.StatusContinue {
		return http.StatusOK
	}
	return res.StatusCode
}
