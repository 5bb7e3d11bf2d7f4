package call

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http/httpguts"

	"fetchworker/internal/providers/plan"
)

// plain makes calls without a body to a host that is spoken to in HTTP/1.1, in the
// clear and without a proxy: written and read by whoever makes the call. (Of
// net/http's transport two goroutines stand behind each connection, which are woken
// for each call and wake in turn: with what they hand to each other a third of a
// worker's CPU.) What comes is read by net/http; whatever is not so plain goes the
// transport's way.
type plain struct {
	pool *pool
	host string // as a request names it
}

// plainHost is a host that needs no translation.
var plainHost = regexp.MustCompile(`^(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(:[0-9]+)?$`)

// newPlain is nil for an API that is to be called in another way. proxied says
// that one may stand between.
func newPlain(base *url.URL, dial DialFunc, proxied bool) *plain {
	if base == nil || base.Scheme != "http" || base.User != nil || !plainHost.MatchString(base.Host) {
		return nil
	}
	if proxied {
		if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: base}); proxy != nil || err != nil {
			return nil
		}
	}
	address := net.JoinHostPort(base.Hostname(), cmp.Or(base.Port(), "80"))
	return &plain{pool: &pool{dial: dial, address: address}, host: base.Host}
}

// takes reports whether a call can go this way.
func (p *plain) takes(call *plan.Call, query string, header http.Header) bool {
	if p == nil || call.Body != nil || !plainPath(call.Path) || !plainQuery(query) {
		return false
	}
	for name, values := range header {
		switch name {
		case "Host", "Connection", "Content-Length", "Transfer-Encoding", "Trailer", "Expect", "Upgrade":
			return false
		}
		if len(values) != 1 || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(values[0]) {
			return false
		}
	}
	return true
}

// plainPath reports whether a path is sent in the letters that it has.
func plainPath(path string) bool {
	for i := range len(path) {
		c := path[i]
		switch {
		case '0' <= c && c <= '9', 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z':
		case strings.IndexByte("/-_.~%!$&'()*+,;=:@", c) >= 0:
		default:
			return false
		}
	}
	return strings.HasPrefix(path, "/")
}

func plainQuery(query string) bool {
	for i := range len(query) {
		if query[i] <= ' ' || query[i] > '~' || query[i] == '#' {
			return false
		}
	}
	return true
}

// maxHead is how long the head of an answer may be, in bytes, what comes before it included.
const maxHead = 256 << 10

// brokenPrefix is how net/http's transport begins such an error.
const brokenPrefix = "net/http: HTTP/1.x transport connection broken: "

