package sweep

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/nearest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// unserved answers the requests that no consumer takes: of a provider that
// nobody has ever served, or in a lane that does not exist. It lists the
// stream's subjects, so it does not while nothing has changed since it found
// none.
func (s *Sweeper) unserved(ctx context.Context, requests jetstream.Stream, served map[string]bool) error {
	info := requests.CachedInfo()
	now := snapshot{info.State.LastSeq, info.State.Msgs, served}
	if s.config.Known == nil || info.State.Msgs == 0 || now.equal(s.clean) {
		return nil
	}
	listing, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	listed, err := wire.List(listing, s.js.Conn(), fetchworker.StreamRequests, "fetch.request.>")
	if err != nil {
		return fmt.Errorf("subjects of %s: %w", fetchworker.StreamRequests, err)
	}
	found := s.sort(listed.Subjects, served)
	hidden := s.hidden(listed) || found.wild
	if found.none() && !hidden {
		s.clean = now
		return nil
	}
	errs := []error{s.refuseAll(ctx, fetchworker.StreamRequests, found.refused), s.dropAll(ctx, fetchworker.StreamRequests, found.strays)}
	if hidden {
		errs = append(errs, s.dropHidden(ctx))
	}
	return errors.Join(errs...)
}

// unservedReplay answers the released letters of a provider that was retired
// while they were on their way. There are few in that stream at any time.
func (s *Sweeper) unservedReplay(ctx context.Context, replayed jetstream.Stream, served map[string]bool) error {
	if s.config.Known == nil || replayed.CachedInfo().State.Msgs == 0 {
		return nil
	}
	listing, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	listed, err := wire.List(listing, s.js.Conn(), wire.StreamReplay, "fetch.replay.>")
	if err != nil {
		return fmt.Errorf("subjects of %s: %w", wire.StreamReplay, err)
	}
	found := s.sort(listed.Subjects, served)
	return errors.Join(s.refuseAll(ctx, wire.StreamReplay, found.refused), s.dropAll(ctx, wire.StreamReplay, found.strays))
}

// unwanted are subjects of a stream that no consumer takes.
type unwanted struct {
	refused []*refused
	strays  map[string]uint64 // by a filter that finds them: how many messages
	wild    bool              // a wildcard was taken by the letter: no filter finds it
}

// refused is a subject whose requests are answered.
type refused struct {
	subject string
	code    fetchworker.Code
	detail  string
	left    uint64 // messages
	next    uint64 // sequence to go on from
}

func (u unwanted) none() bool { return len(u.refused) == 0 && len(u.strays) == 0 }

// sort tells the subjects that no consumer takes from those that one does. The
// agents of the refused take turns: one that floods the queue with invented
// names does not keep another's from being answered.
func (s *Sweeper) sort(subjects map[string]uint64, served map[string]bool) unwanted {
	u := unwanted{strays: map[string]uint64{}}
	agents := map[string][]*refused{}
	for subject, messages := range subjects {
		address, err := wire.ParseSubject(subject)
		switch {
		case err == nil:
		case strings.ContainsAny(subject, "*>"):
			u.wild = true
			continue
		default:
			u.strays[around(subject)] += messages
			continue
		}
		if code, detail := s.refusal(address, served); code != "" {
			agents[address.Agent] = append(agents[address.Agent], &refused{subject: subject, code: code, detail: detail, left: messages, next: 1})
		}
	}
	for turn := 0; len(agents) > 0; turn++ {
		for agent, subjects := range agents {
			if turn == len(subjects) {
				delete(agents, agent)
				continue
			}
			u.refused = append(u.refused, subjects[turn])
		}
	}
	return u
}

// around is a filter that finds a stray. Its own subject would not do: what is
// no UTF-8 comes out of the server's list as something else.
func around(subject string) string {
	tokens := strings.Split(subject, ".")
	for i, token := range tokens {
		if i > 1 && (len(token) > 64 || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f })) {
			tokens[i] = "*"
		}
	}
	return strings.Join(tokens, ".")
}

// hidden reports whether the stream holds more than its list of subjects
// accounts for, twice in a row: a message that is taken meanwhile looks so
// too. The server lists no subject with a DEL in it.
func (s *Sweeper) hidden(state jetstream.StreamState) bool {
	var listed uint64
	for _, messages := range state.Subjects {
		listed += messages
	}
	before := s.unlisted
	s.unlisted = listed < state.Msgs
	return before && s.unlisted
}

// dropHidden deletes the strays that no list and no filter tells. Each message
// of the stream is read once for it, a page at a time.
func (s *Sweeper) dropHidden(ctx context.Context) error {
	browser := browse.New(s.js.Conn())
	edge, err := browser.Edge(ctx, fetchworker.StreamRequests)
	if err != nil {
		return err
	}
	crew := newCrew(ctx)
	before := s.scanned
	for raw, err := range browser.MessagesFrom(ctx, fetchworker.StreamRequests, ">", before+1, edge) {
		if err != nil {
			crew.failed(err)
			break
		}
		s.scanned = raw.Sequence
		if _, err := wire.ParseSubject(raw.Subject); err != nil {
			crew.do(raw, func(ctx context.Context, raw record.Raw) error { return s.drop(ctx, fetchworker.StreamRequests, raw) })
		}
	}
	err = crew.wait()
	if err != nil {
		s.scanned = before // or what could not be deleted would be found by nobody
	}
	return err
}

