package call_test

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fetchworker/internal/providers/call"
	"fetchworker/internal/wire"
)

// gateway is what lies between us and a provider: it can go silent on the
// connections that stand, while new ones work.
type gateway struct {
	mu     sync.Mutex
	dials  int
	silent []chan struct{} // closed: this connection carries nothing more
}

type throughGateway struct {
	net.Conn
	silent chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (g *gateway) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dials++
	silent := make(chan struct{})
	g.silent = append(g.silent, silent)
	return &throughGateway{Conn: conn, silent: silent, closed: make(chan struct{})}, nil
}

func (g *gateway) drop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, silent := range g.silent {
		close(silent)
	}
	g.silent = nil
}

func (c *throughGateway) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	select {
	case <-c.silent:
		<-c.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (c *throughGateway) Write(b []byte) (int, error) {
	select {
	case <-c.silent:
		return len(b), nil // into nothing
	default:
		return c.Conn.Write(b)
	}
}

func (c *throughGateway) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A connection that carries nothing any more costs one time-out, not every
// call from then on; one that only has a slow call on it stays.
func TestADeadConnectionIsRetired(t *testing.T) {
	slow := make(chan struct{})
	var calls atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1); r.URL.Query().Get("slow") != "" {
			select {
			case <-slow:
			case <-r.Context().Done():
			}
			return
		}
		_, _ = io.WriteString(w, `[1]`)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	defer close(slow)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())

	g := &gateway{}
	p, planned := callerBy(t, server.URL, g.dial, 300*time.Millisecond)
	call.Trust(p, pool)
	good := func() {
		t.Helper()
		if r := p.Do(t.Context(), planned, call.Options{}); r.Class != wire.ClassOK {
			t.Fatalf("%s %s", r.Class, r.Detail)
		}
	}
	good()
	delayed := *planned
	delayed.RawQuery = "slow=1"
	var others sync.WaitGroup
	others.Go(func() {
		for range 20 {
			good()
			time.Sleep(20 * time.Millisecond)
		}
	})
	if r := p.Do(t.Context(), &delayed, call.Options{}); r.ErrorType != "timeout" {
		t.Errorf("%s", r.ErrorType)
	}
	others.Wait()
	if g.dials != 1 {
		t.Errorf("a slow call took the connection of all others with it: %d connections", g.dials)
	}
	g.drop()
	if r := p.Do(t.Context(), planned, call.Options{}); r.ErrorType != "timeout" || !r.Sent {
		t.Errorf("a dead connection: %s, sent %v", r.ErrorType, r.Sent)
	}
	good()
	if g.dials != 2 {
		t.Errorf("%d connections", g.dials)
	}
}

// What agents are told of a broken connection names the host that was asked
// for and nothing of the network that we are in.
func TestABrokenConnectionTellsNothingOfOurNetwork(t *testing.T) {
	inside := &net.TCPAddr{IP: net.IPv4(10, 20, 30, 40), Port: 40322}
	far := &net.TCPAddr{IP: net.ParseIP("fd00::dead:beef"), Port: 443}
	for what, err := range map[string]error{
		"is not known": &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "x", Server: "10.20.30.53:53", IsNotFound: true}},
		"in time":      &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "i/o timeout", Name: "x", Server: "10.20.30.53:53", IsTimeout: true}},
		"looked up":    &net.DNSError{Err: "server misbehaving on 10.20.30.53:53", Name: "x", Server: "10.20.30.53:53", IsTemporary: true},
		"refused":      &net.OpError{Op: "dial", Net: "tcp", Source: inside, Addr: far, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
		"no route":     &net.OpError{Op: "proxyconnect", Net: "tcp", Addr: inside, Err: &net.OpError{Op: "dial", Net: "tcp", Addr: inside, Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}},
		"reset":        &net.OpError{Op: "read", Net: "tcp", Source: inside, Addr: far, Err: os.NewSyscallError("read", syscall.ECONNRESET)},
		"no answer":    &net.OpError{Op: "read", Net: "tcp", Source: inside, Addr: far, Err: os.ErrDeadlineExceeded},
		"broke off":    io.ErrUnexpectedEOF,
		"(address)":    errors.New("socks 10.20.30.40:1080 says no to [fd00::dead:beef]:443 and fd00::dead:beef"),
	} {
		p, planned := callerBy(t, "http://api.example.com", func(context.Context, string, string) (net.Conn, error) { return nil, err }, time.Second)
		r := p.Do(t.Context(), planned, call.Options{})
		if !strings.Contains(r.Detail, what) || !strings.Contains(r.Detail, "api.example.com") {
			t.Errorf("%s: %s", what, r.Detail)
		}
		for _, secret := range []string{"10.20", "40322", "beef", ":53"} {
			if strings.Contains(r.Detail, secret) {
				t.Errorf("%s tells %s", r.Detail, secret)
			}
		}
		if !errors.Is(r.Err, err) {
			t.Errorf("%s: the cause is lost: %v", what, r.Err)
		}
	}
}

// A connection that breaks within a body is a connection all the same.
func TestABodyThatBreaksOffTellsNothingOfOurNetwork(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `[1`)
		_ = http.NewResponseController(w).Flush()
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // a reset
			}
			_ = conn.Close()
		}
	}))
	defer server.Close()
	p, planned := callerBy(t, server.URL, nil, time.Second)
	r := p.Do(t.Context(), planned, call.Options{})
	host := strings.TrimPrefix(server.URL, "http://")
	if rest := strings.ReplaceAll(r.Detail, host, ""); r.Class != wire.ClassTransient || strings.Contains(rest, "127.0.0.1") || r.Detail == "" {
		t.Errorf("%s: %s", r.Class, r.Detail)
	}
}

// What answers in place of an API is not quoted: its words are of our network,
// or of the provider's, and no agent's business.
func TestWhatIsNoHTTPIsNotQuoted(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for what, said := range map[string]string{
		"a greeting":         "220 mail.inside.example ESMTP\r\n",
		"a status":           "HTTP/1.1 inside.example OK\r\n\r\n",
		"a version":          "HTTP/inside.example 200 OK\r\n\r\n",
		"a header":           ok + "via inside.example\r\n\r\n",
		"a header's name":    ok + "x inside.example: 1\r\n\r\n",
		"a length":           ok + "Content-Length: inside.example\r\n\r\n",
		"two lengths":        ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"an encoding":        ok + "Transfer-Encoding: inside.example\r\n\r\n",
		"a chunk":            ok + "Transfer-Encoding: chunked\r\n\r\ninside.example\r\n",
		"a trailer":          ok + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n",
		"a line without end": strings.Repeat("inside.example", 100_000),
	} {
		ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var served sync.WaitGroup
		served.Go(func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Read(make([]byte, 4096))
				_, _ = io.WriteString(conn, said)
				_ = conn.Close()
			}
		})
		p, planned := callerBy(t, "http://"+ln.Addr().String(), nil, 5*time.Second)
		r := p.Do(t.Context(), planned, call.Options{})
		if r.Class == wire.ClassOK || strings.Contains(r.Detail, "inside") || strings.Contains(r.Detail, "net/http") {
			t.Errorf("%s: %s: %q", what, r.Class, r.Detail)
		}
		t.Logf("%s: %s", what, r.Detail)
		_ = ln.Close()
		served.Wait()
	}
}
