package broker

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// counted counts the writes that reach the system.
type counted struct {
	net.Conn
	mu     sync.Mutex
	writes int
}

func (c *counted) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.writes++
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// pair is a gathered connection, and its other side.
func pair() (*gathered, *counted, net.Conn) {
	ours, theirs := net.Pipe()
	inner := &counted{Conn: ours}
	return gather(inner), inner, theirs
}

// What is written while the other side is busy goes out in one write, whole and
// in its order.
func TestWritesAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, inner, theirs := pair()
		var want bytes.Buffer
		for i := range 500 {
			line := fmt.Appendf(nil, "line %d\n", i)
			want.Write(line)
			if n, err := g.Write(line); n != len(line) || err != nil {
				t.Fatalf("%d %v", n, err)
			}
			if i == 0 {
				synctest.Wait() // the first is on its way, and nobody reads
			}
			clear(line) // whoever writes has its memory back
		}
		got := make(chan []byte)
		go func() {
			all, _ := io.ReadAll(theirs)
			got <- all
		}()
		synctest.Wait()
		if inner.writes != 2 {
			t.Errorf("%d writes", inner.writes)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if all := <-got; !bytes.Equal(all, want.Bytes()) {
			t.Errorf("%d bytes came of %d", len(all), want.Len())
		}
	})
}

// A side that takes nothing makes those wait who write, at its bound, and its end
// is told them all.
func TestAFullConnectionMakesWritersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, theirs := pair()
		piece := make([]byte, gatheredMost/4)
		written := make(chan int)
		go func() {
			n := 0
			for ; n < 100; n++ {
				if _, err := g.Write(piece); err != nil {
					break
				}
			}
			written <- n
		}()
		time.Sleep(time.Hour)
		g.mu.Lock()
		waits := len(g.buf)
		g.mu.Unlock()
		if waits < gatheredMost || waits >= gatheredMost+len(piece) {
			t.Errorf("%d bytes wait", waits)
		}
		if _, err := io.CopyN(io.Discard, theirs, 20*int64(len(piece))); err != nil {
			t.Error(err)
		}
		_ = theirs.Close()
		if n := <-written; n < 20 || n > 30 {
			t.Errorf("%d were taken", n)
		}
		if _, err := g.Write(piece); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("after that: %v", err)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A deadline is of what was written under it, also where it has been lifted by the
// time that the system takes it; who reads hears that the connection is gone.
func TestAWriteThatTakesTooLongEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, theirs := pair()
		start := time.Now()
		if err := g.SetWriteDeadline(start.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := g.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Read(make([]byte, 1)); err == nil || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if _, err := g.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the next write: %v", err)
		}
		if _, err := theirs.Read(make([]byte, 1)); err == nil {
			t.Error("the other side does not hear of it")
		}
	})
}

// A close does not lose what was said before it, nor does it wait for one who
// takes nothing.
func TestAClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, theirs := pair()
		if _, err := g.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		go func() { _ = g.Close() }()
		if all, err := io.ReadAll(theirs); err != nil || string(all) != "last words" {
			t.Errorf("%q %v", all, err)
		}
		synctest.Wait()
		if _, err := g.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after the close: %v", err)
		}

		stuck, _, _ := pair()
		for range 3 {
			if _, err := stuck.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		if _ = stuck.Close(); time.Since(start) > closeLasts {
			t.Errorf("closed after %v", time.Since(start))
		}
		_ = stuck.Close() // as the client library may
	})
}

// proxied dials what it likes.
type proxied struct {
	asked []string
	skips bool
}

func (p *proxied) Dial(_, address string) (net.Conn, error) {
	p.asked = append(p.asked, address)
	ours, _ := net.Pipe()
	return ours, nil
}

func (p *proxied) SkipTLSHandshake() bool { return p.skips }

// What somebody else dials, a proxy of a context, is gathered as well and else
// left as it is.
func TestGatheringLeavesOthersDialers(t *testing.T) {
	for _, skips := range []bool{false, true} {
		p := &proxied{skips: skips}
		o := nats.Options{CustomDialer: p}
		if err := gathering(&o); err != nil || o.SkipHostLookup {
			t.Fatal(err, o.SkipHostLookup)
		}
		conn, err := o.CustomDialer.Dial("tcp", "nats.test:4222")
		if _, is := conn.(*gathered); !is || err != nil || len(p.asked) != 1 || p.asked[0] != "nats.test:4222" {
			t.Errorf("%T %v, asked %v", conn, err, p.asked)
		}
		if d, is := o.CustomDialer.(gatheringDialer); !is || d.SkipTLSHandshake() != skips {
			t.Errorf("%T skips TLS: %t", o.CustomDialer, !skips)
		}
		_ = conn.Close()
	}
}

// Of a host all addresses are tried.
func TestAHostIsDialledAtAllItsAddresses(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0") // where localhost is ::1 too, nobody listens there
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, host := range []string{"localhost", "127.0.0.1"} {
		conn, err := (&hostDialer{timeout: 5 * time.Second}).Dial("tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		_ = conn.Close()
	}
	_ = l.Close()
	if _, err := (&hostDialer{timeout: 5 * time.Second}).Dial("tcp", net.JoinHostPort("localhost", port)); err == nil {
		t.Error("nobody listens")
	}
}

// Over TLS what is gathered is what is encrypted, and the name asked for is the
// one that the certificate must be for.
func TestGatheringOverTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil) // for its certificate, of 127.0.0.1
	defer web.Close()
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		TLS: true, TLSTimeout: 5, TLSConfig: &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	_, port, _ := net.SplitHostPort(s.Addr().String())
	secure := nats.Secure(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	nc, err := nats.Connect("tls://127.0.0.1:"+port, secure, gathering)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.TLSConnectionState(); err != nil {
		t.Error(err)
	}
	sub, err := nc.SubscribeSync("said")
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte("x"), 3000)
	for i := range 500 {
		if err := nc.Publish("said", append(fmt.Appendf(nil, "%d ", i), body...)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 500 {
		m, err := sub.NextMsg(10 * time.Second)
		if err != nil || string(m.Data) != fmt.Sprintf("%d %s", i, body) {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	var wrong x509.HostnameError
	if _, err := nats.Connect("tls://localhost:"+port, secure, gathering); !errors.As(err, &wrong) || wrong.Host != "localhost" {
		t.Errorf("a certificate of another host: %v", err)
	}
}
