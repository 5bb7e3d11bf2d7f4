package sweep

import (
	"context"
	"fmt"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

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
	if _, _, err := s.answers.Put(ctx, l.Failed(code, detail), l.ReplyTo()); err != nil {
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
		if now.Sub(view.NoneSince) < dlq.LongAbsence || state.LastSeq <= s.told[key] || state.Msgs == 0 {
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
