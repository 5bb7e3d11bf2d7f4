package e2e

import (
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
)

// middlebox lies between the worker and a provider: it can stop carrying what
// the connections that stand say, without a word to either end.
type middlebox struct {
	net.Listener
	to string

	mu    sync.Mutex
	dead  int // connections so far that carry nothing any more
	conns []net.Conn
}

func startMiddlebox(t *testing.T, to string) *middlebox {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &middlebox{Listener: ln, to: to}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := new(net.Dialer).DialContext(t.Context(), "tcp", to)
			if err != nil {
				_ = conn.Close()
				continue
			}
			m.mu.Lock()
			number := len(m.conns) / 2
			m.conns = append(m.conns, conn, far)
			m.mu.Unlock()
			all.Go(func() { m.carry(number, conn, far) })
			all.Go(func() { m.carry(number, far, conn) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		m.mu.Lock()
		for _, conn := range m.conns {
			_ = conn.Close()
		}
		m.mu.Unlock()
		all.Wait()
	})
	return m
}

func (m *middlebox) carry(number int, from, to net.Conn) {
	piece := make([]byte, 32<<10)
	for {
		n, err := from.Read(piece)
		if err != nil {
			return // the other end is not told either
		}
		m.mu.Lock()
		dead := number < m.dead
		m.mu.Unlock()
		if dead {
			continue
		}
		if _, err := to.Write(piece[:n]); err != nil {
			return
		}
	}
}

// drop silences all connections that stand. New ones work.
func (m *middlebox) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = len(m.conns) / 2
}

func (m *middlebox) made() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.conns) / 2
}

// trusted is a file with a test server's certificate, for SSL_CERT_FILE.
func trusted(t *testing.T, server *httptest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestAConnectionThatDiesInSilenceIsReplaced, over HTTP/2 and HTTP/1.1: what
// lies on the way drops it and tells nobody. One time-out and one probe later
// all goes on, again and again.
func TestAConnectionThatDiesInSilenceIsReplaced(t *testing.T) {
	begin(t)
	for _, version := range []int{2, 1} {
		t.Run(fmt.Sprint("HTTP/", version), func(t *testing.T) {
			upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor != version {
					t.Errorf("it came over %s", r.Proto)
				}
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, aQuote)
			}))
			upstream.EnableHTTP2 = version == 2
			upstream.StartTLS()
			defer upstream.Close()
			between := startMiddlebox(t, upstream.Listener.Addr().String())
			f := newFleet(t, well(0))
			f.env["FMP_BASE_URL"], f.env["SSL_CERT_FILE"] = "https://"+between.Addr().String()+"/api/v3", trusted(t, upstream)
			f.env["FMP_TIMEOUT_SECONDS"], f.env["FETCH_CIRCUIT_OPEN_SECONDS"], f.env["FETCH_RETRY_BASE_SECONDS"] = "1", "0.5", "0.2"
			f.worker()
			f.replayer()
			f.final(f.quote("alice", "FIRST"), 20*time.Second)
			for round := range pick(1, 5) {
				before := between.made()
				between.drop()
				start := time.Now()
				var ids []fetchworker.Identity
				for i := range 5 {
					ids = append(ids, f.quote("alice", fmt.Sprint("S", round, "-", i)))
				}
				for _, id := range ids {
					if a := f.final(id, 30*time.Second); a.Status != fetchworker.StatusOK {
						t.Errorf("%s: %s %v", id, a.Status, a.Err())
					}
				}
				t.Logf("answered after %v, %d connections made anew", time.Since(start).Round(time.Millisecond), between.made()-before)
				if between.made() == before {
					t.Error("no other connection was made")
				}
			}
		})
	}
}

// talks is a server that takes connections and does something rude with each.
func talks(t *testing.T, with func(net.Conn)) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				with(conn)
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return "localhost:" + port
}

// TestAgentsAreToldNothingOfTheNetworkInside has calls break in every way that
// a connection can. What an agent is told names the host that was asked for and
// what kind of failure it was; addresses, ports and resolvers are in the log.
func TestAgentsAreToldNothingOfTheNetworkInside(t *testing.T) {
	begin(t)
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	_, securePort, _ := net.SplitHostPort(secure.Listener.Addr().String())
	read := func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) }
	say := func(text string) func(net.Conn) {
		return func(c net.Conn) { read(c); _, _ = io.WriteString(c, text) }
	}
	resets := func(c net.Conn) {
		read(c)
		if tcp, is := c.(*net.TCPConn); is {
			_ = tcp.SetLinger(0)
		}
	}
	ways := map[string]string{
		"noname":    "http://api.nowhere.invalid",
		"refused":   "http://localhost:1",
		"stranger":  "https://localhost:" + securePort,
		"notls":     "https://" + talks(t, say("HTTP/1.1 400 Bad Request\r\n\r\n")),
		"closes":    "http://" + talks(t, read),
		"atonce":    "http://" + talks(t, func(net.Conn) {}),
		"resets":    "http://" + talks(t, resets),
		"silent":    "http://" + talks(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }),
		"babbles":   "http://" + talks(t, say("220 mail.inside.example ESMTP\r\n")),
		"breaksoff": "http://" + talks(t, say("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n[1")),
		"switches":  "http://" + talks(t, say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: inside\r\nConnection: Upgrade\r\n\r\n")),
		"badlength": "http://" + talks(t, say("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n")),
		"badheader": "http://" + talks(t, say("HTTP/1.1 200 OK\r\nvia tcp inside.example\r\n\r\n")),
	}
	var catalogue strings.Builder
	catalogue.WriteString("providers:\n")
	for name, base := range ways {
		fmt.Fprintf(&catalogue, "  %s: {base_url: '%s', timeout: 1s, auth: none, operations: {page: {path: '/page'}}}\n", name, base)
	}
	file := filepath.Join(t.TempDir(), "catalog.yaml")
	if err := os.WriteFile(file, []byte(catalogue.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFleet(t, well(0))
	f.env["FETCH_CATALOG"], f.env["FETCH_RETRIES"], f.env["FETCH_CIRCUIT_FAILURES"] = file, "0", "0"
	worker := f.worker()
	f.replayer()
	agent, err := f.agent("alice")
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]fetchworker.Receipt{}
	for name := range ways {
		if asked[name], err = agent.Submit(t.Context(), fetchworker.Request{Provider: name, Operation: "page"}); err != nil {
			t.Fatal(err)
		}
	}
	address := regexp.MustCompile(`\d+\.\d+\.\d+\.\d+|\[?::1|:\d{2,5}\b`)
	for name, base := range ways {
		a := f.final(asked[name].Identity, 30*time.Second)
		if a.Problem == nil {
			t.Errorf("%s: %s", name, a.Status)
			continue
		}
		at, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		said := fmt.Sprint(a.Problem.Detail, " ", a.Problem.Title)
		t.Logf("%s: %s", name, said)
		inside := strings.ReplaceAll(said, at.Host, "HOST")
		for _, word := range []string{"lookup ", "dial ", "tcp", "->", "resolv", "syscall", "goroutine", "inside.example", "net/http"} {
			if strings.Contains(inside, word) {
				t.Errorf("%s: an agent is told %q", name, said)
			}
		}
		if found := address.FindString(inside); found != "" || !strings.Contains(said, at.Hostname()) && name != "switches" {
			t.Errorf("%s: an agent is told %q", name, said)
		}
	}
	if worker.gone() {
		t.Error("the worker is dead")
	}
}
