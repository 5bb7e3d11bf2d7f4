package fetchworker

import (
	"context"
	"fmt"
	"iter"
)

// news is an answer as it comes, or what ended the wait for it.
type news struct {
	answer Answer
	err    error
}

// waiting is a wait for one request's answers.
type waiting struct {
	*watch
	*arrivals[news]
	c *Client
}

func (c *Client) waitFor(id Identity) (*waiting, error) {
	w := &waiting{arrivals: newArrivals[news](), c: c}
	w.watch = newWatch(id, func(a Answer, err error) { w.push(news{a, err}) })
	return w, c.watcher.add(w.watch)
}

func (w *waiting) end() { w.c.watcher.remove(w.watch) }

// begin looks for an answer that is stored already, and has it looked for
// from then on.
func (w *waiting) begin(ctx context.Context, mayBeStored bool) error {
	if mayBeStored {
		soon, cancel := context.WithTimeout(ctx, firstLookLasts)
		err := w.c.watcher.look(soon, w.watch)
		cancel()
		if err != nil {
			return err
		}
	}
	w.c.watcher.expect(w.watch)
	return nil
}

// Fetch publishes a request and waits for its final answer, whatever its
// status; Answer.Err tells a failed one. A large body is read and verified.
// Its errors are Submit's, ErrIDReused, ErrBodyCorrupt, and a *PendingError
// if ctx ends first: the request goes on then, and Result or Wait finds its
// answer later. An answer that comes with an error has no body, but tells
// its identity.
func (c *Client) Fetch(ctx context.Context, r Request) (Answer, error) {
	asked, err := c.Ask(ctx, r)
	if err != nil {
		return Answer{Identity: asked.Identity}, err
	}
	defer asked.Leave()
	return asked.Final(ctx)
}

// Asked is a request that is stored. Its answers are watched from before it
// was, until Leave.
type Asked struct {
	Receipt

	w      *waiting
	digest string
	named  bool // its answer may be stored already
}

// Ask is the first half of Fetch: it publishes a request and returns when it
// is stored. With an error, which is one of Submit's, there is nothing to
// leave, and only the identity is told.
func (c *Client) Ask(ctx context.Context, r Request) (*Asked, error) {
	asked := &Asked{named: r.ID != ""}
	m, err := c.encode(&r)
	if err != nil {
		return asked, err
	}
	asked.Identity, asked.digest = r.Identity(), RequestDigest(r.Operation, r.Params)
	if asked.w, err = c.waitFor(asked.Identity); err != nil { // before the publish, so that the answer is seen live
		return asked, err
	}
	if asked.Receipt, err = c.submit(ctx, asked.Identity, m, 0); err != nil {
		asked.Leave()
	}
	return asked, err
}

// Final is the second half of Fetch: it waits for the final answer. It may be
// called again after a *PendingError.
func (a *Asked) Final(ctx context.Context) (Answer, error) {
	if err := a.w.begin(ctx, a.named || a.Duplicate); err != nil {
		return Answer{Identity: a.Identity}, fmt.Errorf("await %s: %w", a.Identity, err)
	}
	answer, err := a.w.final(ctx, a.Identity)
	if err != nil {
		return answer, err
	}
	return a.w.c.conclude(ctx, answer, a.digest)
}

// Leave ends the watch. The request goes on.
func (a *Asked) Leave() { a.w.end() }

// Wait waits for the final answer of a request submitted earlier. An empty
// agent in its identity is the client's own.
func (c *Client) Wait(ctx context.Context, id Identity) (Answer, error) {
	for a, err := range c.updates(ctx, id) {
		if err != nil {
			return a, err
		}
		if a.Final {
			return c.conclude(ctx, a, "")
		}
	}
	panic("updates end with a final answer or an error")
}

// Updates yields the answers of a request as they come: what is stored, then
// each that replaces it, such as a waiting one with its reason, a provisional
// stale one, and at last the final one, after which it ends. Some that are
// soon replaced may be left out. It also ends after an error.
func (c *Client) Updates(ctx context.Context, id Identity) iter.Seq2[Answer, error] {
	return func(yield func(Answer, error) bool) {
		for a, err := range c.updates(ctx, id) {
			if err == nil {
				a, err = c.conclude(ctx, a, "")
			}
			if !yield(a, err) || err != nil {
				return
			}
		}
	}
}

// updates is Updates without large bodies.
func (c *Client) updates(ctx context.Context, id Identity) iter.Seq2[Answer, error] {
	return func(yield func(Answer, error) bool) {
		id, err := c.own(id)
		if err == nil && id.Agent != c.agent {
			err = &RequestError{"agent", "this client waits for " + c.agent + "'s answers, not for " + id.Agent + "'s"}
		}
		if err != nil {
			yield(Answer{}, err)
			return
		}
		w, err := c.waitFor(id)
		if err != nil {
			yield(Answer{Identity: id}, err)
			return
		}
		defer w.end()
		if err := w.begin(ctx, true); err != nil {
			yield(Answer{Identity: id}, fmt.Errorf("await %s: %w", id, err))
			return
		}
		var last *Answer
		for {
			a, err := w.answer(ctx, id, last)
			if !yield(a, err) || err != nil || a.Final {
				return
			}
			last = &a
		}
	}
}

// final waits for the final answer.
func (w *waiting) final(ctx context.Context, id Identity) (Answer, error) {
	var last *Answer
	for {
		a, err := w.answer(ctx, id, last)
		if err != nil || a.Final {
			return a, err
		}
		last = &a
	}
}

// answer waits for the next answer; last is the one before.
func (w *waiting) answer(ctx context.Context, id Identity, last *Answer) (Answer, error) {
	n, ended := w.arrivals.next(ctx)
	switch {
	case ended != nil:
		return Answer{Identity: id}, &PendingError{Identity: id, Last: last, Cause: ended, Trouble: w.c.watcher.troubleOf(w.watch)}
	case n.err != nil:
		return Answer{Identity: id}, fmt.Errorf("await %s: %w", id, n.err)
	default:
		return n.answer, nil
	}
}

// conclude reads the large body of an answer, once it is sure that it answers
// the request with this digest; none: any.
func (c *Client) conclude(ctx context.Context, a Answer, digest string) (Answer, error) {
	if digest != "" && a.Digest != "" && a.Digest != digest {
		return Answer{Identity: a.Identity}, fmt.Errorf("%s: %w", a.Identity, ErrIDReused)
	}
	if c.lazy {
		return a, nil
	}
	err := c.resolveSurely(ctx, &a)
	return a, err
}
