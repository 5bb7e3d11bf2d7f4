// Package sweep finds what no consumer ever delivers: requests that nobody
// serves, requests whose workers are all gone, and those that have lived their
// whole life in a queue. It answers them or makes dead letters of them.
//
// It asks no provider and decides on no retry: that is for dlq.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/browse"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Config is what a sweeper is made of.
type Config struct {
	// Known reports whether a provider is known by name. Whoever gives it
	// answers the requests that no consumer takes; nil leaves them alone.
	Known   func(provider string) bool
	MaxLife time.Duration // of a request
	Backlog int           // the most that one agent may have waiting; 0: any number
	Logger  *zap.Logger

	Registerer prometheus.Registerer // nil: no metrics
}

// Sweeper finds what no consumer ever delivers or nobody is there to take,
// and what has waited for too long. Any number may run: each step is a write
// that only ever goes up, then a delete that may find nothing.
type Sweeper struct {
	js      jetstream.JetStream
	log     *record.Log
	answers *answer.Store
	board   *fleet.View
	config  Config

	noted    map[string]bool   // providers that have ever been served
	attended map[string]bool   // those that a worker serves that lives, in this pass
	listed   time.Time         // when they were listed
	clean    snapshot          // of the request stream when nothing in it was unserved
	strays   map[string]uint64 // by filter: from which sequence of it strays are looked for
	scanned  uint64            // up to which sequence of it all were looked at for what no list tells
	unlisted bool              // it held more than its list of subjects accounts for
	told     map[string]uint64 // by stream and provider: up to which sequence agents know that nobody works
	seen     uint64            // up to which sequence of the replay stream lives were looked at
	nextEnd  time.Time         // when the first life ends of those seen
	more     bool              // this pass has left something to the next
	whole    time.Time         // when both streams' whole state told that they are empty; zero: they were not, or have copies
	dropped  prometheus.Counter
}

// snapshot tells whether a stream, or who is served, has changed.
type snapshot struct {
	last, messages uint64
	served         map[string]bool
}

func (s snapshot) equal(t snapshot) bool {
	return s.last == t.last && s.messages == t.messages && maps.Equal(s.served, t.served)
}

const (
	// sweepsAtOnce bounds the messages that are answered or moved at a time.
	sweepsAtOnce = 16
	// sweepsAPass bounds those of one kind in one pass, so that a flood of one
	// does not keep another from being found in time.
	sweepsAPass = 1000
)

// New makes a sweeper; Run starts it.
func New(js jetstream.JetStream, log *record.Log, board *fleet.View, c Config) *Sweeper {
	s := &Sweeper{
		js: js, log: log, answers: answer.New(log), board: board, config: c,
		strays: map[string]uint64{}, told: map[string]uint64{},
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sweeper_dropped_total", Help: "Messages deleted because no answer could be stored under what their subject names.",
		}),
	}
	if c.Registerer != nil {
		c.Registerer.MustRegister(s.dropped)
	}
	return s
}

// Run sweeps until ctx ends. A request that nobody serves is found within two
// seconds.
func (s *Sweeper) Run(ctx context.Context) error {
	for {
		// A pass that has left something behind is followed by the next at once.
		shortest, longest := 1200*time.Millisecond, 1600*time.Millisecond
		if s.more {
			shortest, longest = time.Millisecond, 2*time.Millisecond
		}
		if wait.Between(ctx, shortest, longest) != nil {
			return nil //nolint:nilerr // ctx has ended, as it should
		}
		s.more = false
		if err := s.pass(ctx); err != nil && ctx.Err() == nil {
			s.more = false // not at once again
			s.config.Logger.Warn("sweep", zap.Error(err))
		}
	}
}

// wholeEach is how often the streams' whole state is looked at while they are empty.
const wholeEach = 10 * time.Second

