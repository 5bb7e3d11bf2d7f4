// Package answer stores what a request is answered, and tells what stands:
// the parts of a large body first, then the answer under its result subject,
// then the live copy to whoever asked for one. Workers, replayers and
// sweepers all answer through it, so that "is it answered?" is asked in one
// place and means one thing.
//
// It does not know why a request is answered as it is.
package answer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fetchworker"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/semaphore"
)

// Store keeps answers. It is safe for concurrent use.
type Store struct {
	log   *record.Log
	parts *semaphore.Weighted // of large bodies, on their way
}

// New makes a store on a log.
func New(log *record.Log) *Store {
	return &Store{log: log, parts: semaphore.NewWeighted(partsInFlight)}
}

// Slot is where a request's answer is stored.
func Slot(i fetchworker.Identity) record.Slot {
	return record.Slot{Stream: fetchworker.StreamResults, Subject: fetchworker.ResultSubject(i), Order: record.Answers, Point: "answer"}
}

// Standing is what stands under a request's result subject. The zero value
// is nothing.
type Standing struct {
	fetchworker.Answer
	Stands bool // an answer that can be read does
	seen   record.Seen
}

// Ends reports whether a request of this generation is answered: nothing that
// it could still say would be stored.
func (s Standing) Ends(generation int) bool {
	switch {
	case !s.Stands:
		return false
	case s.Generation > generation, s.Final && !s.Review:
		return true
	default:
		return s.Final && s.Generation == generation
	}
}

// Reviewed reports whether what ends this generation is the answer of a
// request that a person will see: then its review item belongs to it.
func (s Standing) Reviewed(generation int) bool {
	return s.Stands && s.Final && s.Review && s.Generation == generation
}

// Read reads what stands for a request.
func (s *Store) Read(ctx context.Context, i fetchworker.Identity) (Standing, error) {
	seen, err := s.log.Get(ctx, Slot(i))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Standing{}, nil
	}
	if err != nil {
		return Standing{}, fmt.Errorf("answer of %s: %w", i, err)
	}
	return standing(i, seen), nil
}

// Direct is what stands for a request by the reply to a direct get of its
// result subject; nil is none.
func Direct(i fetchworker.Identity, m *nats.Msg) (Standing, error) {
	if m == nil {
		return Standing{}, nil
	}
	raw, err := record.Direct(m)
	if err != nil {
		return Standing{}, fmt.Errorf("answer of %s: %w", i, err)
	}
	return standing(i, record.Seen{Message: record.Message{Header: raw.Header, Data: raw.Data}, Sequence: raw.Sequence}), nil
}

func standing(i fetchworker.Identity, seen record.Seen) Standing {
	a, err := fetchworker.DecodeAnswer(fetchworker.ResultSubject(i), seen.Header, seen.Data)
	// The order of answers lets anything replace what cannot be read.
	return Standing{Answer: a, Stands: err == nil, seen: seen}
}

// Put stores an answer unless a higher one stands, and sends a live copy to
// the reply subject, if there is one: of the answer stored, or of the final
// one that stood already. A copy may come twice; the record is the result
// subject. stored is false where another answer stands: that one is returned.
func (s *Store) Put(ctx context.Context, a fetchworker.Answer, replyTo string) (stands Standing, stored bool, err error) {
	return s.Replace(ctx, Standing{}, a, replyTo)
}

// Replace is Put for a caller that has read what stands.
func (s *Store) Replace(ctx context.Context, seen Standing, a fetchworker.Answer, replyTo string) (stands Standing, stored bool, err error) {
	if len(a.Body) > fetchworker.MaxInlineBody {
		if a.Claim, err = s.storeBody(ctx, a); err != nil {
			return Standing{}, false, err
		}
		a.Body = nil
	}
	m := a.Encode()
	if kept := keptFor(a); kept > 0 {
		m.Header.Set(jetstream.MsgTTLHeader, kept.String())
	}
	out, err := s.put(ctx, seen, a, m)
	if record.NoTTL(err) { // a stream of an earlier version: it keeps what it gets
		m.Header.Del(jetstream.MsgTTLHeader)
		out, err = s.put(ctx, seen, a, m)
	}
	if err != nil {
		return Standing{}, false, err
	}
	if out.Stored {
		return Standing{a, true, record.Seen{Message: record.Message{Header: m.Header, Data: m.Data}, Sequence: out.Sequence}},
			true, s.copy(replyTo, m.Header, m.Data)
	}
	stands = standing(a.Identity, record.Seen{Message: *out.Existing, Sequence: out.Sequence})
	if stands.Final {
		err = s.Copy(stands, replyTo)
	}
	return stands, false, err
}

// put writes an answer as a message. Whether an end stands above what was seen is
// known from what that was read as: to read both once more was a tenth of what a
// replayed request cost its worker.
func (s *Store) put(ctx context.Context, seen Standing, a fetchworker.Answer, m *nats.Msg) (record.Outcome, error) {
	if a.Final && seen.Stands && record.AnswerReplaces(seen.Answer, a) {
		return s.log.Over(ctx, Slot(a.Identity), seen.seen.Sequence, m)
	}
	return s.log.Replace(ctx, Slot(a.Identity), seen.seen, m)
}

// keptFor is how long an answer is kept, 0 for as long as the stream keeps its
// own. What is refused before any call was made would let one agent fill the
// store at no cost; what waits for a person, or has been decided by one, has
// its end elsewhere.
func keptFor(a fetchworker.Answer) time.Duration {
	if a.Status == fetchworker.StatusFailed && a.Final && a.Calls == 0 && !a.Review && a.Generation <= 1 {
		return time.Hour
	}
	return 0
}

// Copy sends what stands to a reply subject: same bytes, same headers but
// those that the server adds when it reads one back.
func (s *Store) Copy(stands Standing, replyTo string) error {
	return s.copy(replyTo, stands.seen.Header, stands.seen.Data)
}

func (s *Store) copy(replyTo string, h nats.Header, data []byte) error {
	if replyTo == "" {
		return nil
	}
	m := nats.NewMsg(replyTo)
	for key, values := range h {
		if !serverHeader(key) {
			m.Header[key] = values
		}
	}
	m.Data = data
	return s.log.Send(m)
}

func serverHeader(key string) bool { return len(key) > 5 && key[:5] == "Nats-" }