// roundTrip makes one call, whose answer's body is to be read to its end or
// closed. It is written at most once.
func (p *plain) roundTrip(ctx context.Context, call *plan.Call, query string, header http.Header, w *writeGate) (*http.Response, error) {
	for {
		c, err := p.pool.get(ctx)
		if err != nil {
			return nil, err
		}
		if w.before != nil {
			if err := w.before(); err != nil {
				p.pool.put(c) // which has carried nothing
				return nil, fmt.Errorf("not sent: %w", err)
			}
		}
		w.sent.Store(true)
		unwatched := context.AfterFunc(ctx, c.breakOff)
		c.out = p.appendRequest(c.out[:0], call.Path, query, header)
		n, err := c.Write(c.out)
		if err != nil {
			_ = unwatched()
			p.pool.drop(c)
			switch {
			case n == 0 && c.used && ctx.Err() == nil: // it was closed before it took anything
				w.sent.Store(false)
				continue
			case ctx.Err() != nil:
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf(brokenPrefix+"%w", err)
		}
		if w.after != nil {
			w.after()
		}
		res, err := c.answer()
		if err != nil {
			_ = unwatched()
			p.pool.drop(c)
			switch {
			case ctx.Err() != nil:
				return nil, context.Cause(ctx)
			case c.used && c.left == maxHead: // nothing came
				return nil, fmt.Errorf("not sent: %w: %w", ErrRetried, err)
			}
			return nil, err
		}
		c.used = true
		res.Body = &plainBody{ctx: ctx, from: res.Body, pool: p.pool, conn: c, unwatched: unwatched, again: !res.Close && res.StatusCode >= http.StatusOK}
		return res, nil
	}
}

// appendRequest writes a request's head, which is all of it.
func (p *plain) appendRequest(b []byte, path, query string, header http.Header) []byte {
	b = append(append(b, "GET "...), path...)
	if query != "" {
		b = append(append(b, '?'), query...)
	}
	b = append(append(append(b, " HTTP/1.1\r\nHost: "...), p.host...), "\r\n"...)
	var room [16]string
	names := room[:0]
	for name := range header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b = append(append(b, name...), ": "...)
		b = append(append(b, strings.Trim(header[name][0], " \t")...), "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// plainConn is a connection that carries one call at a time.
type plainConn struct {
	net.Conn
	from     *bufio.Reader
	out      []byte // room for a request
	left     int64  // that may be read
	used     bool   // it has carried a call
	since    time.Time
	breakOff func()
	raw      syscall.RawConn // nil: of no socket
	look     func(fd uintptr) bool
	quiet    bool // what look has found: nothing has come, nor an end
}

func newPlainConn(conn net.Conn) *plainConn {
	c := &plainConn{Conn: conn, left: maxHead}
	c.from = bufio.NewReader(c)
	c.breakOff = func() { _ = conn.Close() } // whoever reads is told
	if socket, is := conn.(syscall.Conn); is {
		c.raw, _ = socket.SyscallConn() // nil: it is not looked at
	}
	c.look = func(fd uintptr) bool {
		c.quiet = quiet(fd)
		return true
	}
	return c
}

// Read reads what may still be read.
func (c *plainConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errLongHead
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	return n, err
}

var errLongHead = fmt.Errorf(brokenPrefix+"server response headers exceeded %d bytes; aborted", maxHead)

// alive reports whether an idle connection can be written to: nothing has come
// over it, which would be no answer to anything, and it has not ended.
func (c *plainConn) alive() bool {
	if c.raw == nil {
		return true
	}
	c.quiet = false
	return c.raw.Read(c.look) == nil && c.quiet
}

// get is what net/http has to know of a request to read its answer.
var get = &http.Request{Method: http.MethodGet}

// answer reads the head of an answer. What only announces it is passed over.
func (c *plainConn) answer() (*http.Response, error) {
	c.left = maxHead
	if _, err := c.from.Peek(1); err != nil {
		return nil, err // as it is: nothing has come
	}
	for {
		res, err := http.ReadResponse(c.from, get)
		switch {
		case err != nil && c.left <= 0:
			return nil, errLongHead
		case err != nil:
			return nil, fmt.Errorf(brokenPrefix+"%w", err)
		case res.StatusCode < http.StatusOK && res.StatusCode >= http.StatusContinue && res.StatusCode != http.StatusSwitchingProtocols:
			continue
		}
		c.left = math.MaxInt64
		return res, nil
	}
}

// plainBody is the body of an answer. At its end the connection is free for the
// next call; one whose body was not read to its end is closed.
type plainBody struct {
	ctx       context.Context //nolint:containedctx // of the call
	from      io.Reader
	pool      *pool
	conn      *plainConn  // nil: it is given back
	unwatched func() bool // the end of ctx no longer breaks it off
	again     bool        // it can carry another call
}

func (b *plainBody) Read(p []byte) (int, error) {
	if b.conn == nil {
		return 0, io.EOF
	}
	n, err := b.from.Read(p)
	if err == nil {
		return n, nil
	}
	ended := errors.Is(err, io.EOF)
	if !ended && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	b.letGo(ended)
	return n, err
}

// Close lets go of the connection of a body that was not read to its end.
func (b *plainBody) Close() error {
	b.letGo(false)
	return nil
}

func (b *plainBody) letGo(ended bool) {
	c := b.conn
	if c == nil {
		return
	}
	b.conn = nil
	if b.unwatched() && ended && b.again && c.from.Buffered() == 0 {
		b.pool.put(c)
		return
	}
	b.pool.drop(c)
}
