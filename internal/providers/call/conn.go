package call

import (
	"context"
	"crypto/tls"
	"net"
	"net/http/httptrace"
	"sync/atomic"
)

// heardConn counts what came in over a connection, so that a dead one is
// known by its silence.
type heardConn struct {
	net.Conn
	heard atomic.Int64 // bytes
}

func (c *heardConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.heard.Add(int64(n))
	return n, err
}

// hearing makes a dialer's connections heardConns.
func hearing(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &heardConn{Conn: conn}, nil
	}
}

// shared is the HTTP/2 connection that a call was given, which others use as
// well and which therefore outlives a call that timed out.
type shared struct {
	conn   *heardConn
	before int64 // heard when the call got it
}

func sharedConn(info httptrace.GotConnInfo) *shared {
	secure, ok := info.Conn.(*tls.Conn)
	if !ok || secure.ConnectionState().NegotiatedProtocol != "h2" {
		return nil
	}
	conn, ok := secure.NetConn().(*heardConn)
	if !ok {
		return nil
	}
	return &shared{conn: conn, before: conn.heard.Load()}
}

// retire closes the connection if not a byte has come over it since the call
// got it: something between us and the provider drops what it carries, and
// every later call would be lost on it as well.
func (s *shared) retire() {
	if s != nil && s.conn.heard.Load() == s.before {
		_ = s.conn.Close()
	}
}
