package gateway_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/gateway"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// keep stores a body in parts, as a worker does.
func (r *rig) keep(agent, body string) *fetchworker.Claim {
	r.t.Helper()
	sum := sha256.Sum256([]byte(body))
	digest := hex.EncodeToString(sum[:])
	claim := &fetchworker.Claim{Prefix: wire.BodyPrefix(agent, digest), Bytes: int64(len(body)), SHA256: digest}
	for rest := body; rest != ""; {
		n := min(len(rest), fetchworker.MaxInlineBody)
		claim.Parts++
		if _, err := r.b.JS.Publish(r.t.Context(), claim.Prefix+"."+strconv.Itoa(claim.Parts), []byte(rest[:n])); err != nil {
			r.t.Fatal(err)
		}
		rest = rest[n:]
	}
	return claim
}

// dial opens a connection that takes little at a time.
func (r *rig) dial() *net.TCPConn {
	r.t.Helper()
	nc, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		r.t.Fatal(err)
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		r.t.Fatal("no TCP")
	}
	r.t.Cleanup(func() { _ = tcp.Close() })
	if err := tcp.SetReadBuffer(128 << 10); err != nil {
		r.t.Fatal(err)
	}
	return tcp
}

// However many ask for large answers at once, few parts of them are on their way
// from the server: it would end a connection that it has too much for, with
// everybody's answers on it.
func TestLargeAnswersComeAFewPartsAtATime(t *testing.T) {
	r := newRig(t, nil)
	body := strings.Repeat("0123456789abcdef", 128<<10) // three parts
	claim := r.keep("http", body)
	r.says(func(fetchworker.Request) []fetchworker.Answer {
		return []fetchworker.Answer{{Status: fetchworker.StatusOK, Final: true, FetchedAt: time.Now(), ContentType: "text/plain", SHA256: claim.SHA256, Claim: claim}}
	})
	watcher := r.b.Connect(t)
	defer watcher.Close()
	var mu sync.Mutex
	under, most := 0, 0
	saw := func(n int) nats.MsgHandler {
		return func(m *nats.Msg) {
			if n < 0 && !strings.HasPrefix(m.Header.Get("Nats-Subject"), claim.Prefix) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			under += n
			most = max(most, under)
		}
	}
	for subject, n := range map[string]int{"$JS.API.DIRECT.GET." + fetchworker.StreamBodies + ".>": 1, "_INBOX.>": -1} {
		if _, err := watcher.Subscribe(subject, saw(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := watcher.Flush(); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for n := range 60 {
		readers.Go(func() {
			if s := r.get("/v1/fmp/history?symbol=S" + strconv.Itoa(n)); s.StatusCode != http.StatusOK || s.body != body {
				t.Errorf("%d, %d bytes", s.StatusCode, len(s.body))
			}
		})
	}
	readers.Wait()
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d parts at the most were on their way", most)
	// Four, and what the watcher, who stands apart, sees a moment later: of a busy
	// machine several of each. Without the bound it is most of the sixty.
	if most > 20 {
		t.Errorf("%d parts were on their way", most)
	}
}

// Who reads slowly gets the whole body all the same, as long as something is
// taken; who takes nothing is cut off.
func TestSlowReaders(t *testing.T) {
	r := newRig(t, (*gateway.Config).Hurry)
	var body strings.Builder
	for n := 0; body.Len() < 8<<20; n++ {
		fmt.Fprintf(&body, "%d\n", n)
	}
	claim := r.keep("http", body.String())
	r.says(func(fetchworker.Request) []fetchworker.Answer {
		return []fetchworker.Answer{{Status: fetchworker.StatusOK, Final: true, FetchedAt: time.Now(), ContentType: "text/plain", SHA256: claim.SHA256, Claim: claim}}
	})
	slow, stuck := r.dial(), r.dial()
	for _, nc := range []*net.TCPConn{slow, stuck} {
		if _, err := io.WriteString(nc, "GET /v1/fmp/history?symbol=A HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	res, err := http.ReadResponse(bufio.NewReader(slow), nil)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res, err)
	}
	defer func() { _ = res.Body.Close() }()
	var got []byte
	for pauses := 0; ; {
		piece := make([]byte, 512<<10)
		n, err := io.ReadFull(res.Body, piece)
		got = append(got, piece[:n]...)
		if err != nil {
			break
		}
		if pauses++; pauses < 9 { // in all longer than a piece may take
			time.Sleep(250 * time.Millisecond)
		}
	}
	if string(got) != body.String() {
		t.Errorf("%d bytes of %d", len(got), body.Len())
	}
	time.Sleep(time.Second) // with what the other took, longer than anybody may take nothing
	_ = stuck.SetReadDeadline(time.Now().Add(10 * time.Second))
	if some, err := io.ReadAll(stuck); len(some) >= body.Len() {
		t.Errorf("%d bytes came to somebody who took none: %v", len(some), err)
	}
}
