package operate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// lettersRead is how many letters of an open gate are read to tell those
	// that wait for their time from those that are due. Of more, a sample says it.
	lettersRead = 2000
	// lettersSampled is how many a sample has at the most, lettersAtOnce how many
	// lie side by side in it: a server that reads one letter reads megabytes
	// around it.
	lettersSampled, lettersAtOnce = 240, 20
	// sampleTime is how long a sample takes: a status is looked at all the time.
	sampleTime = 60 * time.Millisecond
	// placesLeast are looked at however long that takes.
	placesLeast = 3
)

// sample reads letters from places spread over the stream, as many as the time
// allows. Where most of the stream is the provider's, whatever lies at a place
// is read and judged here: to look for a certain provider's letter is an order
// of magnitude dearer.
func (f *Fleet) sample(ctx context.Context, s *Status, subject string, now time.Time) error {
	stream, err := f.desk.JS.Stream(ctx, wire.StreamDLQ)
	if err != nil {
		return fmt.Errorf("look up the letters: %w", err)
	}
	state := stream.CachedInfo().State
	common := uint64(s.Letters)*10 > state.Msgs //nolint:gosec // a count
	span := state.LastSeq - min(state.FirstSeq, state.LastSeq) + 1
	waiting, read := 0, 0
	until := time.Now().Add(sampleTime)
	for places := 0; read < lettersSampled && (places < placesLeast || time.Now().Before(until)) && places < lettersSampled; places++ {
		from := state.FirstSeq + rand.Uint64N(span) //nolint:gosec // a sample
		letters, err := f.place(ctx, subject, from, common)
		if err != nil {
			return err
		}
		for _, l := range letters {
			read++
			if Waits(l, now) {
				waiting++
			}
		}
	}
	s.Sampled = true
	if read > 0 {
		s.Waiting = s.Letters * waiting / read
	}
	s.Due = s.Letters - s.Waiting
	return nil
}

// place reads the letters of a subject filter at a sequence or behind it: one,
// or, where they are common, those among what lies there.
func (f *Fleet) place(ctx context.Context, subject string, from uint64, common bool) (letters []dlq.Letter, err error) {
	var found []record.Raw
	if common {
		if found, err = f.desk.Log.Span(ctx, wire.StreamDLQ, from, lettersAtOnce); err != nil {
			return nil, err
		}
	}
	if len(found) == 0 { // nothing lies there any more, or it is another's
		raw, err := f.desk.Log.Next(ctx, wire.StreamDLQ, subject, from)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		l, err := dlq.Decode(raw.Subject, raw.Header, raw.Data)
		if err != nil {
			return nil, nil //nolint:nilerr // what cannot be read is no part of a sample
		}
		return []dlq.Letter{l}, nil
	}
	for _, raw := range found {
		if !strings.HasPrefix(raw.Subject, strings.TrimSuffix(subject, ">")) {
			continue
		}
		if l, err := dlq.Decode(raw.Subject, raw.Header, raw.Data); err == nil {
			letters = append(letters, l)
		}
	}
	return letters, nil
}
