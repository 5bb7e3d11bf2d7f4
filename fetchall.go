package fetchworker

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"github.com/nats-io/nats.go"
)

const (
	// outstandingAtOnce bounds the requests of a FetchAll that wait for their
	// answers: what one agent may have queued.
	outstandingAtOnce = 20_000
	// bodiesHeld bounds the bytes of answers that nobody has taken yet. What
	// goes beyond is read again when its turn comes: it is stored.
	bodiesHeld = 32 << 20
)

// FetchAll publishes any number of requests and yields the final answer of
// each as it comes, in any order: one for every request, with its identity,
// or the error that Fetch would have given. Thousands may be outstanding, up
// to 20,000 at a time. A full queue is tried again for half a minute.
//
// The sequence is read by a goroutine of its own, and no further once ctx has
// ended or the loop is left, for which it waits. If ctx ends, each request
// without its answer is yielded with a *PendingError.
func (c *Client) FetchAll(ctx context.Context, requests iter.Seq[Request]) iter.Seq2[Answer, error] {
	return c.fetchAll(ctx, requests, outstandingAtOnce, bodiesHeld)
}

func (c *Client) fetchAll(ctx context.Context, requests iter.Seq[Request], most, holds int) iter.Seq2[Answer, error] {
	return func(yield func(Answer, error) bool) {
		b := &bulk{
			c: c, holds: holds, ended: newArrivals[*asked](), outstanding: map[*asked]struct{}{},
			room: make(chan struct{}, most),
		}
		left, leave := context.WithCancel(ctx)
		var work sync.WaitGroup
		work.Go(func() {
			inParallel(left, requests, func(r Request) { b.ask(left, r) })
			b.ended.push(nil) // nothing more is asked
		})
		defer func() {
			leave()
			work.Wait()
			b.forget()
		}()
		b.yield(ctx, &work, yield)
	}
}

// bulk is a FetchAll.
type bulk struct {
	c     *Client
	holds int // bytes of answers that nobody has taken yet, at most
	room  chan struct{}
	ended *arrivals[*asked]

	mu          sync.Mutex
	outstanding map[*asked]struct{}
	held        int // bytes
}

// asked is one request of a bulk.
type asked struct {
	id     Identity
	digest string
	watch  *watch
	roomy  bool // it holds a place in room

	last   *Answer // the newest
	done   bool
	err    error // instead of a final answer
	reread bool  // its body was dropped
}

// ask publishes a request and leaves its answer to the watcher.
func (b *bulk) ask(ctx context.Context, r Request) {
	m, err := b.c.encode(&r)
	one := &asked{id: r.Identity(), digest: RequestDigest(r.Operation, r.Params)}
	one.watch = newWatch(one.id, func(a Answer, err error) { b.got(one, a, err) })
	select {
	case b.room <- struct{}{}:
		one.roomy = true
	case <-ctx.Done(): // publish says so
	}
	b.mu.Lock()
	b.outstanding[one] = struct{}{}
	b.mu.Unlock()
	if err == nil {
		err = b.publish(ctx, one, m)
	}
	if err != nil {
		b.got(one, Answer{}, err)
	}
}

func (b *bulk) publish(ctx context.Context, one *asked, m *nats.Msg) error {
	if err := b.c.watcher.add(one.watch); err != nil {
		return err
	}
	receipt, err := b.c.submit(ctx, one.id, m, fullFor)
	if err != nil {
		return err
	}
	if receipt.Duplicate {
		if err := b.c.watcher.look(ctx, one.watch); err != nil {
			return fmt.Errorf("await %s: %w", one.id, err)
		}
	}
	b.c.watcher.expect(one.watch)
	return nil
}

// got notes an answer, or the end of the wait for it.
func (b *bulk) got(one *asked, a Answer, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if one.done {
		return
	}
	if one.err = err; err == nil {
		if a.Final && b.held+len(a.Body) > b.holds {
			a.Body, one.reread = nil, true
		}
		one.last = &a
	}
	if err != nil || a.Final {
		one.done = true
		b.held += len(a.Body)
		b.ended.push(one)
	}
}

// yield yields what has ended, until everything has.
func (b *bulk) yield(ctx context.Context, work *sync.WaitGroup, yield func(Answer, error) bool) {
	for all := false; !all || b.left() > 0; {
		one, err := b.ended.next(ctx)
		switch {
		case err != nil:
			work.Wait() // what was being published has ended with its error
			b.pending(ctx, err, yield)
			return
		case one == nil:
			all = true
		case !yield(b.take(ctx, one)):
			return
		}
	}
}

func (b *bulk) left() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.outstanding)
}

// take takes a request that has ended out of the bulk.
func (b *bulk) take(ctx context.Context, one *asked) (Answer, error) {
	b.drop(one)
	if one.err != nil {
		return Answer{Identity: one.id}, one.err
	}
	a := *one.last
	if one.reread && a.Claim == nil {
		again, err := b.c.Wait(ctx, one.id)
		if err != nil {
			return a, err
		}
		a = again
	}
	return b.c.conclude(ctx, a, one.digest)
}

func (b *bulk) drop(one *asked) {
	b.c.watcher.remove(one.watch)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.outstanding, one)
	if one.last != nil {
		b.held -= len(one.last.Body)
	}
	if one.roomy {
		<-b.room
	}
}

// pending yields every request that is left when ctx has ended.
func (b *bulk) pending(ctx context.Context, ended error, yield func(Answer, error) bool) {
	for _, one := range b.rest() {
		b.c.watcher.remove(one.watch) // nothing more is noted
		var a Answer
		var err error
		if one.done {
			a, err = b.take(ctx, one)
		} else {
			b.drop(one)
			a.Identity, err = one.id, &PendingError{Identity: one.id, Last: one.last, Cause: ended, Trouble: b.c.watcher.troubleOf(one.watch)}
		}
		if !yield(a, err) {
			return
		}
	}
}

// rest are the requests that are left, their ends no longer awaited.
func (b *bulk) rest() []*asked {
	b.mu.Lock()
	defer b.mu.Unlock()
	rest := make([]*asked, 0, len(b.outstanding))
	for one := range b.outstanding {
		rest = append(rest, one)
	}
	return rest
}

// forget ends what is still watched.
func (b *bulk) forget() {
	for _, one := range b.rest() {
		b.drop(one)
	}
}
