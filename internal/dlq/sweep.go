package dlq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// SweeperConfig is what a sweeper is made of.
type SweeperConfig struct {
	// Served is the provider that a consumer of the request stream serves.
	Served func(consumer string) string
	// Known reports whether a provider is known by name. Whoever gives it
	// answers the requests that no consumer takes; nil leaves them alone.
	Known   func(provider string) bool
	MaxLife time.Duration // of a request
	Logger  *zap.Logger
}

// Sweeper finds what no consumer ever delivers or nobody is there to take,
// and what has waited for too long. Any number may run: each step is a write
// that only ever goes up, then a delete that may find nothing.
type Sweeper struct {
	js     jetstream.JetStream
	log    *record.Log
	board  *budget.Board
	config SweeperConfig

	clean   snapshot          // of the request stream when nothing in it was unserved
	strays  uint64            // up to which sequence of it strays were looked for
	told    map[string]uint64 // by stream and provider: up to which sequence agents know that nobody works
	seen    uint64            // up to which sequence of the replay stream lives were looked at
	nextEnd time.Time         // when the first life ends of those seen
	more    bool              // this pass has left something to the next
}

// snapshot tells whether a stream has changed.
type snapshot struct {
	last, messages uint64
	consumers      int
}

const (
	// sweepsAtOnce bounds the messages that are answered or moved at a time.
	sweepsAtOnce = 16
	// sweepsAPass bounds those of one kind in one pass, so that a flood of one
	// does not keep another from being found in time.
	sweepsAPass = 1000
)

// NewSweeper makes a sweeper; Run starts it.
func NewSweeper(js jetstream.JetStream, log *record.Log, board *budget.Board, c SweeperConfig) *Sweeper {
	return &Sweeper{js: js, log: log, board: board, config: c, told: map[string]uint64{}}
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
		if nap(ctx, shortest, longest) != nil {
			return nil //nolint:nilerr // ctx has ended, as it should
		}
		s.more = false
		if err := s.pass(ctx); err != nil && ctx.Err() == nil {
			s.more = false // not at once again
			s.config.Logger.Warn("sweep", zap.Error(err))
		}
	}
}

