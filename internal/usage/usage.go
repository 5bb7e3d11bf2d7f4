// Package usage counts who had what of which provider, and what failed: sums in
// the worker, written to the fleet's counters twice a second, so that no
// request waits for them.
//
// A sum is sent under one message id until its outcome is known, and the
// stream drops what it has already: a lost acknowledgement doubles nothing.
// What stays unknown for longer than the stream remembers ids is given up, and
// told. A killed worker's last half second is not counted.
package usage

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/wait"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// What is counted of an agent: the last token of a subject. What an operator
// ends, and what a sweep answers in the queue, is not in it.
const (
	Calls  = "calls"  // requests that reached the wire
	Bytes  = "bytes"  // on the wire, of those calls
	OK     = "ok"     // final answers from a call, made for this agent or shared with another
	Cached = "cached" // final answers from a body that was young enough
	Stale  = "stale"  // final answers from a body older than was asked for
	Failed = "failed" // final answers that say why there is none
)

const (
	flushEach = 500 * time.Millisecond
	parallel  = 16              // sums on their way; more would only wait for each other's fsync
	timeout   = 2 * time.Second // of one try
	// sureFor is how long the stream certainly knows an id again, less than
	// its two minutes.
	sureFor = 90 * time.Second
	// lastFlush is how long a stop waits for the counters.
	lastFlush = 5 * time.Second
)

// Book is one worker's sums. It is safe for concurrent use; a nil one counts
// nothing.
type Book struct {
	js  jetstream.JetStream
	log *zap.Logger

	mu      sync.Mutex // guards what follows
	sums    map[key]int64
	day     time.Time // that was counted on last
	dayText string
	recent  map[string]*recent // by provider

	some chan struct{} // signalled when there is something to write
	sent []sum         // whose outcome is not known yet; only Run uses it
}

// key is one counter: of an agent, or of an operation's cause.
type key struct {
	cause                bool
	provider, whose, day string
	what                 string
}

func (k key) subject() string {
	kind := "fetch.usage."
	if k.cause {
		kind = "fetch.cause."
	}
	return kind + k.provider + "." + k.whose + "." + k.day + "." + k.what
}

// sum is an increment under its id.
type sum struct {
	key   key
	n     int64
	id    string
	since time.Time // when it was first sent
	doubt bool      // a try may have been stored
}

// NewBook makes a book; Run writes it.
func NewBook(js jetstream.JetStream, log *zap.Logger) *Book {
	return &Book{js: js, log: log, sums: map[key]int64{}, recent: map[string]*recent{}, some: make(chan struct{}, 1)}
}

// Add counts n of what for an agent, on the UTC day of at.
func (b *Book) Add(provider, agent, what string, n int64, at time.Time) {
	if b == nil || n <= 0 || !fetchworker.ValidToken(agent) {
		return // names that no request may have are not kept for a year
	}
	b.add(key{false, provider, agent, "", what}, at, n)
}

// Cause counts a call of an operation that failed.
func (b *Book) Cause(provider, operation, cause string, at time.Time) {
	if b == nil || !fetchworker.ValidToken(operation) || !fetchworker.ValidID(cause) {
		return
	}
	b.add(key{true, provider, operation, "", cause}, at, 1)
}

// add counts on a day, whose name is written once: for each it was three texts
// a request.
func (b *Book) add(k key, at time.Time, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if day := at.UTC().Truncate(24 * time.Hour); !day.Equal(b.day) || b.dayText == "" {
		b.day, b.dayText = day, day.Format(time.DateOnly)
	}
	k.day = b.dayText
	if len(b.sums) == 0 {
		wait.Signal(b.some)
	}
	b.sums[k] += n
	if k.cause || k.what == Calls || k.what == Bytes {
		return
	}
	r := b.recent[k.provider]
	if r == nil {
		r = &recent{}
		b.recent[k.provider] = r
	}
	r.add(k.what, n, at.Unix()/60)
}

// back takes back what was counted before.
func (b *Book) back(k key, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sums[k] += n
}

// Run writes until ctx ends, then writes what is left.
func (b *Book) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if len(b.sent) == 0 && b.pending() == 0 {
			select {
			case <-b.some:
			case <-ctx.Done():
			}
		}
		if wait.For(ctx, flushEach) == nil {
			b.flush(ctx)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
	defer cancel()
	for {
		b.flush(last)
		left := len(b.sent) + b.pending()
		if left == 0 {
			return
		}
		if wait.For(last, 100*time.Millisecond) != nil {
			b.log.Warn("usage not counted: no answer from the counters before the stop", zap.Int("counters", left))
			return
		}
	}
}

func (b *Book) pending() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.sums)
}

// flush sends what has come, and what is still in doubt. Its tries outlive ctx
// by their own timeout.
func (b *Book) flush(ctx context.Context) {
	b.mu.Lock()
	taken := b.sums
	b.sums = map[key]int64{}
	b.mu.Unlock()
	for k, n := range maps.All(taken) {
		b.sent = append(b.sent, sum{key: k, n: n, id: "usage." + rand.Text(), since: time.Now()})
	}
	if len(b.sent) == 0 {
		return
	}
	done := make([]bool, len(b.sent))
	var group errgroup.Group
	group.SetLimit(parallel)
	for i := range b.sent {
		group.Go(func() error {
			done[i] = b.send(ctx, &b.sent[i])
			return nil
		})
	}
	_ = group.Wait() // none fails: what did is in doubt
	var left []sum
	for i, s := range b.sent {
		if !done[i] {
			left = append(left, s)
		}
	}
	b.sent = left
}

// send tries once; it reports whether the sum needs no further try.
func (b *Book) send(ctx context.Context, s *sum) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	_, err := store.Increment(ctx, b.js, s.key.subject(), s.n, s.id)
	switch {
	case err == nil:
		return true
	case !s.doubt && errors.Is(err, store.ErrNotStored):
		b.back(s.key, s.n) // nobody heard it: it may go with the next, under another id
		return true
	}
	s.doubt = true
	if time.Since(s.since) < sureFor {
		return false
	}
	b.log.Warn("usage given up: whether it was counted stayed unknown", zap.String("subject", s.key.subject()), zap.Int64("n", s.n), zap.Error(err))
	return true
}
