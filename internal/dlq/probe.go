package dlq

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/record"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

const (
	// probesLookedAt bounds how many letters are read to find the one to probe
	// with, a half of them of each lane, so many together.
	probesLookedAt = 2048
	probesTogether = 64
	// probesAtWork bounds how many letters under way are read to see whether
	// one of them is the probe.
	probesAtWork = 64
	// letQueueProbe is how long a due probe is left to a request that waits in
	// the interactive queue.
	letQueueProbe = 2 * time.Second
	// probeIdle is how often a circuit is looked at for which there was no
	// letter to probe with.
	probeIdle = 2 * time.Second
)

// probes releases a letter as the probe of each circuit that waits for one
// while no other call of those that it is open for is at work: where nobody
// asks for the same again nobody would ever find out that it is back.
//
// One probe of a circuit goes at a time. While it is under way, its message is
// in the replay stream or the circuit's lease is taken. When neither is so and
// the circuit still waits, it ended without a call, and another may go.
// Replayers that look at the same moment may release two: the lease lets one
// of them call, and the other is parked again.
func (r *Replayer) probes(ctx context.Context) {
	type part struct{ provider, operation string }
	rest := map[part]time.Time{} // until when there is no need to look
	select {
	case <-r.gates.met: // before that there is nothing to probe with
	case <-ctx.Done():
		return
	}
	for wait.Between(ctx, 250*time.Millisecond, 400*time.Millisecond) == nil {
		now := r.now()
		for of, until := range rest {
			if !now.Before(until) {
				delete(rest, of)
			}
		}
		for _, provider := range r.gates.providers() {
			g := r.gates.of(provider, now)
			for _, operation := range g.due(now) {
				of := part{provider, operation}
				if !rest[of].IsZero() {
					continue
				}
				released, err := r.probe(ctx, provider, operation, g.circuits.Of(operation))
				if err != nil && ctx.Err() == nil {
					r.logger.Warn("probe", zap.String("provider", provider), zap.String("operation", operation), zap.Error(err))
				}
				if !released && now.Sub(g.circuits.Of(operation).Until()) > 2*letQueueProbe {
					rest[of] = now.Add(probeIdle)
				}
			}
		}
	}
}

// probe releases one letter of those that a circuit is open for, if nothing
// else of them is at work.
func (r *Replayer) probe(ctx context.Context, provider, operation string, c circuit.Circuit) (released bool, err error) {
	busy, err := r.busy(ctx, provider, operation, c)
	if busy || err != nil {
		return false, err
	}
	l, sequence, err := r.candidate(ctx, provider, operation, c)
	if err != nil || sequence == 0 {
		return false, err
	}
	// A crash before this leaves the letter as it was. One after it leaves it
	// in both places, as with any release.
	if _, err := r.log.Put(ctx, l.ReplaySlot(), l.Replayed()); err != nil {
		return false, err
	}
	r.did(didProbe, l.Provider)
	r.logger.Info("released as a probe", zap.Stringer("request", l.Identity), zap.Int("failures", l.Failures))
	// It was not pulled but read, so it is deleted, not acked. If a replayer
	// holds it at this moment, its acknowledgement finds nothing.
	return true, r.log.Delete(ctx, "ack", wire.StreamDLQ, sequence)
}

// busy reports whether a call that could be the probe waits for a worker, or
// is in the hands of one.
func (r *Replayer) busy(ctx context.Context, provider, operation string, c circuit.Circuit) (bool, error) {
	for raw, err := range r.under(ctx, wire.StreamReplay, "fetch.replay."+provider+".*"+under(operation, c)+".>", probesAtWork) {
		if err != nil {
			return false, fmt.Errorf("probe %s: %w", provider, err)
		}
		if l, err := Decode(raw.Subject, raw.Header, raw.Data); err == nil && c.Covers(l.Call()) && inCircuit(l, operation) {
			return true, nil
		}
	}
	if r.now().Sub(c.Until()) > letQueueProbe {
		return false, nil
	}
	queue := "fetch.request." + provider + "." + string(fetchworker.LaneInteractive) + ".*" + under(operation, c)
	for _, err := range r.under(ctx, fetchworker.StreamRequests, queue, 1) {
		if err != nil {
			return false, fmt.Errorf("probe %s: %w", provider, err)
		}
		return true, nil
	}
	return false, nil
}

// under is what the subjects of requests have in common that a circuit may be
// open for.
func under(operation string, c circuit.Circuit) string {
	name, agent := "*", "*"
	if operation != "" {
		name, _, _ = strings.Cut(operation, " ")
	}
	if c.Agent != "" && c.Call == "" {
		agent = c.Agent
	}
	return "." + name + "." + agent
}

