package broker

import (
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// gathering has a connection's writes gathered, whatever dials it.
func gathering(o *nats.Options) error {
	if o.CustomDialer != nil {
		o.CustomDialer = gatheringDialer{o.CustomDialer}
		return nil
	}
	// The client library's own way, which it goes only without a dialer of ours.
	o.SkipHostLookup = true
	o.CustomDialer = gatheringDialer{&hostDialer{timeout: o.Timeout, inOrder: o.NoRandomize}}
	return nil
}

type gatheringDialer struct{ nats.CustomDialer }

func (d gatheringDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := d.CustomDialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return gather(conn), nil
}

// SkipTLSHandshake reports whether the dialer has seen to TLS itself.
func (d gatheringDialer) SkipTLSHandshake() bool {
	own, is := d.CustomDialer.(interface{ SkipTLSHandshake() bool })
	return is && own.SkipTLSHandshake()
}

// hostDialer tries the addresses of a host one after the other, in any order,
// each for its share of the time.
type hostDialer struct {
	timeout time.Duration
	inOrder bool
}

func (d *hostDialer) Dial(network, address string) (conn net.Conn, err error) {
	all := []string{address}
	if host, port, err := net.SplitHostPort(address); err == nil && net.ParseIP(host) == nil {
		if found, err := net.LookupHost(host); err == nil && len(found) > 0 { //nolint:noctx // as the client library
			all = all[:0]
			for _, address := range found {
				all = append(all, net.JoinHostPort(address, port))
			}
		}
	}
	if !d.inOrder {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) //nolint:gosec // no secret
	}
	for _, address := range all {
		if conn, err = net.DialTimeout(network, address, d.timeout/time.Duration(len(all))); err == nil { //nolint:noctx // as the client library
			return conn, nil
		}
	}
	return nil, err
}

// gathered is a connection that writes together what comes together: whoever
// writes does not wait for the system, and what others say in the same moment
// goes along. (The client library writes as soon as it can, which on a machine
// with little else to do is each message by itself: a call of the system here, one
// at the server, and two threads woken, for an answer, an ack, a look and a cached
// body each.) As with the system's own buffer, that it is written does not say
// that it has arrived.
type gathered struct {
	net.Conn

	mu       sync.Mutex
	buf      []byte
	spare    []byte // the other buffer, while it is not being written
	deadline time.Time
	due      time.Time // when buf must have been written; zero: whenever
	writing  bool
	err      error     // of a write, for the next
	room     sync.Cond // signalled when there is room, or the writing has ended
}

const (
	// gatheredMost may wait to be written, in bytes, before whoever writes waits, too.
	gatheredMost = 64 << 10
	// closeLasts is how long a close waits until what was said has been written.
	closeLasts = 250 * time.Millisecond
)

func gather(conn net.Conn) *gathered {
	g := &gathered{Conn: conn}
	g.room.L = &g.mu
	return g
}

// Write takes bytes to be written soon. An error may be that of an earlier write.
func (g *gathered) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.err == nil && len(g.buf) >= gatheredMost {
		g.room.Wait()
	}
	if g.err != nil {
		return 0, g.err
	}
	g.buf, g.due = append(g.buf, p...), g.deadline
	if !g.writing {
		g.writing = true
		go g.write()
	}
	return len(p), nil
}

// write writes until nothing is left. Before each write everybody has a turn who
// could run now: what they have to say goes along.
func (g *gathered) write() {
	for {
		runtime.Gosched()
		g.mu.Lock()
		if len(g.buf) == 0 || g.err != nil {
			g.writing = false
			g.room.Broadcast()
			g.mu.Unlock()
			return
		}
		out, due := g.buf, g.due
		g.buf, g.spare = g.spare[:0], nil
		g.room.Broadcast()
		g.mu.Unlock()

		err := g.Conn.SetWriteDeadline(due)
		if err == nil {
			_, err = g.Conn.Write(out)
		}
		g.mu.Lock()
		if cap(out) <= 4*gatheredMost {
			g.spare = out
		}
		if err != nil && g.err == nil {
			g.err = err
			_ = g.Conn.Close() // a part of it may have been written: whoever reads is told
		}
		g.room.Broadcast()
		g.mu.Unlock()
	}
}

// SetWriteDeadline is for what is written from now on, whenever that is done.
func (g *gathered) SetWriteDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deadline = t
	return nil
}

// SetDeadline is that, and for reads.
func (g *gathered) SetDeadline(t time.Time) error {
	_ = g.SetWriteDeadline(t)
	return g.SetReadDeadline(t)
}

// Close writes what is left, if the other side takes it, and closes.
func (g *gathered) Close() error {
	g.mu.Lock()
	g.due = time.Now().Add(closeLasts)
	if g.writing {
		_ = g.Conn.SetWriteDeadline(g.due) // for the one under way
	}
	for g.writing && g.err == nil {
		g.room.Wait()
	}
	if g.err == nil {
		g.err = net.ErrClosed
	}
	g.mu.Unlock()
	return g.Conn.Close()
}
