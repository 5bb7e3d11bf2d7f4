package operate

import (
	"context"
	"fmt"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/cancel"
	"fetchworker/internal/wire"
)

// Cancel ends a request, in the queue or in a letter, released or not: the act
// is audited, then its final answer stored, then the message deleted. A worker
// that holds it, or a copy of it, finds the answer before it calls, or within
// two seconds the mark, as long as it may go without looking; a call that has
// begun by then ends, and its answer is dropped.
//
// A crash after the audit leaves the message as it was; one after the answer
// leaves one that finds it, at a worker, the replayer or the next try.
func (o *Operator) Cancel(ctx context.Context, f browse.Found, now time.Time) (Fate, error) {
	if f.Fault != nil {
		return FateUnreadable, nil //nolint:nilerr // counted as what it is
	}
	if err := o.audit(ctx, ActCancel, f.Letter, nil); err != nil {
		return "", err
	}
	a := f.Failed(fetchworker.CodeCancelled, o.signed.Reason)
	stored := false
	err := o.patiently(ctx, func() error {
		stands, ours, err := o.answers.Put(ctx, a, f.ReplyTo())
		// Where the server's word of it was lost, ours is found to stand already.
		stored = ours || stands.Problem != nil && stands.Problem.Code() == fetchworker.CodeCancelled && stands.Time.Equal(a.Time)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("cancel %s: %w", f.Identity, err)
	}
	if err := o.patiently(ctx, func() error { return o.note(ctx, f.Provider, f.Agent, now) }); err != nil {
		return "", fmt.Errorf("cancel %s: %w", f.Identity, err)
	}
	if err := o.patiently(ctx, func() error { return o.log.Delete(ctx, "cancel", f.Stream, f.Sequence) }); err != nil {
		return "", fmt.Errorf("cancel %s: %w", f.Identity, err)
	}
	if !stored {
		return FateSuperseded, o.outcome(ctx, ActCancel, f.Letter, FateSuperseded)
	}
	return FateDone, nil
}

// note has the workers look for the answers of an agent, once for all that is
// cancelled at this moment.
func (o *Operator) note(ctx context.Context, provider, agent string, now time.Time) error {
	key := provider + "." + agent
	o.mu.Lock()
	n := o.noted[key]
	first := n == nil || !n.at.Equal(now)
	if first {
		n = &noted{at: now, done: make(chan struct{})}
		o.noted[key] = n
	}
	o.mu.Unlock()
	if !first {
		select {
		case <-n.done:
			return n.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	// Other agents' notes do not wait for this one's.
	n.err = o.writeNote(ctx, provider, agent, now)
	if n.err != nil { // the next one tries again
		o.mu.Lock()
		if o.noted[key] == n {
			delete(o.noted, key)
		}
		o.mu.Unlock()
	}
	close(n.done)
	return n.err
}

// noted is a note that has been written, or is about to be.
type noted struct {
	at   time.Time     // up to when answers are looked for
	done chan struct{} // closed when it is written, or could not be
	err  error
}

func (o *Operator) writeNote(ctx context.Context, provider, agent string, now time.Time) error {
	// That it is missing is for good; to the read of a note nobody would answer,
	// as while a leader is chosen.
	if _, err := o.js.KeyValue(ctx, wire.BucketProviders); err != nil {
		return err
	}
	return cancel.Note(ctx, o.js, o.log, provider, agent, now)
}
