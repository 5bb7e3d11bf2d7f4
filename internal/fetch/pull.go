package fetch

import (
	"context"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/wait"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// lookAhead is how many messages of one shard a worker may hold that wait for
// their turn. It bounds what a heavy agent can put before a neighbour, and
// leaves room for a neighbour's cached answer to pass. The replay consumer is
// one for all agents, so it gets a little more.
const (
	lookAhead       = 2
	lookAheadReplay = 4
)

// shard is one consumer that this worker pulls from: of a provider, a lane
// and a shard of agents, or of a provider's replayed letters.
type shard struct {
	nc       *nats.Conn
	consumer jetstream.Consumer
	heal     func(context.Context) error // makes consumers that were deleted again
	lane     fetchworker.Lane            // empty for replay
	index    int                         // -1 for replay

	mu      sync.Mutex
	room    int           // messages it may still take
	holding int           // messages taken and not yet ended
	more    chan struct{} // room has come

	fails    int       // pulls that failed in a row
	failedAt time.Time // the last of them
	failure  error
}

func newShard(nc *nats.Conn, c jetstream.Consumer, lane fetchworker.Lane, index, room int) *shard {
	return &shard{nc: nc, consumer: c, lane: lane, index: index, room: room, more: make(chan struct{}, 1)}
}

// freed gives room back.
func (s *shard) freed(n int) {
	s.mu.Lock()
	s.room += n
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// take takes all the room there is, and waits until there is some.
func (s *shard) take(ctx context.Context) (int, error) {
	for {
		s.mu.Lock()
		n := s.room
		s.room = 0
		s.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-s.more:
		}
	}
}

// hold counts the messages in this worker's hands, and tells how many there
// are.
func (s *shard) hold(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding += n
	return s.holding
}

// pull takes messages from the shard and hands each to deliver, never more
// than the look-ahead that wait. It returns when ctx ends. The connection's
// epoch ends when it reconnects: a restarted server has forgotten the pull.
func (s *shard) pull(ctx context.Context, epoch func() context.Context, deliver func(message), complain func(error)) {
	pause := newPause()
	for {
		n, err := s.take(ctx)
		if err != nil {
			return
		}
		got, err := s.fetch(ctx, epoch(), n, deliver)
		s.freed(n - got)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.fail(err)
			complain(err)
			if s.heal != nil && s.down() != nil {
				if err := s.heal(ctx); err != nil {
					complain(err)
				}
			}
			if pause.wait(ctx) != nil {
				return
			}
		default:
			s.fail(nil)
			pause.reset()
		}
	}
}

const (
	// failsUntilDown pulls in a row make a shard count as cut off: one alone
	// is what a moved leader looks like.
	failsUntilDown = 3
	// downFor after the last of them: a pull that works says so only when it
	// ends, half a minute later on an idle shard.
	downFor = 15 * time.Second
)

// fail notes how a pull ended.
func (s *shard) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.fails = 0
		return
	}
	s.fails++
	s.failedAt, s.failure = time.Now(), err
}

// down is why the shard gives no work, nil if it does.
func (s *shard) down() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails < failsUntilDown || time.Since(s.failedAt) > downFor {
		return nil
	}
	return s.failure
}

// pause is a wait that grows while things go wrong.
type pause struct{ next time.Duration }

const (
	shortestPause = 100 * time.Millisecond
	longestPause  = 2 * time.Second
)

func newPause() *pause { return &pause{next: shortestPause} }

func (p *pause) reset() { p.next = shortestPause }

func (p *pause) wait(ctx context.Context) error {
	d := p.next
	p.next = min(2*p.next, longestPause)
	return wait.For(ctx, d)
}
