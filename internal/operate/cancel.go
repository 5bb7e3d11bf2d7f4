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
	_, stored, err := o.answers.Put(ctx, f.Failed(fetchworker.CodeCancelled, o.signed.Reason), f.ReplyTo())
	if err != nil {
		return "", fmt.Errorf("cancel %s: %w", f.Identity, err)
	}
	if err := o.note(ctx, f.Provider, f.Agent, now); err != nil {
		return "", fmt.Errorf("cancel %s: %w", f.Identity, err)
	}
	if err := o.log.Delete(ctx, "cancel", f.Stream, f.Sequence); err != nil {
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
	o.mu.Lock()
	defer o.mu.Unlock()
	key := provider + "." + agent
	if o.noted[key].Equal(now) {
		return nil
	}
	kv, err := o.js.KeyValue(ctx, wire.BucketProviders)
	if err != nil {
		return err
	}
	if err := cancel.Note(ctx, o.js, kv, provider, agent, now); err != nil {
		return err
	}
	o.noted[key] = now
	return nil
}
