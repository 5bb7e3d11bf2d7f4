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

// Cancel ends the request of a letter: the act is audited, then its final
// answer stored, then the letter deleted. A copy of it that is at work just
// now finds the answer before it is called.
//
// A crash after the audit leaves the letter as it was; one after the answer
// leaves a letter that finds it, at the replayer or at the next try.
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
	if err := o.log.Delete(ctx, "cancel", wire.StreamDLQ, f.Sequence); err != nil {
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
