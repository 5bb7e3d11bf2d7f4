package call

import (
	"context"
	"slices"
	"sync"
	"time"
)

// pool is the connections to one host, each of which carries one call at a time.
// Whoever finds none dials, and takes what comes first: that, or one that another
// call has ended with.
type pool struct {
	dial    DialFunc
	address string

	mu      sync.Mutex
	most    int          // that are open; 0: no bound
	open    int          // in use, idle and being dialled
	idle    []*plainConn // the one used last at the end
	waiting []*waiter    // in the order in which they came
	closing bool         // what becomes idle is closed, until somebody asks again
	sweep   *time.Timer  // closes what was idle too long
	due     bool         // it will
}

// waiter is a call that waits for a connection.
type waiter struct {
	ctx     context.Context //nolint:containedctx // its dial is broken off with it
	dialled bool            // a connection is being made for it
	got     chan handed     // has room for the one
}

// handed is what a waiter is given.
type handed struct {
	conn *plainConn
	err  error
}

// idleLasts is below the 60 s and more after which common servers close an idle
// connection: one that closes while we write costs an attempt.
const idleLasts = 30 * time.Second

// get is a connection that nobody else uses.
func (p *pool) get(ctx context.Context) (*plainConn, error) {
	var w *waiter
	for {
		c := p.take()
		if c == nil {
			if w = p.wait(ctx); w != nil {
				break
			}
			continue // one has come back meanwhile
		}
		if c.alive() {
			return c, nil
		}
		p.drop(c)
	}
	select {
	case h := <-w.got:
		return h.conn, h.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	p.forget(w)
	p.mu.Unlock()
	select {
	case h := <-w.got: // in the same moment
		if h.conn != nil {
			p.put(h.conn)
		}
	default:
	}
	return nil, context.Cause(ctx)
}

// take is the idle connection that was used last, nil if there is none.
func (p *pool) take() *plainConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closing = false
	last := len(p.idle) - 1
	if last < 0 {
		return nil
	}
	c := p.idle[last]
	p.idle[last], p.idle = nil, p.idle[:last]
	return c
}

// wait registers somebody who waits, nil if there is something idle by now.
func (p *pool) wait(ctx context.Context) *waiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) > 0 {
		return nil
	}
	w := &waiter{ctx: ctx, got: make(chan handed, 1)}
	p.waiting = append(p.waiting, w)
	p.more()
	return w
}

// more dials for those who wait, as far as there may be more connections.
func (p *pool) more() {
	for _, w := range p.waiting {
		if p.most > 0 && p.open >= p.most {
			return
		}
		if !w.dialled {
			w.dialled = true
			p.open++
			go p.connect(w)
		}
	}
}

// connect dials for one who waits. Should that have something else by now, the
// connection is for the next.
func (p *pool) connect(w *waiter) {
	conn, err := p.dial(w.ctx, "tcp", p.address)
	var c *plainConn
	if err == nil {
		c = newPlainConn(conn)
	}
	p.mu.Lock()
	waits := p.forget(w)
	if err != nil {
		p.open--
		p.more()
	}
	p.mu.Unlock()
	switch {
	case waits:
		w.got <- handed{c, err}
	case err == nil:
		p.put(c)
	}
}

// forget reports whether somebody still waited, who does no more.
func (p *pool) forget(w *waiter) bool {
	i := slices.Index(p.waiting, w)
	if i < 0 {
		return false
	}
	p.waiting = slices.Delete(p.waiting, i, i+1)
	return true
}

// put gives a connection back that is ready for the next call.
func (p *pool) put(c *plainConn) {
	p.mu.Lock()
	if len(p.waiting) > 0 {
		w := p.waiting[0]
		p.forget(w)
		p.mu.Unlock()
		w.got <- handed{conn: c}
		return
	}
	defer p.mu.Unlock()
	if p.closing {
		p.shut(c)
		return
	}
	c.since = time.Now()
	p.idle = append(p.idle, c)
	p.sweepIn(idleLasts)
}

// drop closes a connection that is good for nothing more.
func (p *pool) drop(c *plainConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut(c)
}

func (p *pool) shut(c *plainConn) {
	_ = c.Close() // whatever it says, nobody uses it any more
	p.open--
	p.more()
}

func (p *pool) sweepIn(d time.Duration) {
	switch {
	case p.due:
	case p.sweep == nil:
		p.due, p.sweep = true, time.AfterFunc(d, p.tidy)
	default:
		p.due = true
		p.sweep.Reset(d)
	}
}

// tidy closes what was idle too long, which lies in front.
func (p *pool) tidy() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.due = false
	now := time.Now()
	for len(p.idle) > 0 {
		if left := p.idle[0].since.Add(idleLasts).Sub(now); left > 0 {
			p.sweepIn(left)
			return
		}
		c := p.idle[0]
		p.idle = slices.Delete(p.idle, 0, 1)
		p.shut(c)
	}
}

// close closes what is idle, and what becomes so before somebody asks again.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closing = true
	for _, c := range p.idle {
		p.shut(c)
	}
	p.idle = nil
	if p.sweep != nil {
		p.sweep.Stop()
		p.due = false
	}
}

// atMost bounds the connections.
func (p *pool) atMost(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.most = n
}
