package fetchworker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// answersRead is how many stored answers are read at a time, and
	// answersBytes how many bytes of them at most.
	answersRead  = 256
	answersBytes = 4 << 20
	// answersHeld is how many live answers wait for whoever follows. What goes
	// beyond is read from the store.
	answersHeld = 1024
	// rereadAfter is how soon the store is looked at for what came live to
	// nobody, without a sign that something was lost.
	rereadAfter = 30 * time.Second
)

// LastAnswer is the sequence of the newest answer of the client's agent, 0 if
// none is stored.
func (c *Client) LastAnswer(ctx context.Context) (uint64, error) {
	m, err := c.ask(ctx, direct+StreamResults+"."+c.everyAnswer(), nil, 10*time.Second)
	switch {
	case err != nil:
		return 0, fmt.Errorf("the newest answer: %w", err)
	case m.Header.Get("Status") == "404":
		return 0, nil
	}
	sequence, err := strconv.ParseUint(own(m, jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the newest answer: server says %s %s", m.Header.Get("Status"), m.Header.Get("Description"))
	}
	return sequence, nil
}

// Answers yields every answer of the client's agent, whoever asked for it:
// those that are stored with a sequence beyond after, then each as it comes,
// until ctx ends. Of answers that replaced each other quickly the earlier may
// be left out. What was lost on its way is read from the store, so that
// sequences mostly rise, and do not always. Large bodies stay where they are:
// Parts reads them.
//
// It reads the stream of answers by sequence, which the service's user
// "gateway" may do and an agent's own may not: ErrNotPermitted. It ends after
// an error that is final.
func (c *Client) Answers(ctx context.Context, after uint64) iter.Seq2[Answer, error] {
	return func(yield func(Answer, error) bool) {
		f := &follower{arrivals: newArrivals[Answer](), read: after, seen: map[uint64]struct{}{}}
		if err := c.watcher.follow(f); err != nil {
			yield(Answer{}, err)
			return
		}
		defer c.watcher.unfollow(f)
		status := c.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
		defer c.nc.RemoveStatusListener(status)
		closed := c.watcher.looking.Done()
		for ctx.Err() == nil {
			err := c.reread(ctx, f, yield)
			switch {
			case errors.Is(err, errLeft):
				return
			case c.nc.IsClosed(), c.watcher.looking.Err() != nil:
				yield(Answer{}, fmt.Errorf("answers of %s: %w", c.agent, ErrClosed))
				return
			case errors.Is(err, ErrNotPermitted), errors.Is(err, ErrClosed):
				yield(Answer{}, err)
				return
			case err != nil:
				_ = pause(ctx, time.Second) // an election, a reconnect
				continue
			}
			if !f.live(ctx, status, closed, yield) {
				return
			}
		}
	}
}

// errLeft says that whoever follows has left the loop.
var errLeft = errors.New("left")

// everyAnswer is the filter of the agent's answers.
func (c *Client) everyAnswer() string { return "fetch.result.*.*." + c.agent + ".*" }

// follower is one who is told every answer of the agent.
type follower struct {
	*arrivals[Answer]
	lost atomic.Bool // more came live than is held

	read uint64              // the store was read up to here
	seen map[uint64]struct{} // what was told beyond it
}

func (w *watcher) follow(f *follower) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed != nil {
		return w.closed
	}
	if err := w.subscribe(); err != nil {
		return err
	}
	w.followers[f] = struct{}{}
	return nil
}

func (w *watcher) unfollow(f *follower) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.followers, f)
}

// tellAll hands a live answer to all who follow.
func (w *watcher) tellAll(a Answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for f := range w.followers {
		if f.size() >= answersHeld {
			f.lost.Store(true)
		}
		if !f.lost.Load() {
			f.push(a)
		}
	}
}

// reread tells what is stored beyond what was read, but for what was told.
func (c *Client) reread(ctx context.Context, f *follower, yield func(Answer, error) bool) error {
	f.lost.Store(false) // what comes from here on is held again
	for {
		page, read, err := c.AnswersAfter(ctx, f.read)
		if err != nil {
			return err
		}
		if read == f.read {
			// What was told up to here cannot come again; what was replaced
			// meanwhile is not in the store to say so.
			maps.DeleteFunc(f.seen, func(sequence uint64, _ struct{}) bool { return sequence <= read })
			return nil
		}
		f.read = read
		for _, a := range page {
			if _, told := f.seen[a.Sequence]; told {
				delete(f.seen, a.Sequence)
				continue
			}
			if !yield(a, nil) {
				return errLeft
			}
		}
	}
}

// AnswersAfter reads the next stored answers of the agent beyond a sequence, at
// most 256 and 4 MiB of them, and tells up to where it has read: no further
// than after, where there are no more. It needs the right that Answers needs.
func (c *Client) AnswersAfter(ctx context.Context, after uint64) (page []Answer, read uint64, err error) {
	messages, err := c.pageAfter(ctx, after)
	if err != nil {
		return nil, after, fmt.Errorf("answers of %s: %w", c.agent, err)
	}
	read = after
	for _, m := range messages {
		a, err := decodeLive(own(m, jetstream.SubjectHeader), m)
		read = max(read, a.Sequence)
		if err == nil { // what cannot be read is of another version
			page = append(page, a)
		}
	}
	return page, read, nil
}

func (c *Client) pageAfter(ctx context.Context, after uint64) ([]*nats.Msg, error) {
	subject := direct + StreamResults
	ctx, cancel := publishing(ctx, c.nc, subject, 10*time.Second)
	defer cancel()
	inbox := c.nc.NewRespInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, because(ctx, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection is gone then
	request, err := json.Marshal(struct {
		Sequence uint64 `json:"seq"`
		Filter   string `json:"next_by_subj"`
		Batch    int    `json:"batch"`
		Bytes    int    `json:"max_bytes"`
	}{after + 1, c.everyAnswer(), answersRead, answersBytes})
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	if err := c.nc.PublishRequest(subject, inbox, request); err != nil {
		return nil, because(ctx, err)
	}
	var page []*nats.Msg
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, because(ctx, err)
		}
		if own(m, jetstream.StreamHeader) != "" {
			page = append(page, m)
			continue
		}
		switch status := m.Header.Get("Status"); status {
		case "204", "404": // the end of the page, and of all
			return page, nil
		default:
			return nil, fmt.Errorf("server says %s %s", status, m.Header.Get("Description"))
		}
	}
}

// live tells answers as they come, until the store should be read again or the
// client is closed; not ok: it is over.
func (f *follower) live(ctx context.Context, status <-chan nats.Status, closed <-chan struct{}, yield func(Answer, error) bool) (ok bool) {
	again := time.NewTimer(rereadAfter)
	defer again.Stop()
	for {
		for {
			a, some := f.take()
			if !some {
				break
			}
			if _, told := f.seen[a.Sequence]; told || a.Sequence <= f.read {
				continue
			}
			f.seen[a.Sequence] = struct{}{}
			if !yield(a, nil) {
				return false
			}
		}
		if f.lost.Load() || len(f.seen) > 16*answersHeld {
			return true
		}
		select {
		case <-f.came:
		case <-status:
			return true
		case <-closed:
			return true
		case <-again.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}