// pass is one look at both streams. It costs two requests while nothing waits.
func (s *Sweeper) pass(ctx context.Context) error {
	requests, err := s.stream(ctx, fetchworker.StreamRequests)
	if err != nil {
		return err
	}
	replayed, err := s.stream(ctx, fetchworker.StreamReplay)
	if err != nil {
		return err
	}
	waiting, released := requests.CachedInfo().State, replayed.CachedInfo().State
	if waiting.Msgs == 0 && released.Msgs == 0 {
		return nil
	}
	served, err := s.served(ctx, requests)
	if err != nil {
		return err
	}
	return errors.Join(
		s.unserved(ctx, requests, served),
		s.unservedReplay(ctx, replayed, served),
		s.absent(ctx, fetchworker.StreamRequests, "fetch.request.", waiting, served),
		s.absent(ctx, fetchworker.StreamReplay, "fetch.replay.", released, served),
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

// served are the providers that have consumers.
func (s *Sweeper) served(ctx context.Context, requests jetstream.Stream) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	served := map[string]bool{}
	names := requests.ConsumerNames(ctx)
	for name := range names.Name() {
		if provider := s.config.Served(name); provider != "" {
			served[provider] = true
		}
	}
	if err := names.Err(); err != nil {
		return nil, fmt.Errorf("consumers of %s: %w", fetchworker.StreamRequests, err)
	}
	return served, nil
}

// unserved answers the requests that no consumer takes: of a provider that
// nobody has ever served, or in a lane that does not exist. It lists the
// stream's subjects, so it does not while nothing has changed since it found
// none.
func (s *Sweeper) unserved(ctx context.Context, requests jetstream.Stream, served map[string]bool) error {
	info := requests.CachedInfo()
	now := snapshot{info.State.LastSeq, info.State.Msgs, info.State.Consumers}
	if s.config.Known == nil || info.State.Msgs == 0 || now == s.clean {
		return nil
	}
	listing, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	listed, err := requests.Info(listing, jetstream.WithSubjectFilter("fetch.request.>"))
	if err != nil {
		return fmt.Errorf("subjects of %s: %w", fetchworker.StreamRequests, err)
	}
	clean, stray := true, false
	for subject := range listed.State.Subjects {
		address, err := fetchworker.ParseSubject(subject)
		if err != nil {
			clean, stray = false, true
			continue
		}
		code, detail := s.refusal(address, served)
		if code == "" {
			continue
		}
		clean = false
		_, err = s.each(ctx, fetchworker.StreamRequests, subject, 1, everything, func(ctx context.Context, raw record.Raw) error {
			return s.refuse(ctx, raw, code, detail)
		})
		if err != nil {
			return err
		}
	}
	if stray {
		last, err := s.each(ctx, fetchworker.StreamRequests, "fetch.request.>", s.strays+1, everything, s.dropStray)
		if err != nil {
			return err
		}
		s.strays = last
	}
	if clean {
		s.clean = now
	}
	return nil
}

// unservedReplay answers the released letters of a provider that was retired
// while they were on their way. There are few in that stream at any time.
func (s *Sweeper) unservedReplay(ctx context.Context, replayed jetstream.Stream, served map[string]bool) error {
	if s.config.Known == nil || replayed.CachedInfo().State.Msgs == 0 {
		return nil
	}
	listing, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	listed, err := replayed.Info(listing, jetstream.WithSubjectFilter("fetch.replay.>"))
	if err != nil {
		return fmt.Errorf("subjects of %s: %w", fetchworker.StreamReplay, err)
	}
	for subject := range listed.State.Subjects {
		address, err := fetchworker.ParseSubject(subject)
		if err != nil {
			continue
		}
		code, detail := s.refusal(address, served)
		if code == "" {
			continue
		}
		if _, err := s.each(ctx, fetchworker.StreamReplay, subject, 1, everything, func(ctx context.Context, raw record.Raw) error {
			return s.refuse(ctx, raw, code, detail)
		}); err != nil {
			return err
		}
	}
	return nil
}

// dropStray deletes a message that the stream took but did not transform:
// somebody published to a subject with a wildcard in it, which the server
// takes by the letter. Such a message has no identity, so no answer could be
// stored for it. It is found by reading them all, once: its own subject must
// not be used as a filter, for that would match the requests of others.
func (s *Sweeper) dropStray(ctx context.Context, raw record.Raw) error {
	if _, err := fetchworker.ParseSubject(raw.Subject); err == nil {
		return nil
	}
	return s.drop(ctx, raw)
}

// drop deletes a message that is no request.
func (s *Sweeper) drop(ctx context.Context, raw record.Raw) error {
	s.config.Logger.Warn("dropped a message on a subject that is none", zap.String("subject", raw.Subject), zap.Uint64("sequence", raw.Sequence))
	return s.log.Delete(ctx, "drop", fetchworker.StreamRequests, raw.Sequence)
}

// refusal is the code and the detail that the requests of a subject are
// answered with; none if a consumer takes it.
func (s *Sweeper) refusal(address fetchworker.Address, served map[string]bool) (fetchworker.Code, string) {
	view := s.board.View(address.Provider, time.Now())
	switch {
	case !served[address.Provider] && len(view.Workers) > 0:
		return "", "" // somebody deleted its consumers; its worker makes them again
	case !served[address.Provider] && (s.config.Known(address.Provider) || view.Control.Retired != nil):
		return fetchworker.CodeProviderNotConfigured, "no worker has a key for " + address.Provider
	case !served[address.Provider]:
		return fetchworker.CodeUnknownProvider, "no provider named " + address.Provider + " is known"
	case !address.Lane.Valid():
		return fetchworker.CodeInvalidRequest, "lane: interactive or batch in the subject"
	default:
		return "", ""
	}
}

// refuse answers a request and deletes it. A crash in between leaves it to be
// found again; its answer then stands already.
func (s *Sweeper) refuse(ctx context.Context, raw record.Raw, code fetchworker.Code, detail string) error {
	l, err := queued(raw)
	if err != nil {
		return err
	}
	if _, err := Answer(ctx, s.log, l.failed(fetchworker.Failure(l.Identity, code, detail)), replyOf(l)); err != nil {
		return err
	}
	s.config.Logger.Info("request refused", zap.Stringer("request", l.Identity), zap.String("code", string(code)))
	return s.log.Delete(ctx, "ack", streamOf(raw), raw.Sequence)
}

// absent tells the agents of messages whose provider is served, but by no
// worker that lives. The messages stay: a worker will come.
func (s *Sweeper) absent(ctx context.Context, stream, prefix string, state jetstream.StreamState, served map[string]bool) error {
	now := time.Now()
	for provider := range served {
		key := prefix + provider + ".>"
		view := s.board.View(provider, now)
		if len(view.Workers) > 0 {
			delete(s.told, key)
			continue
		}
		if now.Sub(view.NoneSince) < longAbsence || state.LastSeq <= s.told[key] || state.Msgs == 0 {
			continue
		}
		last, err := s.each(ctx, stream, key, s.told[key]+1, everything, s.tellAbsence)
		if err != nil {
			return err
		}
		s.told[key] = last
	}
	return nil
}

func (s *Sweeper) tellAbsence(ctx context.Context, raw record.Raw) error {
	l, err := queued(raw)
	if err != nil {
		return nil //nolint:nilerr // no request: it is dropped elsewhere
	}
	problem := fetchworker.Waiting(l.Identity, fetchworker.ReasonNoWorker, "", time.Time{})
	a := fetchworker.Answer{
		Identity: l.Identity, Status: fetchworker.StatusWaiting, Generation: l.Generation,
		Calls: l.Calls, Failures: l.Failures, HTTPStatus: l.HTTPStatus, Time: time.Now(), Problem: &problem,
	}
	// Looked at first: other sweepers, and this one after a restart, have
	// told most of them already, and a read is cheaper than a refused write.
	stored, _, err := storedAnswer(ctx, s.log, l.Identity)
	if err != nil || stored != nil && !record.AnswerReplaces(*stored, a) {
		return err
	}
	_, err = Answer(ctx, s.log, a, replyOf(l))
	return err
}

// expireRequests ends the requests that have waited for their whole life. The
// stream is in order of time, so the first message says whether there are any.
func (s *Sweeper) expireRequests(ctx context.Context, state jetstream.StreamState) error {
	alive := func(since time.Time) bool { return time.Since(since) < s.config.MaxLife }
	if state.Msgs == 0 || alive(state.FirstTime) {
		return nil
	}
	_, err := s.each(ctx, fetchworker.StreamRequests, "fetch.request.>", state.FirstSeq, func(raw record.Raw) bool { return !alive(raw.Time) }, s.bury)
	return err
}

// expireReplayed ends the released letters whose request has lived its whole
// life. Each is read once when it is new, and all are again when the first of
// those lives ends.
func (s *Sweeper) expireReplayed(ctx context.Context, state jetstream.StreamState) error {
	if state.Msgs == 0 {
		s.nextEnd = time.Time{}
		return nil
	}
	next := s.seen + 1
	if !s.nextEnd.IsZero() && !time.Now().Before(s.nextEnd) {
		next, s.nextEnd = state.FirstSeq, time.Time{}
	}
	for next <= state.LastSeq {
		raw, err := s.log.Next(ctx, fetchworker.StreamReplay, "fetch.replay.>", next)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return err
		}
		l, err := queued(raw)
		if err != nil {
			return err
		}
		end := endOfLife(l, facts{stored: raw.Time, maxLife: s.config.MaxLife})
		if time.Now().Before(end) {
			s.nextEnd = earliest(s.nextEnd, end)
		} else if err := s.bury(ctx, raw); err != nil {
			return err
		}
		next = raw.Sequence + 1
	}
	s.seen = max(s.seen, state.LastSeq)
	return nil
}

