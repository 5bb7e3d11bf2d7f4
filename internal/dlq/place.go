package dlq

import (
	"context"
	"errors"
	"slices"

	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// place is where somebody is who reads letters in their order.
type place struct {
	next  uint64 // the sequence to read on from
	alone int    // letters to be read one by one: they lie among many others
}

// readsAlone are the letters of a filter that are then read one by one, where
// they are few among others.
const readsAlone = 64

// read reads the next letters whose subjects match a filter. Whatever lies there
// is read together, which the server has at hand, and those of the filter are
// taken out of it; where they are few among others, the server is asked for the
// next one of them, and so is it where nothing lies any more.
func (r *Replayer) read(ctx context.Context, filter string, at *place, most int) ([]record.Raw, error) {
	if at.alone > 0 {
		at.alone--
	} else {
		page, err := r.log.Span(ctx, wire.StreamDLQ, at.next, most)
		if err != nil {
			return nil, err
		}
		all := len(page)
		page = slices.DeleteFunc(page, func(raw record.Raw) bool { return !wire.Matches(filter, raw.Subject) })
		if len(page) > 0 && 4*len(page) >= all {
			return page, nil
		}
		if all > 0 {
			at.alone = readsAlone
		}
	}
	raw, err := r.log.Next(ctx, wire.StreamDLQ, filter, at.next)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	return []record.Raw{raw}, err
}
