package fetch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"fetchworker"
	"fetchworker/internal/record"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"
)

// stores knows which streams take nothing more. What has to be written to one
// waits in this worker's hands until there is room; meanwhile the work that
// would end there is not pulled and not called for, so that nobody pays for an
// answer that has nowhere to go. It is safe for concurrent use.
//
// A stream is full because a write was refused, or because it says itself
// that its limit is close: the second is known before a call was made in vain.
type stores struct {
	js     jetstream.JetStream
	silent func(stream string) bool // says nothing of what is written to it
	stuck  func(ctx context.Context, stream string, replicas int) (string, error)
	logger *zap.Logger

	busy    atomic.Bool   // something was to be stored since the last look
	looking chan struct{} // held through a look
	looked  atomic.Int64  // when the last look learnt all that it asked, Unix time in nanoseconds

	mu      sync.Mutex
	full    map[string]*fullness // by stream
	changed chan struct{}        // closed when full changes, and replaced
}

// fullness is why a stream takes nothing more.
type fullness struct {
	silent    bool            // the server said nothing to a write
	refused   string          // what the server said to a write; empty once one has gone through
	figures   string          // what the stream says of itself; empty where there is room
	stuck     string          // what the server last met in the stream's file, whoever wrote
	providers map[string]bool // whose writes were refused
	waiting   int             // writes that wait for room
}

// boundedStreams are those that refuse what goes beyond their limit, and so
// may hold up work.
var boundedStreams = []string{
	fetchworker.StreamRequests, wire.StreamReplay, fetchworker.StreamResults,
	wire.StreamDLQ, wire.StreamReview, fetchworker.StreamBodies,
}

// publishedStreams are those that others write to than workers: who works is
// not told of what met their disk, and asks.
var publishedStreams = []string{fetchworker.StreamRequests, wire.StreamReplay}

const (
	// storesEach is how often the streams are asked how full they are.
	storesEach = 2500 * time.Millisecond
	// roomKept is how close to its limit a stream counts as full, in bytes, but
	// not more than a sixteenth of it: some answers are always on their way.
	roomKept = 8 << 20
	// leastKept is what the smallest message may take.
	leastKept = 1 << 10
	// retryEach is how often a write that found no room is tried again.
	shortestStoreRetry = 300 * time.Millisecond
	longestStoreRetry  = 700 * time.Millisecond
)

func newStores(js jetstream.JetStream, log *record.Log, logger *zap.Logger) *stores {
	return &stores{js: js, silent: log.Silent, stuck: log.Stuck, logger: logger, looking: make(chan struct{}, 1), full: map[string]*fullness{}, changed: make(chan struct{})}
}

// run asks the streams how full they are until ctx ends, as long as there is
// work that would meet it.
func (s *stores) run(ctx context.Context) {
	for wait.For(ctx, storesEach) == nil {
		if s.busy.Swap(false) || s.err() != nil || slices.ContainsFunc(boundedStreams, s.silent) {
			s.look(ctx)
		}
	}
}

// look asks all streams once.
func (s *stores) look(ctx context.Context) {
	select {
	case s.looking <- struct{}{}:
		defer func() { <-s.looking }()
	case <-ctx.Done():
		return
	}
	whole := true
	for _, name := range boundedStreams {
		silent := s.silent(name)
		figures, stuck, err := s.ask(ctx, name)
		if whole = whole && err == nil; err == nil { // else nothing new is known
			s.change(name, func(f *fullness) {
				f.figures, f.silent, f.stuck = figures, silent, stuck
				if figures == "" && f.waiting == 0 {
					f.refused = "" // nobody is left to find out by trying
				}
			})
		}
	}
	if whole {
		s.looked.Store(time.Now().UnixNano())
	}
}

// fresh is err of a moment ago at most: somebody asks who does not work.
func (s *stores) fresh(ctx context.Context) error {
	if time.Since(time.Unix(0, s.looked.Load())) >= storesEach {
		s.look(ctx)
	}
	return s.err()
}

// ask tells how full a stream is, if that is too full, and what its file has
// met. What cannot be known of its file is no fault.
func (s *stores) ask(ctx context.Context, name string) (figures, stuck string, err error) {
	ctx, cancel := context.WithTimeout(ctx, storesEach)
	defer cancel()
	stream, err := s.js.Stream(ctx, name)
	if err != nil {
		return "", "", err
	}
	info := stream.CachedInfo()
	if slices.Contains(publishedStreams, name) {
		if stuck, err = s.stuck(ctx, name, info.Config.Replicas); err != nil {
			s.logger.Debug("whether a stream takes anything is not known", zap.String("stream", name), zap.Error(err))
		}
	}
	return figuresOf(info.Config, info.State), stuck, nil
}

