package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fetchworker/internal/gateway/tokens"
	"fetchworker/internal/providers/providertest"
)

// hostile is a kind of request that no honest client makes, and the statuses
// that are right for it.
type hostile struct {
	name string
	send func(n *rand.Rand) string
	want []int // none: the connection is closed without an answer
}

// line is a request's first line and its headers, those of an honest client
// unless others are given.
func line(first string, headers ...string) string {
	return first + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + strings.Join(append(headers, "", ""), "\r\n")
}

func posted(body string, headers ...string) string {
	return line("POST /v1/fmp/quote", append(headers, "Content-Length: "+strconv.Itoa(len(body)))...) + body
}

func some(n *rand.Rand, of ...string) string { return of[n.IntN(len(of))] }

// junk are letters that mean nothing.
func junk(n *rand.Rand, most int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	b := make([]byte, 1+n.IntN(most))
	for i := range b {
		b[i] = letters[n.IntN(len(letters))]
	}
	return string(b)
}

// hostiles are sizes, encodings, forgeries of where a request comes from,
// smuggled requests, and names that reach for something else.
func hostiles() []hostile {
	const inner = "GET /v1/fmp/quote?symbol=SMUGGLED HTTP/1.1\r\nHost: localhost\r\n\r\n"
	forged := func(n *rand.Rand) string {
		return some(n, "evil.example.com", "localhost.evil.example.com:8081", "10.0.0.1:8081", "0.0.0.0", "127.0.0.1.nip.io", "0x7f.1", "2130706433", "[::ffff:10.0.0.1]", "localhost.", "127.0.0.1@evil", "")
	}
	return []hostile{
		{"a body above its bound", func(n *rand.Rand) string {
			return posted(`{"params":{"symbol":"` + strings.Repeat("A", 65<<10+n.IntN(20_000)) + `"}}`)
		}, []int{413}},
		{"a body far above", func(n *rand.Rand) string { return posted(strings.Repeat(" ", 150_000+n.IntN(400_000))) }, []int{413}},
		{"a length far above", func(n *rand.Rand) string {
			return line("POST /v1/fmp/quote", "Content-Length: "+strconv.Itoa(1<<40+n.IntN(1<<40))) + strings.Repeat(" ", 200_000)
		}, []int{413}},
		{"chunks without an end", func(n *rand.Rand) string {
			return line("POST /v1/fmp/quote", "Transfer-Encoding: chunked") + strings.Repeat("2000\r\n"+strings.Repeat(" ", 0x2000)+"\r\n", 20+n.IntN(10))
		}, []int{413}},
		{"large headers", func(n *rand.Rand) string {
			return line("GET /v1/fmp/quote?symbol=A", "X-"+junk(n, 20)+": "+strings.Repeat("x", 45<<10+n.IntN(20_000)))
		}, []int{431}},
		{"many headers", func(n *rand.Rand) string {
			var more []string
			for i := range 3000 + n.IntN(1000) {
				more = append(more, "X-"+strconv.Itoa(i)+": "+junk(n, 20))
			}
			return line("GET /v1/fmp/quote?symbol=A", more...)
		}, []int{431}},
		{"a long address", func(n *rand.Rand) string {
			return line("GET /v1/fmp/quote?symbol=" + strings.Repeat("x", 45<<10+n.IntN(9000)))
		}, []int{431}},
		{"depth", func(n *rand.Rand) string {
			return posted(strings.Repeat(some(n, "[", `{"a":`, `{"params":`), 1000+n.IntN(5000)))
		}, []int{400}},
		{"a number of a million digits in little", func(n *rand.Rand) string {
			return posted(`{"params":{"symbol":` + strings.Repeat("9", 1000+n.IntN(50_000)) + `}}`)
		}, []int{400}},
		{"no JSON", func(n *rand.Rand) string { return posted("{" + junk(n, 500)) }, []int{400}},
		{"another field", func(n *rand.Rand) string { return posted(`{"x` + junk(n, 30) + `":1}`) }, []int{400}},
		{"where copies go", func(n *rand.Rand) string { return posted(`{"reply_to":"fetch.reply.` + junk(n, 9) + `"}`) }, []int{400}},
		{"noise for a body", func(n *rand.Rand) string {
			b := make([]byte, 2+n.IntN(2000))
			for i := range b {
				b[i] = byte(128 + n.IntN(128))
			}
			return posted(string(b))
		}, []int{400}},
		{"UTF-16", func(n *rand.Rand) string {
			return posted("\xff\xfe" + strings.Join(strings.Split(`{"id":"`+junk(n, 9)+`"}`, ""), "\x00") + "\x00")
		}, []int{400}},
		{"another encoding", func(n *rand.Rand) string {
			return posted("{}", "Content-Encoding: "+some(n, "gzip", "br", "deflate", "gzip, gzip", "x"))
		}, []int{415}},
		{"another type", func(n *rand.Rand) string {
			return posted("{}", "Content-Type: "+some(n, "text/xml", "multipart/form-data; boundary=x", "application/json; charset=latin1", "application/octet-stream", ";", "application/"+junk(n, 9)))
		}, []int{415}},
		{"a bad query", func(n *rand.Rand) string {
			return line("GET /v1/fmp/quote?symbol=" + some(n, "%zz", "%", "%ff%fe", "%c0%af", "a;b", "%"+junk(n, 1)))
		}, []int{400}},
		{"a zero in an address", func(n *rand.Rand) string { return line("GET /v1/fmp/quote?symbol=\x00" + junk(n, 9)) }, []int{400}},
		{"a forged Host", func(n *rand.Rand) string {
			return "GET /v1/fmp/quote?symbol=A HTTP/1.1\r\nHost: " + forged(n) + "\r\nConnection: close\r\n\r\n"
		}, []int{403, 400}}, // 400: what is no host at all
		{"a forged address", func(n *rand.Rand) string {
			return "GET http://evil.example.com/v1/fmp/quote?symbol=" + junk(n, 9) + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
		}, []int{403}},
		{"a forged Origin", func(n *rand.Rand) string {
			return line("GET /v1/fmp/quote?symbol=A", "Origin: "+some(n, "https://evil.example.com", "null", "", "file://", "http://localhost:1", "http://localhost.evil.com", "ftp://localhost", "http://"+junk(n, 9)))
		}, []int{403}},
		{"a page of another site", func(n *rand.Rand) string {
			return line(some(n, "GET /v1/fmp/quote?symbol=A", "GET /v1/answers", "DELETE /v1/requests/fmp/quote/a", "GET /openapi.json"), "Sec-Fetch-Site: "+some(n, "cross-site", "same-site"))
		}, []int{403}},
		{"a preflight of strangers", func(n *rand.Rand) string {
			return line("OPTIONS /v1/fmp/quote", "Origin: https://"+junk(n, 9)+".example.com", "Access-Control-Request-Method: POST")
		}, []int{403}},
		{"two lengths", func(n *rand.Rand) string {
			return line("POST /v1/fmp/quote", "Content-Length: 2", "Content-Length: "+strconv.Itoa(3+n.IntN(90))) + "{}" + inner
		}, []int{400}},
		{"length and chunks", func(n *rand.Rand) string {
			return line("POST /v1/fmp/quote", "Content-Length: "+strconv.Itoa(n.IntN(90)), "Transfer-Encoding: "+some(n, "chunked, identity", "identity, chunked", "xchunked", "chunked\x0b", "gzip, chunked")) + "0\r\n\r\n" + inner
		}, []int{400, 501}},
		{"a length that is none", func(n *rand.Rand) string {
			return line("POST /v1/fmp/quote", "Content-Length: "+some(n, "-1", "+2", "0x2", "2 ", "1e3", "99999999999999999999", "2,2", junk(n, 3)+"q")) + "{}" + inner
		}, []int{400, 200, 202}}, // "2 " and "2,2" are 2 to some: nothing may be read out of the rest
		{"chunks that are none", func(n *rand.Rand) string {
			return line("POST /v1/fmp/quote", "Transfer-Encoding: chunked") + some(n, "zz", "-1", "0x2", "fffffffffffffffff", "2;"+strings.Repeat("x", 5000)) + "\r\n{}\r\n0\r\n\r\n"
		}, []int{400}},
		{"a header that is none", func(n *rand.Rand) string {
			return line("GET /v1/fmp/quote?symbol=A", some(n, "X : a", "X\x00: a", ": a", "no colon", "X: a\x00b", "X(Y): a", "Host: evil"))
		}, []int{400}},
		{"no request", func(n *rand.Rand) string {
			return some(n, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "GET", "GET /", "HELO localhost", "\x00\x00\x00", junk(n, 90)) + "\r\n\r\n"
		}, []int{400}},
		{"HTTP/2 said beforehand", func(*rand.Rand) string { return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" }, []int{400, 403, 505}}, // it names no host
		{"another version", func(n *rand.Rand) string {
			return "GET /v1/fmp/quote?symbol=A HTTP/" + some(n, "2.0", "3.0", "9.9", "0.9") + "\r\nHost: localhost\r\n\r\n"
		}, []int{400, 505}},
		{"names that reach", func(n *rand.Rand) string {
			return line("GET /v1/" + some(n, "*", ">", "fmp.quote", "$JS", "FMP", "%00", "%2e%2e%2fetc", "f%0d%0ap", strings.Repeat("a", 33)) + "/" + some(n, "quote", "*", "%ff") + "?symbol=A")
		}, []int{404, 400}},
		{"paths that climb", func(n *rand.Rand) string {
			return line("GET /" + some(n, "v1/../../etc/passwd", "./v1/./../x", "v1//../secret", "..;/x", "v2/fmp", ".env", "admin", "v1/requests/a/b/c/d") + "?" + junk(n, 5))
		}, []int{404, 307, 301}}, // a path that is cleaned is told where it is
		{"methods", func(n *rand.Rand) string {
			return line(some(n, "PUT", "PATCH", "BREW", "TRACE", "PROPFIND", junk(n, 8)) + " /v1/fmp/quote")
		}, []int{405, 400}},
		{"a tunnel", func(*rand.Rand) string { return line("CONNECT evil.example.com:443") }, []int{403, 405, 404, 400}},
		{"an agent of stars", func(n *rand.Rand) string {
			return line("GET /v1/fmp/quote?symbol=A", "Fetch-Agent: "+some(n, "*", ">", "a.b", "Al Ice", "\xff", strings.Repeat("a", 33), "../x"))
		}, []int{400}},
		{"a key that is none", func(n *rand.Rand) string {
			return posted("{}", "Idempotency-Key: "+some(n, "a b", "", "*", ">", strings.Repeat("k", 65), "\xff\xfe", "a.b", `"`))
		}, []int{400}},
		{"ages", func(n *rand.Rand) string {
			return line("GET /v1/fmp/quote?symbol=A", "Cache-Control: max-age="+some(n, "soon", "-1", "99999999999999999999", "1.5", junk(n, 5)+"q"))
		}, []int{400}},
		{"a place in a stream", func(n *rand.Rand) string {
			return line("GET /v1/answers", "Last-Event-ID: "+some(n, "abc", "-1", "1.5", "99999999999999999999999", "*", junk(n, 9)+"q"))
		}, []int{400}},
		{"tools of nobody", func(n *rand.Rand) string {
			body := some(n, "{", "[]", `"x"`, `{"jsonrpc":"1.0"}`, strings.Repeat("[", 5000), `{"jsonrpc":"2.0","id":{},"method":1}`)
			return line("POST /mcp", "Content-Type: application/json", "Accept: application/json, text/event-stream", "Content-Length: "+strconv.Itoa(len(body))) + body
		}, []int{400}},
		{"an upgrade", func(n *rand.Rand) string {
			return line("GET /v1/providers", "Upgrade: "+some(n, "websocket", "h2c", "TLS/1.0"), "HTTP2-Settings: AAMAAABkAAQAAP__")
		}, []int{200}}, // asked for an upgrade, HTTP lets us go on as before
	}
}

// TestTenThousandHostileRequests sends a built worker's HTTP door what no honest
// client sends, while hundreds send their headers and bodies too slowly to end:
// each has the status that is right for it, nothing of a request's tail is read
// as another one, nothing panics, and nothing is left behind.
func TestTenThousandHostileRequests(t *testing.T) {
	begin(t)
	if !full {
		t.Skip("half a minute: with FETCH_CHAOS=full; internal/gateway sends fewer each time")
	}
	f := newFleet(t, well(0))
	f.env["FETCH_GATEWAY"], f.env["FETCH_GATEWAY_ADDR"], f.env["FETCH_HTTP_ADDR"] = "on", "127.0.0.1:0", "127.0.0.1:0"
	worker := f.worker()
	started := worker.says(t, `"serving"`)
	door, vital := field(t, started, "gateway"), field(t, started, "http")
	good := func() int {
		status, _, _ := sent(t, door, line("GET /v1/fmp/quote?symbol=GOOD"))
		return status
	}
	if good() != http.StatusOK {
		t.Fatal("an honest request is refused")
	}
	files, routines := descriptors(t, worker), goroutines(t, vital)

	// 300 that never come to an end, beside the others.
	var slow []net.Conn
	for i := range 300 {
		c, err := net.Dial("tcp", door)
		if err != nil {
			t.Fatal(err)
		}
		text := "GET /v1/fmp/quote HTTP/1.1\r\nHost: local"
		if i%2 == 0 {
			text = "POST /v1/fmp/quote HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
		}
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, c)
	}
	begun := time.Now()

	kinds := hostiles()
	var next atomic.Int64
	var mu sync.Mutex
	seen := map[string]map[int]int{}
	var senders sync.WaitGroup
	for seed := range 8 {
		n := rand.New(rand.NewPCG(uint64(seed), 7))
		senders.Go(func() {
			for i := next.Add(1); i <= 10_000; i = next.Add(1) {
				kind := kinds[i%int64(len(kinds))]
				text := kind.send(n)
				status, answers, _ := sent(t, door, text)
				mu.Lock()
				if seen[kind.name] == nil {
					seen[kind.name] = map[int]int{}
				}
				seen[kind.name][status]++
				mu.Unlock()
				if !slices.Contains(kind.want, status) {
					t.Errorf("%s: %d, not %v, for %.200q", kind.name, status, kind.want, text)
				}
				if answers > 1 && status != http.StatusOK && status != http.StatusAccepted {
					t.Errorf("%s: %d answers to %.200q", kind.name, answers, text)
				}
			}
		})
	}
	senders.Wait()
	t.Logf("10,000 in %v", time.Since(begun).Round(100*time.Millisecond))
	for _, kind := range kinds {
		t.Logf("%s: %v", kind.name, seen[kind.name])
	}

	// Whoever was slow is cut off: a header without a word, a body with 408.
	for i, c := range slow {
		_ = c.SetReadDeadline(time.Now().Add(15 * time.Second))
		text, err := io.ReadAll(c)
		if err != nil {
			t.Fatalf("one that is slow is left waiting: %v", err)
		}
		if i%2 == 0 && !bytes.HasPrefix(text, []byte("HTTP/1.1 408 ")) || i%2 == 1 && len(text) > 0 && !bytes.HasPrefix(text, []byte("HTTP/1.1 408 ")) {
			t.Errorf("one that is slow is told %q", text)
		}
		_ = c.Close()
	}
	if good() != http.StatusOK {
		t.Error("an honest request is refused after it")
	}
	if n := len(f.calls("SMUGGLED")); n > 0 {
		t.Errorf("%d requests were smuggled in", n)
	}
	until(t, 20*time.Second, "nothing is left of it", func() bool {
		return descriptors(t, worker) <= files+10 && goroutines(t, vital) <= routines+20
	})
	t.Logf("%d open files and %d goroutines before, %d and %d after; %d MiB at most", files, routines, descriptors(t, worker), goroutines(t, vital), peak(t, worker))
	for _, never := range []string{"panic", "a bug in", `"level":"error"`} {
		if found := worker.log.find(never); found != "" {
			t.Errorf("the worker's log says: %s", found)
		}
	}
}

// sent sends a text and reads what comes until the connection ends: the first
// status (0: none), how many answers there are, and all of it.
func sent(t *testing.T, door, text string) (status, answers int, said string) {
	t.Helper()
	nc, err := net.Dial("tcp", door)
	if err != nil {
		t.Error(err)
		return 0, 0, ""
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(15 * time.Second))
	_, _ = io.WriteString(nc, text) // it may be refused before all is sent
	var all bytes.Buffer
	in := bufio.NewReader(io.TeeReader(nc, &all))
	for {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return status, answers, all.String()
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if answers++; answers == 1 {
			status = res.StatusCode
			_ = nc.SetReadDeadline(time.Now().Add(300 * time.Millisecond)) // for another one, if it is kept open
		}
	}
}

// descriptors are a process's open files.
func descriptors(t *testing.T, p *process) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		t.Skip("this system does not tell a process's files")
	}
	return len(open)
}

