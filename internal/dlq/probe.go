package dlq

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fetchworker"
	"fetchworker/internal/record"
	"fetchworker/internal/wait"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// probesLookedAt bounds how many letters are read to find the one to probe
// with.
const probesLookedAt = 256

// probes releases a letter as the probe of a provider whose circuit waits for
// one while nothing else of the provider waits for work: on a quiet provider
// nobody would ever find out that it has recovered.
//
// One probe goes at a time. While it is under way, its message is in the
// replay stream or the circuit's lease is taken. When neither is so and the
// circuit still waits, it ended without a call, and another may go. Replayers
// that look at the same moment may release two: the lease lets one of them
// call, and the other is parked again.
func (r *Replayer) probes(ctx context.Context) {
	for wait.Between(ctx, 800*time.Millisecond, 1200*time.Millisecond) == nil {
		now := time.Now()
		for _, provider := range r.gates.providers() {
			if !r.gates.of(provider, now).probe {
				continue
			}
			if err := r.probe(ctx, provider); err != nil && ctx.Err() == nil {
				r.logger.Warn("probe", zap.String("provider", provider), zap.Error(err))
			}
		}
	}
}

// probe releases one letter of the provider, if nothing else of it is at work.
func (r *Replayer) probe(ctx context.Context, provider string) error {
	busy, err := r.busy(ctx, provider)
	if busy || err != nil {
		return err
	}
	l, sequence, err := r.candidate(ctx, provider)
	if err != nil || sequence == 0 {
		return err
	}
	// A crash before this leaves the letter as it was. One after it leaves it
	// in both places, as with any release.
	if _, err := r.log.Put(ctx, l.ReplaySlot(), l.Replayed()); err != nil {
		return err
	}
	r.did(didProbe, l.Provider)
	r.logger.Info("released as a probe", zap.Stringer("request", l.Identity), zap.Int("failures", l.Failures))
	// It was not pulled but read, so it is deleted, not acked. If a replayer
	// holds it at this moment, its acknowledgement finds nothing.
	return r.log.Delete(ctx, "ack", fetchworker.StreamDLQ, sequence)
}

// busy reports whether anything of the provider waits for a worker, or is in
// the hands of one.
func (r *Replayer) busy(ctx context.Context, provider string) (bool, error) {
	for _, queue := range []struct{ stream, filter string }{
		{fetchworker.StreamReplay, "fetch.replay." + provider + ".>"},
		{fetchworker.StreamRequests, "fetch.request." + provider + "." + string(fetchworker.LaneInteractive) + ".>"},
		{fetchworker.StreamRequests, "fetch.request." + provider + "." + string(fetchworker.LaneBatch) + ".>"},
	} {
		_, err := r.log.Next(ctx, queue.stream, queue.filter, 1)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return false, fmt.Errorf("probe %s: %w", provider, err)
		}
	}
	return false, nil
}

// candidate is the letter to probe with: the first that has not failed yet,
// for the probe may be the end of its troubles, else the first of all. One
// that comes back goes to the end of the stream, so all have their turn. The
// sequence is 0 if there is none.
func (r *Replayer) candidate(ctx context.Context, provider string) (Letter, uint64, error) {
	var first Letter
	var firstSequence, next uint64 = 0, 1
	for range probesLookedAt {
		raw, err := r.log.Next(ctx, fetchworker.StreamDLQ, "fetch.dlq."+provider+".>", next)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return Letter{}, 0, fmt.Errorf("probe %s: %w", provider, err)
		}
		next = raw.Sequence + 1
		l, ok := r.canProbe(raw)
		switch {
		case !ok:
		case l.Failures == 0:
			return l, raw.Sequence, nil
		case firstSequence == 0:
			first, firstSequence = l, raw.Sequence
		}
	}
	return first, firstSequence, nil
}

// canProbe reports whether a letter waits for nothing but the circuit. That
// its retry is not due yet does not matter: the circuit is slower.
func (r *Replayer) canProbe(raw record.Raw) (Letter, bool) {
	l, err := Decode(raw.Subject, raw.Header, raw.Data)
	if err != nil {
		return l, false
	}
	now := time.Now()
	v := decide(l, facts{
		now: now, stored: raw.Time, gate: r.gates.of(l.Provider, now),
		retries: r.config.Retries, maxLife: r.config.MaxLife,
	})
	quota := l.Class == fetchworker.ClassQuota && now.Before(l.NotBefore)
	return l, v.act == actHold && v.reason == fetchworker.ReasonCircuitOpen && !quota
}