// bury makes a dead letter of a message that is past its life; the replayer
// takes it to review and answers it. A crash before the delete leaves the
// message to be buried again, which replaces the letter with itself, or to be
// taken by a worker, which does the same.
func (s *Sweeper) bury(ctx context.Context, raw record.Raw) error {
	l, err := queued(raw)
	if err != nil {
		return s.drop(ctx, raw)
	}
	now := time.Now()
	l.Class, l.Code = fetchworker.ClassExpired, ""
	l.Error = fmt.Sprintf("the request reached its maximum life of %v", s.config.MaxLife)
	l.FailedAt, l.NotBefore = now, now
	l.Record(Attempt{At: now, Class: l.Class, Error: l.Error})
	if err := Put(ctx, s.log, l); err != nil {
		return err
	}
	s.config.Logger.Info("past its maximum life", zap.Stringer("request", l.Identity), zap.Time("requested_at", l.RequestedAt))
	return s.log.Delete(ctx, "ack", streamOf(raw), raw.Sequence)
}

// each reads the messages of a subject filter from a sequence on, as long as
// they are wanted and this pass may, and does something to each, several at a
// time. One that fails stops no other. It returns the last sequence that it
// has read.
func (s *Sweeper) each(ctx context.Context, stream, filter string, from uint64, want func(record.Raw) bool, do func(context.Context, record.Raw) error) (last uint64, err error) {
	var group sync.WaitGroup
	var mu sync.Mutex // guards failed
	var failed []error
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = append(failed, err)
	}
	turns := make(chan struct{}, sweepsAtOnce)
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
			fail(err)
			break
		}
		turns <- struct{}{}
		group.Go(func() {
			defer func() { <-turns }()
			if err := do(ctx, raw); err != nil {
				fail(err)
			}
		})
		last = raw.Sequence
	}
	group.Wait()
	return last, errors.Join(failed...)
}

func everything(record.Raw) bool { return true }

// queued reads a message of either queue as the letter it would become.
func queued(raw record.Raw) (Letter, error) {
	address, err := fetchworker.ParseSubject(raw.Subject)
	if err != nil {
		return Letter{}, err
	}
	if address.Shard < 0 { // a released letter
		l, err := Decode(raw.Subject, raw.Header, raw.Data)
		if err != nil {
			l = salvage(raw.Subject, raw.Header, raw.Data, err)
		}
		return l, nil
	}
	// Of a body that cannot be read whole, the id may still be.
	r, _ := fetchworker.DecodeRequest(raw.Data)
	traceparent, tracestate := TraceOf(raw.Header)
	l := Letter{
		Identity: address.Identity, Lane: address.Lane, Body: raw.Data, Generation: 1,
		RequestedAt: raw.Time, Deadline: r.Expires(raw.Time),
		Traceparent: traceparent, Tracestate: tracestate,
	}
	l.ID = fetchworker.ResolveID(r.ID, raw.Header.Get(jetstream.MsgIDHeader), raw.Sequence, raw.Time)
	return l, nil
}

// streamOf is the queue that a message was read from.
func streamOf(raw record.Raw) string {
	if address, err := fetchworker.ParseSubject(raw.Subject); err == nil && address.Shard < 0 {
		return fetchworker.StreamReplay
	}
	return fetchworker.StreamRequests
}