func goroutines(t *testing.T, vital string) int {
	t.Helper()
	_, text := get(t, "http://"+vital+"/metrics")
	_, after, _ := strings.Cut(text, "\ngo_goroutines ")
	n, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(after, "\n", 2)[0]))
	if err != nil {
		t.Fatalf("no number of goroutines: %v", err)
	}
	return n
}

// TestNoFailureTellsASecret has hundreds of requests fail in every way, of
// providers that send the key back in whatever they say, and then looks for the
// key and for the agent's token in all that a built worker said, stored, sent
// and left behind, its last words included.
func TestNoFailureTellsASecret(t *testing.T) {
	begin(t)
	if !full {
		t.Skip("two minutes and a half: with FETCH_CHAOS=full; cmd/worker looks at fewer each time")
	}
	forms := []string{aKey, url.QueryEscape(aKey)}
	everywhere := strings.Join(forms, " ")
	steps := map[string]providertest.Step{
		"BADREQUEST": providertest.JSON(400, `{"Error Message":"apikey=`+everywhere+` is no good","error":"`+aKey+`","message":"`+aKey+`"}`),
		"FORBIDDEN":  providertest.JSON(403, `{"Error Message":"Exclusive Endpoint for `+everywhere+`","message":"`+aKey+`"}`),
		"MISSING":    {Status: 404, Header: http.Header{"Content-Type": {"text/plain"}}, Body: []byte(strings.Repeat("x", 370) + aKey + strings.Repeat("y", 100))},
		"GONE":       {Status: 410, Body: []byte("<html>" + everywhere)},
		"BROKEN":     providertest.JSON(500, `{"Error Message":"apikey=`+everywhere+`"}`),
		"GATEWAY":    {Status: 502, Body: []byte("<html><a href=\"?apikey=" + aKey + "\">" + everywhere + "</a>")},
		"CUT":        {Status: 200, Cut: 10, Body: []byte(`[{"a":"` + aKey + `"}]`)},
		"BEFORE":     {Cut: -1},
		"LENGTH":     {Status: 200, Header: http.Header{"Content-Length": {"999"}}, Body: []byte(`["` + aKey)},
		"NOJSON":     providertest.JSON(200, `{"`+aKey),
		"ECHO":       providertest.JSON(200, `[{"url":"https://x.test/?apikey=`+everywhere+`"}]`),
		"HEADERS":    {Status: 200, Header: http.Header{"Content-Type": {"text/plain;" + aKey}, "Etag": {`"` + aKey + `"`}, "Last-Modified": {aKey}, "Set-Cookie": {aKey}}, Body: []byte(`[1]`)},
		"ENCODING":   {Status: 200, Raw: true, Header: http.Header{"Content-Encoding": {aKey}}, Body: []byte(`[1]`)},
		"REDIRECT":   {Status: 302, Header: http.Header{"Location": {"http://127.0.0.1:1/?apikey=" + aKey}}},
		"NOWHERE":    {Status: 301, Header: http.Header{"Location": {"http://%zz/" + aKey}}},
		"SLOW":       {Status: 200, Latency: 5 * time.Second, Body: []byte(`["` + aKey + `"]`)},
	}
	f := newFleet(t, func(r *http.Request) *providertest.Step {
		symbol := path.Base(r.URL.Path)
		if step, ok := steps[strings.TrimRight(symbol, "0123456789")]; ok {
			return &step
		}
		return well(0)(r)
	})
	token, hash, err := tokens.New("alice")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	if err := os.WriteFile(file, []byte(hash+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	spans := &collected{}
	collector := httptest.NewServer(spans)
	defer collector.Close()
	for name, value := range map[string]string{
		"FETCH_GATEWAY": "on", "FETCH_GATEWAY_ADDR": "127.0.0.1:0", "FETCH_GATEWAY_TOKENS": file, "FETCH_HTTP_ADDR": "127.0.0.1:0", "FETCH_LOG_LEVEL": "debug",
		"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "OTEL_BSP_SCHEDULE_DELAY": "50", "FMP_TIMEOUT_SECONDS": "2", "FETCH_RETRY_BASE_SECONDS": "0.05",
		"FETCH_RETRIES": "1", "FETCH_CIRCUIT_OPEN_SECONDS": "1", "GOTRACEBACK": "all", "USER": "ann",
	} {
		f.env[name] = value
	}
	worker, replayer := f.worker(), f.replayer()
	started := worker.says(t, `"serving"`)
	door, vital := field(t, started, "gateway"), field(t, started, "http")

	told := map[string]*strings.Builder{"answers": {}, "events": {}, "tools": {}, "programs": {}, "metrics": {}}
	ask := func(where, first, body string, headers ...string) (status int, said string) {
		t.Helper()
		headers = append([]string{"Authorization: Bearer " + token}, headers...)
		if body != "" {
			headers = append(headers, "Content-Type: application/json", "Content-Length: "+strconv.Itoa(len(body)))
		}
		status, _, said = sent(t, door, line(first, headers...)+body)
		told[where].WriteString(said)
		return status, said
	}
	stream, err := net.Dial("tcp", door)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	_, _ = io.WriteString(stream, "GET /v1/answers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "+token+"\r\n\r\n")
	var live bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(&live, stream) })

	failures := 0
	for round := range 9 {
		for symbol := range steps {
			name := fmt.Sprint(symbol, round)
			status, _ := ask("answers", "GET /v1/fmp/quote?symbol="+name, "", "Prefer: wait=1", "Idempotency-Key: "+name)
			if status != http.StatusOK {
				failures++
			}
		}
		// What the door itself refuses.
		for _, no := range [][]string{
			{"GET /v1/fmp/quote?symbol=A", "", "Origin: https://evil.example.com"},
			{"POST /v1/fmp/quote", `{"params":`},
			{"GET /v1/answers", "", "Last-Event-ID: " + token[:9]},
			{"POST /v1/nobody/" + strings.ToLower(strings.ReplaceAll(token, "_", "-"))[:20], `{}`},
			{"DELETE /v1/answers", ""},
			{"GET /v1/fmp/quote?symbol=A", "", "Fetch-Agent: bob"},
		} {
			if status, _ := ask("answers", no[0], no[1], no[2:]...); status >= 400 {
				failures++
			}
		}
		for _, wrong := range []string{token + "x", token[:len(token)-1], "Basic", strings.ToUpper(token)} {
			status, _, said := sent(t, door, line("GET /v1/fmp/quote?symbol=A", "Authorization: Bearer "+wrong))
			told["answers"].WriteString(said)
			if status != http.StatusUnauthorized {
				t.Errorf("a token that is nobody's: %d", status)
			}
			failures++
		}
	}
	for n, call := range []string{
		`{"name":"fetch","arguments":{"provider":"fmp","operation":"quote","params":{"symbol":"BROKEN1"},"wait":1}}`,
		`{"name":"fetch","arguments":{"provider":"fmp","operation":"quote","params":{"symbol":"ECHO1"},"wait":1}}`,
		`{"name":"fetch","arguments":{"provider":"fmp","operation":"quote","params":{"symbol":"FORBIDDEN1"},"wait":1}}`,
		`{"name":"fetch","arguments":{"provider":"nobody","operation":"quote","wait":0}}`,
		`{"name":"read_answer","arguments":{"provider":"fmp","operation":"quote","id":"ECHO1"}}`,
		`{"name":"read_answer","arguments":{"provider":"fmp","operation":"quote","id":"FORBIDDEN1"}}`,
		`{"name":"limits","arguments":{}}`, `{"name":"nothing"}`, `{"name":"describe_operation","arguments":{"provider":"fmp","operation":"quote"}}`, `{"name":"search_operations","arguments":{"query":"quote"}}`,
	} {
		status, said := ask("tools", "POST /mcp", fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":%s}`, n, call), "Accept: application/json, text/event-stream", "Mcp-Protocol-Version: 2025-06-18")
		if !strings.Contains(said, "jsonrpc") {
			t.Errorf("%s: %d %s", call, status, said)
		}
	}
	for _, first := range []string{"GET /v1/limits", "GET /v1/providers", "GET /openapi.json", "GET /v1/requests/fmp/quote/ECHO1", "GET /v1/requests/fmp/quote/BROKEN1"} {
		ask("answers", first, "")
	}
	t.Logf("%d failures", failures)
	if failures < 200 {
		t.Errorf("only %d failures", failures)
	}
	for _, args := range [][]string{{"status"}, {"list"}, {"review", "list"}, {"doctor"}, {"events"}, {"usage", "--by", "cause"}, {"show", "alice/BROKEN1"}, {"show", "alice/FORBIDDEN1"}} {
		p := launch(t, "replayer "+args[0], program("replayer"), f.env, args...)
		p.ended(t, time.Minute)
		told["programs"].WriteString(p.log.tail(1 << 20))
	}
	for _, p := range []string{"/metrics", "/readyz", "/healthz"} {
		_, text := get(t, "http://"+vital+p)
		told["metrics"].WriteString(text)
	}
	stored := f.everythingStored()
	time.Sleep(time.Second) // the last spans

	// The last words of a process that dies with everything in hand.
	_, _ = ask("answers", "GET /v1/fmp/quote?symbol=SLOW99", "", "Prefer: respond-async")
	f.called("SLOW99", 1)
	worker.signal(t, syscall.SIGABRT)
	worker.ended(t, 20*time.Second)
	if worker.log.find("goroutine ") == "" {
		t.Error("it died without a word")
	}
	_ = stream.Close()
	reading.Wait()
	if !strings.Contains(live.String(), "event: answer") {
		t.Errorf("no events: %.300s", live.String())
	}
	told["events"].WriteString(live.String())
	places := map[string]string{"worker's log and last words": worker.log.tail(1 << 30), "replayer's log": replayer.log.tail(1 << 30), "traces": spans.String(), "stores": stored}
	for name, text := range told {
		places[name] = text.String()
	}
	for where, text := range places {
		t.Logf("%s: %d bytes", where, len(text))
		if len(text) == 0 {
			t.Errorf("nothing to look at: %s", where)
		}
		for what, secret := range map[string]string{"the key": aKey, "the token": token} {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("%s is in the %s: …%s…", what, where, text[max(0, at-200):min(len(text), at+200)])
			}
		}
	}
}

// everythingStored is every message of every stream, its headers included.
func (f *fleet) everythingStored() string {
	f.t.Helper()
	var b strings.Builder
	names := f.js.StreamNames(f.t.Context())
	for name := range names.Name() {
		s, err := f.js.Stream(f.t.Context(), name)
		if err != nil {
			f.t.Fatal(err)
		}
		state := s.CachedInfo().State
		for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
			m, err := s.GetMsg(f.t.Context(), seq)
			if err != nil {
				continue // it is gone
			}
			fmt.Fprintln(&b, m.Subject, m.Header, string(m.Data))
		}
	}
	if err := names.Err(); err != nil {
		f.t.Fatal(err)
	}
	return b.String()
}

// collected is all that came as spans.
type collected struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (c *collected) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(r.Body)
	}
	text, _ := io.ReadAll(body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all.Write(text)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (c *collected) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all.String()
}
