package fetch

import (
	"context"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/dlq"
	"fetchworker/internal/memory"
	"fetchworker/internal/providers"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"go.opentelemetry.io/otel/attribute"
)

// finish stores what was decided and acknowledges the request. The letter comes
// before the answer, and the acknowledgement is last: a crash between any two
// leaves a request that is delivered again, and finds what is stored.
func (w *Worker) finish(ctx context.Context, r *request, e ending, result *providers.Result) error {
	e = w.unlessCancelled(r, e)
	if e.letter != nil {
		r.Letter = *e.letter
		// What this worker allows stands in the letter: a replayer that is
		// configured otherwise must not undo the wait that was drawn for it.
		r.Allowed, r.MaxLife = w.retries+1, w.maxLife
		var stored bool
		err := w.keep(ctx, r, func() (err error) { stored, err = w.putLetter(ctx, r); return err })
		if err != nil {
			return err
		}
		if !stored && e.answer != nil {
			// Nothing of this request will lie in review: what its answer says of
			// that, and that, are one decision.
			e.answer.Review = false
		}
		w.metrics.letter(r)
	}
	if e.answer != nil {
		e.answer.Time = r.now() // the server's: who spoke last is seen by it
		if err := w.keep(ctx, r, func() error { return w.putAnswer(ctx, r, *e.answer) }); err != nil {
			return err
		}
	}
	w.logTurn(r, e, result)
	return w.log.Point("ack", func() error {
		if e.letter != nil {
			return r.ackSure(ctx, w.asideOf(r))
		}
		return r.ack()
	})
}

// keep writes until it is written, out of everybody's way.
func (w *Worker) keep(ctx context.Context, r *request, write func() error) error {
	if r.parks {
		write = w.paced(ctx, write)
	}
	return w.stores.write(ctx, r.Provider, write, func(wait func() error) error { return w.aside(r.delivery, wait) })
}

// putLetter stores the dead letter of a request, which its replay will link to.
func (w *Worker) putLetter(ctx context.Context, r *request) (stored bool, err error) {
	ctx, span := w.tracer.store(ctx, "dead letter", wire.StreamDLQ)
	defer span.End()
	r.Trace(span.SpanContext())
	if span.IsRecording() {
		span.SetAttributes(attribute.String("fetch.error_class", string(r.Class)), attribute.Int("fetch.failures", r.Failures))
	}
	return dlq.Store(ctx, w.log, r.Letter)
}

// putAnswer stores an answer.
func (w *Worker) putAnswer(ctx context.Context, r *request, a fetchworker.Answer) error {
	ctx, span := w.tracer.store(ctx, "answer", fetchworker.StreamResults)
	defer span.End()
	if span.IsRecording() {
		span.SetAttributes(attribute.String("fetch.status", string(a.Status)), attribute.Bool("fetch.final", a.Final),
			attribute.String("fetch.source", string(a.Source)))
	}
	return w.answer(ctx, r, a)
}

// answer stores an answer and sends the live copy.
func (w *Worker) answer(ctx context.Context, r *request, a fetchworker.Answer) error {
	r.large, r.lesser = r.large || len(a.Body) > memory.Small, len(a.Body) > memory.Light
	stands, stored, err := w.answers.Replace(ctx, r.stands, a, r.replyTo)
	if err != nil {
		return err
	}
	switch {
	case stored:
		w.metrics.answer(r, a)
		w.had(r, a)
	case !r.replayed && !stands.Final:
		// Another request under the same id is on its way. What it has been
		// told this one is told too; the rest is on the result subject only.
		return w.answers.Copy(stands, r.replyTo)
	}
	return nil
}

// endedBefore ends a request whose final answer of this generation or a later
// one is stored already.
func (w *Worker) endedBefore(ctx context.Context, r *request) (bool, error) {
	stands, err := w.answers.Read(ctx, r.Identity)
	if err != nil {
		return false, err
	}
	return w.endedBy(ctx, r, stands)
}

// usedBefore ends a request whose id has its final answer already. Only those
// with an id of their agent's own can, and those that an earlier consumer may
// have delivered; they are looked for together, while the cache is looked into.
func (w *Worker) usedBefore(ctx context.Context, r *request) (bool, error) {
	if !r.used.Begun() {
		return false, nil
	}
	m, err := r.used.Wait(ctx)
	r.used = record.Glance{}
	if err != nil {
		return w.endedBefore(ctx, r)
	}
	stands, err := answer.Direct(r.Identity, m)
	if err != nil {
		return false, err
	}
	return w.endedBy(ctx, r, stands)
}

func (w *Worker) endedBy(ctx context.Context, r *request, stands answer.Standing) (bool, error) {
	if !stands.Ends(r.Generation) {
		r.stands = stands
		if !stands.Stands || r.replayed {
			return false, nil
		}
		// It waits for something, perhaps as a letter: a server that died may have
		// lost the ack. The letter carries it on, and a call would be one too many.
		carried, err := dlq.Carries(ctx, w.log, r.Letter)
		if !carried || err != nil {
			return false, err
		}
	}
	// A crash between the answer's PubAck and the ack may have eaten the copy.
	if stands.Final {
		if err := w.answers.Copy(stands, r.replyTo); err != nil {
			return false, err
		}
	}
	w.logTurn(r, ending{}, nil)
	return true, w.log.Point("ack", r.ack)
}
