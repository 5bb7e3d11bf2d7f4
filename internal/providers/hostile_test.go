package providers_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/providers"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

const hostileKey = "canaryK3Y0123456789abcdef"

// hostile is a provider whose API answers each connection with these bytes
// and then says nothing more, nor closes.
func hostile(t *testing.T, name, answer string) *providers.Provider {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = c.Write([]byte(answer))
			}
			<-stop
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		close(stop)
		_ = l.Close()
		<-done
	})
	p, ok := load(t, map[string]string{
		prefixes[name] + "_API_KEY": hostileKey, prefixes[name] + "_BASE_URL": "http://" + l.Addr().String(), prefixes[name] + "_TIMEOUT_SECONDS": "10",
	}).Provider(name)
	if !ok {
		t.Fatal(name)
	}
	return p
}

func TestAProtocolSwitchEndsTheCall(t *testing.T) {
	p := hostile(t, "fmp", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	start := time.Now()
	r := p.Do(t.Context(), plan(t, p, "quote", quote), providers.Options{})
	if r.Class != wire.ClassTransient || r.ErrorType != "network" || r.HTTPStatus != 0 || !r.Sent || time.Since(start) > 3*time.Second {
		t.Errorf("%s %d %s after %v", r.Class, r.HTTPStatus, r.Detail, time.Since(start))
	}
}

func TestHeadersThatNoAnswerCouldCarryAreDropped(t *testing.T) {
	long := strings.Repeat("e", 70<<10)
	p := hostile(t, "fmp", "HTTP/1.1 200 OK\r\nContent-Type: application/json; x="+long+"\r\nETag: \""+long+"\"\r\nLast-Modified: "+long+"\r\nContent-Length: 14\r\n\r\n[{\"price\": 1}]")
	r := p.Do(t.Context(), plan(t, p, "quote", quote), providers.Options{})
	if r.Class != wire.ClassOK || r.ContentType != "" || r.ETag != "" || r.LastModified != "" {
		t.Errorf("%s, a content type of %d bytes, validators of %d and %d", r.Class, len(r.ContentType), len(r.ETag), len(r.LastModified))
	}
	p = hostile(t, "fmp", "HTTP/1.1 200 OK\r\nContent-Type: a\tb\r\nETag: \"\t\"\r\nLast-Modified: "+strings.Repeat("e", 1<<10)+"\r\nContent-Length: 14\r\n\r\n[{\"price\": 1}]")
	if r = p.Do(t.Context(), plan(t, p, "quote", quote), providers.Options{}); r.Class != wire.ClassOK || r.ContentType != "" || r.ETag != "" || len(r.LastModified) != 1<<10 {
		t.Errorf("%s, content type %q, validators %q and of %d bytes", r.Class, r.ContentType, r.ETag, len(r.LastModified))
	}
	body := `{"status":"OK","results":[{"a":1}],"next_url":"https://api.polygon.io/v3/reference/tickers?cursor=` + long + `"}`
	p = hostile(t, "polygon", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	if r = p.Do(t.Context(), plan(t, p, "get", `{"path":"/v3/reference/tickers"}`), providers.Options{}); r.Class != wire.ClassOK || len(r.Next) > 0 {
		t.Errorf("%s, next of %d bytes", r.Class, len(r.Next))
	}
}

// Statuses are labels of metrics: what is none of HTTP is no status.
func TestAStatusBeyondHTTPIsNoAnswer(t *testing.T) {
	for _, status := range []string{"000", "099", "600", "999"} {
		p := hostile(t, "fmp", "HTTP/1.1 "+status+" x\r\nContent-Length: 3\r\n\r\n[1]")
		r := p.Do(t.Context(), plan(t, p, "quote", quote), providers.Options{})
		if r.Class != wire.ClassTransient || r.ErrorType != "network" || r.HTTPStatus != 0 || !r.Sent {
			t.Errorf("%s: %s %s %d, sent %v", status, r.Class, r.ErrorType, r.HTTPStatus, r.Sent)
		}
	}
}

// Only the start of what a member says is made into a detail.
func TestALongErrorTextIsCut(t *testing.T) {
	p := hostile(t, "polygon", "")
	r := verdict(p, sheet.FormatJSON, 500, "application/json", []byte(`{"error":"`+strings.Repeat("a ", 1<<20)+`"}`), nil)
	if r.Class != wire.ClassTransient || len(r.Detail) > 65<<10 {
		t.Errorf("%s, %d bytes", r.Class, len(r.Detail))
	}
}

func TestAKeyIsFoundBehindEscapesThatNothingCallsFor(t *testing.T) {
	for _, echo := range []string{`\u0063anaryK3Y0123456789abcdef`, `%63anaryK3Y0123456789abcdef`, `canary\u004b3Y0123456789abcde%66`} {
		body := `[{"echo":"` + echo + `"}]`
		p := hostile(t, "fmp", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		r := p.Do(t.Context(), plan(t, p, "quote", quote), providers.Options{})
		if !r.Redacted || strings.Contains(string(r.Body), "anaryK3Y01234") {
			t.Errorf("%s came through: %s", echo, r.Body)
		}
	}
}

// White space is folded in a detail, so what was cut off far behind in a body
// can stand at its front.
func TestACutThroughTheKeyShowsNoHalfOfIt(t *testing.T) {
	for _, most := range []int{4 << 10, 64 << 10} {
		for _, form := range []string{"%s", `{"error":"%s"}`, `{"message":"%s"}`} {
			for _, half := range []int{4, 8, 20} {
				head := strings.Index(form, "%s") + 1
				body := fmt.Sprintf(form, strings.Repeat(" ", most-half-head)+hostileKey)
				p := hostile(t, "polygon", fmt.Sprintf("HTTP/1.1 500 x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
				if r := p.Do(t.Context(), plan(t, p, "get", `{"path":"/v3/reference/tickers"}`), providers.Options{}); strings.Contains(r.Detail, hostileKey[:4]) {
					t.Fatalf("%s cut at %d: %s", form, most, r.Detail)
				}
			}
		}
	}
}
