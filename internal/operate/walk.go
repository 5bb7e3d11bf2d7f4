package operate

import (
	"context"
	"iter"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/wire"
)

// part is a stream with the end that it had when the task began.
type part struct {
	stream string
	edge   browse.Edge
}

// streams are where the task's messages are, in the order that a request goes
// through them: what goes on while they are walked is met further down.
func (t *Task) streams() []string {
	switch {
	case t.Action == ActCancel && t.Queued:
		return []string{fetchworker.StreamRequests, wire.StreamReplay, wire.StreamDLQ}
	case t.Action == ActReplay, t.Action == ActCancel:
		return []string{wire.StreamDLQ}
	default:
		return []string{wire.StreamReview}
	}
}

// Reviews reports whether the task is about review items.
func (t *Task) Reviews() bool { return t.streams()[0] == wire.StreamReview }

// matching yields all that the task's filter selects, up to where the streams
// ended when it began.
func (t *Task) matching(ctx context.Context) iter.Seq2[browse.Found, error] {
	return t.walk(ctx, t.parts)
}

func (t *Task) walk(ctx context.Context, parts []part) iter.Seq2[browse.Found, error] {
	return func(yield func(browse.Found, error) bool) {
		for _, p := range parts {
			for found, err := range t.reader.Walk(ctx, p.stream, t.Filter, p.edge) {
				if !yield(found, err) || err != nil {
					return
				}
			}
		}
	}
}

// planned yields what the plan has shown, as far as it is still there, and
// nothing that has come since.
func (t *Task) planned(ctx context.Context, plan Plan) iter.Seq2[browse.Found, error] {
	switch {
	case t.Only != nil:
		return func(yield func(browse.Found, error) bool) { yield(*t.Only, nil) }
	case t.Queued && t.Limit == 0:
		return t.followed(ctx)
	}
	var parts []part
	for _, p := range t.parts {
		last := p.stream == plan.In
		if last {
			p.edge.Sequence = min(p.edge.Sequence, plan.Last)
		}
		if parts = append(parts, p); last {
			break
		}
	}
	return t.walk(ctx, parts)
}

// followed yields what was there when the task began, wherever it has gone
// since: a queued request becomes a letter, a letter is released.
func (t *Task) followed(ctx context.Context) iter.Seq2[browse.Found, error] {
	return func(yield func(browse.Found, error) bool) {
		for _, stream := range append(t.streams(), wire.StreamReplay) {
			edge, err := t.edgeOf(ctx, stream)
			if err != nil {
				yield(browse.Found{}, err)
				return
			}
			for found, err := range t.walk(ctx, []part{{stream, edge}}) {
				// What a filter of causes selects now it may not have selected then.
				late := err == nil && (found.RequestedAt.After(t.at) || !t.Filter.NamesOnly() && found.StoredAt.After(t.at))
				if !late && !yield(found, err) || err != nil {
					return
				}
			}
		}
	}
}

func (t *Task) edgeOf(ctx context.Context, stream string) (edge browse.Edge, err error) {
	err = t.operator.patiently(ctx, func() (err error) {
		edge, err = t.desk.Edge(ctx, stream)
		return err
	})
	return edge, err
}
