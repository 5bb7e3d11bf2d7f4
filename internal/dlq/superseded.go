package dlq

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"fetchworker/internal/answer"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// Moved is where a review item's request has gone.
type Moved string

// Where it may have gone.
const (
	Nowhere     Moved = ""
	LaterLife   Moved = "a later generation is at work or answered"
	OtherTenant Moved = "another request lives under its id" // its answer is gone, and the id was used again
)

// Superseded tells whether a later generation of a review item's request is at
// work or answered, whether its answer can never change any more, or whether
// its id belongs to another request by now.
//
// A request at work is a letter, then a replayed letter, then an answer or a
// letter again. The letter is looked at first and last, so that one that
// moves while this looks is met all the same.
func Superseded(ctx context.Context, log *record.Log, item Letter) (Moved, error) {
	for _, slot := range []record.Slot{item.DeadLetterSlot(), item.ReplaySlot(), answer.Slot(item.Identity), item.DeadLetterSlot()} {
		m, err := log.Get(ctx, slot)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return Nowhere, fmt.Errorf("look at %s: %w", slot.Subject, err)
		}
		generation, _ := strconv.Atoi(m.Header.Get(wire.HeaderGeneration))
		settled := m.Header.Get(wire.HeaderFinal) == "true" && m.Header.Get(wire.HeaderReview) != "true"
		requested, _ := time.Parse(time.RFC3339, m.Header.Get(wire.HeaderRequestedAt)) // no answer says
		switch {
		case generation > item.Generation, settled:
			return LaterLife, nil
		case !item.RequestedAt.IsZero() && requested.After(item.RequestedAt):
			return OtherTenant, nil
		}
	}
	return Nowhere, nil
}
