package browse

import (
	"context"
	"iter"
	"slices"

	"fetchworker/internal/record"
)

// The server reads forwards only. Going back, so many sequences are read at
// first, a screen or two; where few of them match, more the next time. Of what
// matches so much is held in memory at most: of a stretch that has more, the
// newest.
const (
	backFirst = 250
	backMost  = 64_000
	backHeld  = 2000
	backBytes = 8 << 20
)

// Backwards yields the stored messages of a subject filter, the newest first,
// down to the first of the stream or as far as the caller goes.
func (b *Browser) Backwards(ctx context.Context, stream, subject string, edge Edge) iter.Seq2[record.Raw, error] {
	return func(yield func(record.Raw, error) bool) {
		step := uint64(backFirst)
		for last := edge.Sequence; last > 0; {
			first := uint64(1)
			if last > step {
				first = last - step + 1
			}
			var found []record.Raw
			held, left := 0, false
			for raw, err := range b.window(ctx, stream, subject, first, last) {
				if err != nil {
					yield(record.Raw{}, err)
					return
				}
				found, held = append(found, raw), held+size(raw)
				for len(found) > backHeld || held > backBytes && len(found) > 1 {
					held, left = held-size(found[0]), true
					first, found = found[0].Sequence+1, found[1:]
				}
			}
			for _, raw := range slices.Backward(found) {
				if !yield(raw, nil) {
					return
				}
			}
			dense := len(found) > pageMessages/4
			switch last = first - 1; {
			case left:
				step = max(step/4, backFirst) // the rest of the stretch is read again
			case step < pageMessages || !dense && step < backMost:
				step *= 4
			}
		}
	}
}

// size is what a message holds of memory, about.
func size(raw record.Raw) int {
	n := len(raw.Subject) + len(raw.Data)
	for name, values := range raw.Header {
		for _, v := range values {
			n += len(name) + len(v)
		}
	}
	return n
}

// window reads what a filter matches between two sequences. No leader has to
// say that it is over: what lags behind is newer than the edge.
func (b *Browser) window(ctx context.Context, stream, subject string, first, last uint64) iter.Seq2[record.Raw, error] {
	return func(yield func(record.Raw, error) bool) {
		for {
			page, err := b.page(ctx, stream, pageRequest{Subject: subject, Sequence: first, Batch: pageMessages, MaxBytes: pageBytes})
			if err != nil {
				yield(record.Raw{}, err)
				return
			}
			for _, m := range page.messages {
				if m.Sequence > last || !yield(m, nil) {
					return
				}
				first = m.Sequence + 1
			}
			if page.left == 0 || first > last {
				return
			}
		}
	}
}

// WalkBack is Walk, the newest first.
func (b *Browser) WalkBack(ctx context.Context, stream string, f Filter, edge Edge) iter.Seq2[Found, error] {
	return found(stream, f, b.Backwards(ctx, stream, f.walked(stream, edge), edge))
}

// found are the letters or items among messages that a filter matches.
func found(stream string, f Filter, messages iter.Seq2[record.Raw, error]) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		for raw, err := range messages {
			if err != nil {
				yield(Found{}, err)
				return
			}
			found := Found{Stream: stream, Sequence: raw.Sequence, StoredAt: raw.Time}
			found.Letter, found.Fault = read(stream, raw)
			// What cannot be read is shown, and no act is ever done to it.
			if f.Selects(found) && !yield(found, nil) {
				return
			}
		}
	}
}
