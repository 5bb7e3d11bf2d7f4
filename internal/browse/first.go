package browse

import (
	"context"
	"iter"

	"fetchworker/internal/record"
)

// First is MessagesFrom for so many at the most, read together as far as a page
// has room for them.
func (b *Browser) First(ctx context.Context, stream, subject string, sequence uint64, edge Edge, most int) iter.Seq2[record.Raw, error] {
	return func(yield func(record.Raw, error) bool) {
		next := sequence
		for left := most; left > 0; {
			page, err := b.page(ctx, stream, pageRequest{Subject: subject, Sequence: next, Batch: left, MaxBytes: pageBytes})
			if err != nil {
				yield(record.Raw{}, err)
				return
			}
			for _, m := range page.messages {
				if m.Sequence > edge.Sequence || !yield(m, nil) {
					return
				}
				next = m.Sequence + 1
			}
			if page.left == 0 || len(page.messages) == 0 {
				return
			}
			left -= len(page.messages)
		}
	}
}