// refuseAll answers the requests of the subjects, in turns.
func (s *Sweeper) refuseAll(ctx context.Context, stream string, subjects []*refused) error {
	crew := newCrew(ctx)
	for n := 0; len(subjects) > 0; {
		var left []*refused
		for _, r := range subjects {
			if n++; n > sweepsAPass {
				s.more = true
				return crew.wait()
			}
			raw, err := s.log.Next(ctx, stream, r.subject, r.next)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue
			}
			if err != nil {
				crew.failed(err)
				continue
			}
			crew.do(raw, func(ctx context.Context, raw record.Raw) error { return s.refuse(ctx, raw, r.code, r.detail) })
			if r.next, r.left = raw.Sequence+1, r.left-1; r.left > 0 {
				left = append(left, r)
			}
		}
		subjects = left
	}
	return crew.wait()
}

// dropAll deletes messages on subjects that are none: somebody published what
// the stream takes but nobody could answer. They are found by their sequence,
// among all that their filter finds.
func (s *Sweeper) dropAll(ctx context.Context, stream string, strays map[string]uint64) error {
	crew := newCrew(ctx)
	n := 0
	for filter, messages := range strays {
		from := max(s.strays[filter], 1)
		for messages > 0 {
			if n++; n > sweepsAPass {
				s.more = true
				return crew.wait()
			}
			raw, err := s.log.Next(ctx, stream, filter, from)
			if err != nil {
				if !errors.Is(err, jetstream.ErrMsgNotFound) {
					crew.failed(err)
				}
				delete(s.strays, filter)
				break
			}
			from = raw.Sequence + 1
			s.strays[filter] = from
			if _, err := wire.ParseSubject(raw.Subject); err != nil {
				messages--
				crew.do(raw, func(ctx context.Context, raw record.Raw) error { return s.drop(ctx, stream, raw) })
			}
		}
		if messages == 0 {
			delete(s.strays, filter)
		}
	}
	return crew.wait()
}

// drop deletes a message that is no request.
func (s *Sweeper) drop(ctx context.Context, stream string, raw record.Raw) error {
	s.dropped.Inc()
	s.config.Logger.Warn("dropped a message on a subject that is none", zap.String("subject", raw.Subject), zap.Uint64("sequence", raw.Sequence))
	return s.log.Delete(ctx, "drop", stream, raw.Sequence)
}

// badLane is the detail of a request in a lane that is none.
const badLane = "lane: interactive or batch in the subject"

// refusal is the code and the detail that the requests of a subject are
// answered with; none if a consumer takes it.
func (s *Sweeper) refusal(address wire.Address, served map[string]bool) (fetchworker.Code, string) {
	view := s.board.Provider(address.Provider, s.board.Now())
	switch {
	case !served[address.Provider] && (s.config.Known(address.Provider) || view.Control.Retired != nil):
		return fetchworker.CodeProviderNotConfigured, "no worker has a key for " + address.Provider
	case !served[address.Provider]:
		return fetchworker.CodeUnknownProvider, s.unknown(address.Provider)
	case !address.Lane.Valid():
		return fetchworker.CodeInvalidRequest, badLane
	default:
		return "", ""
	}
}

func (s *Sweeper) unknown(provider string) string {
	detail := "no provider named " + provider + " is known"
	if meant := nearest.Of(provider, s.board.Providers()); meant != "" {
		detail += ", did you mean " + meant + "?"
	}
	return detail
}

// refuse answers a request and deletes it. A crash in between leaves it to be
// found again; its answer then stands already.
func (s *Sweeper) refuse(ctx context.Context, raw record.Raw, code fetchworker.Code, detail string) error {
	l, err := queued(raw)
	if err != nil {
		return s.drop(ctx, streamOf(raw), raw)
	}
	if l.Generation > 1 {
		// A person began this life: it does not end for good for a reason that
		// passes, but comes back to them.
		return s.toReview(ctx, raw, l, wire.ClassPermanent, code, detail)
	}
	if _, _, err := s.answers.Put(ctx, l.Failed(code, detail), l.ReplyTo()); err != nil {
		return err
	}
	s.config.Logger.Info("request refused", zap.Stringer("request", l.Identity), zap.String("code", string(code)))
	return s.log.Delete(ctx, "ack", streamOf(raw), raw.Sequence)
}

// absent tells the agents of messages whose provider is served, but by no
// worker that lives. The messages stay: a worker will come.
func (s *Sweeper) absent(ctx context.Context, stream, prefix string, state jetstream.StreamState, served map[string]bool) error {
	now := s.board.Now()
	for provider := range served {
		key := prefix + provider + ".>"
		if s.attended[provider] {
			delete(s.told, key)
			continue
		}
		if state.Msgs == 0 || state.LastSeq <= s.told[key] {
			continue // and nobody has to be asked who lives
		}
		if view := s.board.Provider(provider, now); len(view.Workers) > 0 || now.Sub(view.NoneSince) < dlq.LongAbsence {
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
	// Looked at first: other sweepers, and this one after a restart, have
	// told most of them already, and a read is cheaper than a refused write.
	stands, err := s.answers.Read(ctx, l.Identity)
	if err != nil || stands.Final {
		return err
	}
	_, _, err = s.answers.Replace(ctx, stands, l.Waiting(fetchworker.ReasonNoWorker, "", time.Time{}), l.ReplyTo())
	return err
}