func figuresOf(c jetstream.StreamConfig, state jetstream.StreamState) string {
	if c.Discard != jetstream.DiscardNew {
		return "" // it forgets instead
	}
	if limit := c.MaxBytes; limit > 0 && state.Bytes+uint64(max(min(roomKept, limit/16), leastKept)) > uint64(limit) {
		return fmt.Sprintf("%d of %d bytes", state.Bytes, limit)
	}
	if limit := c.MaxMsgs; limit > 0 && state.Msgs >= uint64(limit) {
		return fmt.Sprintf("%d of %d messages", state.Msgs, limit)
	}
	return ""
}

// change edits what is known of a stream.
func (s *stores) change(name string, edit func(*fullness)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, was := s.full[name]
	if !was {
		f = &fullness{providers: map[string]bool{}}
	}
	edit(f)
	is := f.why() != ""
	switch {
	case is:
		s.full[name] = f
	case f.waiting == 0:
		delete(s.full, name)
	}
	if is && !was {
		s.logger.Error("a store is full, or takes nothing: what needs it waits", zap.String("stream", name), zap.String("why", f.why()))
	}
	if was && !is {
		clear(f.providers)
		s.logger.Info("a store has room again", zap.String("stream", name))
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// why is empty where there is room.
func (f *fullness) why() string {
	switch {
	case f.refused != "":
		return f.refused
	case f.stuck != "":
		return "the server could not write it, and will not until it is restarted: " + f.stuck
	case f.silent:
		return "the server says nothing of what is written to it; was its disk full? Then it stays so until it is restarted"
	default:
		return f.figures
	}
}

// holds is the store that the work of a provider waits for, empty if none: an
// answer always needs the results; a letter or a large body only those
// providers have had to write that met its limit.
func (s *stores) holds(provider string) string {
	name, _ := s.holding(provider)
	return name
}

// holding is holds, with what is closed when that changes: looked at together,
// or a change between the two would be missed.
func (s *stores) holding(provider string) (name string, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, f := range s.full {
		if f.why() == "" {
			continue
		}
		if name == fetchworker.StreamResults || f.providers[provider] {
			return name, s.changed
		}
	}
	return "", s.changed
}

// room waits until the work of a provider can be stored, or ctx ends.
func (s *stores) room(ctx context.Context, provider string) error {
	s.busy.Store(true)
	for {
		name, changed := s.holding(provider)
		if name == "" {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// err names the stores that are full, nil if none is.
func (s *stores) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var full []string
	for _, name := range slices.Sorted(maps.Keys(s.full)) {
		if why := s.full[name].why(); why != "" {
			full = append(full, name+" is full: "+why)
		}
	}
	if full == nil {
		return nil
	}
	return errors.New(strings.Join(full, "; "))
}

// write stores something of a provider's work, and tries until it is stored:
// what was paid for is not thrown away because there is no room for it just
// now, nor because its store cannot be reached. An error means that the write
// is refused for good, or that ctx has ended. aside is called around each
// wait: whoever waits here must not keep others from working.
func (s *stores) write(ctx context.Context, provider string, write func() error, aside func(wait func() error) error) error {
	s.busy.Store(true)
	met := "" // the stream that this write waits for
	meet := func(name string, note func(*fullness)) {
		if met != "" && met != name {
			s.change(met, func(f *fullness) { f.waiting-- })
		}
		if name != "" {
			s.change(name, func(f *fullness) {
				if met != name {
					f.waiting++
				}
				note(f)
			})
		}
		met = name
	}
	for {
		err := write()
		if err == nil {
			if met != "" {
				s.change(met, func(f *fullness) { f.refused = "" })
			}
			meet("", nil)
			return nil
		}
		if ctx.Err() != nil || record.Refused(err) {
			meet("", nil)
			return err
		}
		var full *record.NoRoomError
		if errors.As(err, &full) {
			meet(full.Stream, func(f *fullness) { f.refused, f.providers[provider] = full.Err.Error(), true })
		} else {
			s.logger.Warn("a write is tried again", zap.String("provider", provider), zap.Error(err))
		}
		if aside(func() error { return wait.Between(ctx, shortestStoreRetry, longestStoreRetry) }) != nil {
			meet("", nil)
			return err
		}
	}
}
