package operate

import (
	"context"
	"errors"
	"fmt"
	"math"
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
	placesLeast = 5
	// sampledLeast of a provider's are enough to judge it by.
	sampledLeast = 10
)

// sample judges the letters of a provider by some of them: those that were read
// for all providers together, or, where it has none or too few among them, some
// that are read for it alone.
func (f *Fleet) sample(ctx context.Context, s *Status, read []dlq.Letter, now time.Time) (err error) {
	if len(read) < sampledLeast {
		if read, err = f.places(ctx, prefixes[wire.StreamDLQ]+s.Provider+".", s.Letters); err != nil {
			return err
		}
	}
	waiting := 0
	for _, l := range read {
		if Waits(l, now) {
			waiting++
		}
	}
	s.Sampled = true
	if len(read) > 0 {
		s.Waiting = s.Letters * waiting / len(read)
	}
	s.Due = s.Letters - s.Waiting
	return nil
}

// sampled reads a sample for all providers together, by provider: none where
// there are so few letters that they are read themselves.
func (f *Fleet) sampled(ctx context.Context) (map[string][]dlq.Letter, error) {
	read, err := f.places(ctx, prefixes[wire.StreamDLQ], math.MaxInt)
	if err != nil {
		return nil, err
	}
	by := map[string][]dlq.Letter{}
	for _, l := range read {
		by[l.Provider] = append(by[l.Provider], l)
	}
	return by, nil
}

// places reads letters whose subjects begin so from places spread over the
// stream, as many as the time allows. Where most of the stream is theirs, as
// many letters say, whatever lies at a place is read and judged here: to look
// for a certain provider's letter is an order of magnitude dearer.
func (f *Fleet) places(ctx context.Context, prefix string, letters int) (read []dlq.Letter, err error) {
	stream, err := f.desk.JS.Stream(ctx, wire.StreamDLQ)
	if err != nil {
		return nil, fmt.Errorf("look up the letters: %w", err)
	}
	state := stream.CachedInfo().State
	if state.Msgs <= lettersRead {
		return nil, nil
	}
	common := uint64(letters) > state.Msgs/10 //nolint:gosec // a count
	span := state.LastSeq - min(state.FirstSeq, state.LastSeq) + 1
	until := time.Now().Add(sampleTime)
	for places := 0; len(read) < lettersSampled && (places < placesLeast || time.Now().Before(until)) && places < lettersSampled; places++ {
		from := state.FirstSeq + rand.Uint64N(span) //nolint:gosec // a sample
		found, err := f.place(ctx, prefix, from, common)
		if err != nil {
			return nil, err
		}
		read = append(read, found...)
	}
	return read, nil
}

// place reads the letters whose subjects begin so at a sequence or behind it:
// one, or, where they are common, those among what lies there.
func (f *Fleet) place(ctx context.Context, prefix string, from uint64, common bool) (letters []dlq.Letter, err error) {
	var found []record.Raw
	if common {
		if found, err = f.desk.Log.Span(ctx, wire.StreamDLQ, from, lettersAtOnce); err != nil {
			return nil, err
		}
	}
	if len(found) == 0 { // nothing lies there any more, or it is another's
		raw, err := f.desk.Log.Next(ctx, wire.StreamDLQ, prefix+">", from)
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
		if !strings.HasPrefix(raw.Subject, prefix) {
			continue
		}
		if l, err := dlq.Decode(raw.Subject, raw.Header, raw.Data); err == nil {
			letters = append(letters, l)
		}
	}
	return letters, nil
}