// inCircuit reports whether a letter is of a circuit's operation.
func inCircuit(l Letter, operation string) bool {
	return operation == "" || l.Call().Operation == operation
}

// under reads the messages of a filter one after the other, so many at most.
func (r *Replayer) under(ctx context.Context, stream, filter string, most int) iter.Seq2[record.Raw, error] {
	return func(yield func(record.Raw, error) bool) {
		next := uint64(1)
		for range most {
			raw, err := r.log.Next(ctx, stream, filter, next)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return
			}
			if !yield(raw, err) || err != nil {
				return
			}
			next = raw.Sequence + 1
		}
	}
}

// candidate is the letter to probe with: of the agent that has not probed for
// longest, one that has not failed yet, for the probe may be the end of its
// troubles; then the call that has not probed for longest, and interactive
// before batch. The sequence is 0 if none may probe now.
func (r *Replayer) candidate(ctx context.Context, provider, operation string, c circuit.Circuit) (best Letter, sequence uint64, err error) {
	var bestRank rank
	for _, lane := range []fetchworker.Lane{fetchworker.LaneInteractive, fetchworker.LaneBatch} {
		first := firstRank(c, lane)
		for raw, err := range r.letters(ctx, "fetch.dlq."+provider+"."+string(lane)+under(operation, c)+".>", probesLookedAt/2) {
			if err != nil {
				return Letter{}, 0, fmt.Errorf("probe %s: %w", provider, err)
			}
			l, ok := r.canProbe(raw, operation, c)
			if !ok {
				continue
			}
			turn := rankOf(l, c)
			if sequence == 0 || turn.before(bestRank) {
				best, bestRank, sequence = l, turn, raw.Sequence
			}
			if bestRank == first {
				return best, sequence, nil // there is no better one
			}
		}
	}
	return best, sequence, nil
}

// letters reads the letters of a filter in their order, so many at most. Where the
// first lies the server knows; beside it there are often more.
func (r *Replayer) letters(ctx context.Context, filter string, most int) iter.Seq2[record.Raw, error] {
	return func(yield func(record.Raw, error) bool) {
		at := place{next: 1, alone: 1}
		for most > 0 {
			page, err := r.read(ctx, filter, &at, min(most, probesTogether))
			if err != nil {
				yield(record.Raw{}, err)
				return
			}
			if len(page) == 0 {
				return
			}
			for _, raw := range page {
				if !yield(raw, nil) {
					return
				}
				most, at.next = most-1, raw.Sequence+1
			}
		}
	}
}

// rank orders letters by whose turn it is to probe: how lately its agent has, whether
// it has failed, how lately its call has, and its lane.
type rank [4]int

func (r rank) before(other rank) bool { return slices.Compare(r[:], other[:]) < 0 }

// firstRank is what no letter of a lane comes before.
func firstRank(c circuit.Circuit, lane fetchworker.Lane) rank {
	var first rank
	switch {
	case c.Call != "":
		_, first[2] = c.Turns(circuit.Call{Key: c.Call})
	case c.Agent != "":
		first[0], _ = c.Turns(circuit.Call{Agent: c.Agent})
	}
	if lane == fetchworker.LaneBatch {
		first[3] = 1
	}
	return first
}

func rankOf(l Letter, c circuit.Circuit) rank {
	turn := firstRank(c, l.Lane)
	turn[0], turn[2] = c.Turns(l.Call())
	if l.Failures > 0 || slices.ContainsFunc(l.History, func(a Attempt) bool { return a.Class == wire.ClassTransient }) {
		turn[1] = 1
	}
	return turn
}

// canProbe reports whether a letter waits for nothing but this circuit, and
// its turn has come. That its retry is not due yet does not matter: the
// circuit is slower.
func (r *Replayer) canProbe(raw record.Raw, operation string, c circuit.Circuit) (Letter, bool) {
	l, err := Decode(raw.Subject, raw.Header, raw.Data)
	if err != nil {
		return l, false
	}
	l.Learn()
	now := r.now()
	g := r.gates.of(l.Provider, now).closedTo(l)
	v := decide(l, facts{now: now, stored: raw.Time, gate: g, cancelled: r.cancelled(l, raw.Time), retries: r.config.Retries, maxLife: r.config.MaxLife})
	by, _ := g.circuits.Covers(l.Call())
	quota := l.Class == wire.ClassQuota && now.Before(l.NotBefore)
	return l, v.act == actHold && v.reason == fetchworker.ReasonCircuitOpen && by == operation && c.MayProbe(l.Call(), now) && !quota
}