// empty reports whether both streams are known to be, by two small requests.
func (s *Sweeper) empty(ctx context.Context) bool {
	if s.whole.IsZero() || time.Since(s.whole) >= wholeEach {
		return false
	}
	// An error says only that it is not known.
	empty, err := wire.AllEmpty(ctx, s.js.Conn(), fetchworker.StreamRequests, wire.StreamReplay)
	return empty && err == nil
}

// pass is one look at both streams. It costs two small requests while nothing
// waits.
func (s *Sweeper) pass(ctx context.Context) error {
	if s.empty(ctx) {
		return nil
	}
	s.whole = time.Time{}
	began := time.Now()
	requests, err := s.stream(ctx, fetchworker.StreamRequests)
	if err != nil {
		return err
	}
	replayed, err := s.stream(ctx, wire.StreamReplay)
	if err != nil {
		return err
	}
	waiting, released := requests.CachedInfo().State, replayed.CachedInfo().State
	if waiting.Msgs == 0 && released.Msgs == 0 {
		if wire.Alone(requests.CachedInfo().Cluster) && wire.Alone(replayed.CachedInfo().Cluster) {
			s.whole = began
		}
		return nil
	}
	served, err := s.served(ctx)
	if err != nil {
		return err
	}
	return errors.Join(
		s.backlog(ctx, requests),
		s.unserved(ctx, requests, served),
		s.unservedReplay(ctx, replayed, served),
		s.absent(ctx, fetchworker.StreamRequests, "fetch.request.", waiting, served),
		s.absent(ctx, wire.StreamReplay, "fetch.replay.", released, served),
		s.expireRequests(ctx, waiting),
		s.expireReplayed(ctx, released),
	)
}

func (s *Sweeper) stream(ctx context.Context, name string) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := s.js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", name, err)
	}
	return stream, nil
}

// notedLasts is how long the list of who was served is believed: a name only
// ever comes to it, and whoever brings it lives and is known by that.
const notedLasts = 10 * time.Second

// served are the providers that a worker serves, or has served and nobody has
// retired since: what waits for them need not be refused.
func (s *Sweeper) served(ctx context.Context) (map[string]bool, error) {
	if time.Since(s.listed) >= notedLasts {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		noted, err := fleet.Served(ctx, s.js)
		if err != nil {
			return nil, err
		}
		s.noted, s.listed = noted, time.Now()
	}
	served, attended := s.board.Served(s.noted)
	s.attended = attended
	return served, nil
}

// each reads the messages of a subject filter from a sequence on, as long as
// they are wanted and this pass may, and does something to each, several at a
// time. It returns the last sequence that it has read.
func (s *Sweeper) each(ctx context.Context, stream, filter string, from uint64, want func(record.Raw) bool, do func(context.Context, record.Raw) error) (last uint64, err error) {
	crew := newCrew(ctx)
	last = from - 1
	for n := 0; ; n++ {
		raw, err := s.log.Next(ctx, stream, filter, last+1)
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && !want(raw) {
			break
		}
		if err == nil && n == sweepsAPass {
			s.more = true
			break
		}
		if err != nil {
			crew.failed(err)
			break
		}
		crew.do(raw, do)
		last = raw.Sequence
	}
	return last, crew.wait()
}

func everything(record.Raw) bool { return true }

// queued reads a message of either queue as the letter it would become.
func queued(raw record.Raw) (dlq.Letter, error) {
	address, err := wire.ParseSubject(raw.Subject)
	if err != nil {
		return dlq.Letter{}, err
	}
	if address.Shard < 0 { // a released letter
		return dlq.Read(raw.Subject, raw.Header, raw.Data), nil
	}
	l, err := browse.Queued(raw)
	l.Class, l.FailedAt = "", time.Time{} // it has not failed yet
	return l, err
}

// streamOf is the queue that a message was read from.
func streamOf(raw record.Raw) string {
	if strings.HasPrefix(raw.Subject, "fetch.replay.") {
		return wire.StreamReplay
	}
	return fetchworker.StreamRequests
}
