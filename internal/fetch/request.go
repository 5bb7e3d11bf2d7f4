package fetch

import (
	"errors"
	"fmt"
	"hash/fnv"
	"sync/atomic"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/cache"
	"fetchworker/internal/cancel"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// request is a delivery that has been understood.
type request struct {
	*delivery
	// Letter is who asked for what, and what has become of it so far; for a
	// fresh request its first page. What goes wrong from here on is written
	// into it.
	dlq.Letter
	asked   fetchworker.Request // by the body
	replyTo string              // where its agent wants copies, and may have them

	served *Served
	call   *providers.Call
	counts circuit.Call // as which its failures count
	cache  *cache.Entry // the body that was kept for the same call, if there is one
	flight flight       // that it leads, if it does
	leads  bounded      // the place of over
	over   *bounded     // of its waits, while it leads
	begun  atomic.Pointer[cancel.Call]
	parks  bool            // its writes are paced
	stands answer.Standing // what was stored for it when that was looked at
	used   record.Glance   // of what stands under an id of the agent's own; empty: nothing can, or it was read
}

// now is the time by the servers' clock, which stamps what is stored: a
// request's age and deadline are told by no other.
func (r *request) now() time.Time { return r.served.Gate.Now() }

// acceptsStale is how old a stale body may be to be this request's answer.
func (r *request) acceptsStale() time.Duration {
	if r.asked.MaxStale == nil {
		return 0
	}
	return time.Duration(*r.asked.MaxStale)
}

// decode makes a request of a delivery. On error the request returned holds
// enough to be answered with it.
func (w *Worker) decode(d *delivery) (*request, error) {
	r := &request{delivery: d, served: w.served[d.address.Provider]}
	body := d.msg.Data()
	asked, bodyErr := fetchworker.DecodeRequest(body)
	var letterErr error
	if d.replayed {
		// The headers are ours and rule: a requeue may have lifted the
		// deadline that the body still names.
		r.Letter, letterErr = dlq.Decode(d.msg.Subject(), d.msg.Headers(), body)
		w.metrics.replayed(r.Provider)
	} else {
		h := d.msg.Headers()
		who := d.address.Identity
		who.ID = wire.ResolveID(asked.ID, h.Get(jetstream.MsgIDHeader), d.sequence, d.stored)
		traceparent, tracestate := dlq.TraceOf(h)
		r.Letter = dlq.Letter{
			Identity: who, Lane: d.address.Lane, Body: body, Generation: 1,
			RequestedAt: d.stored, Deadline: asked.Expires(d.stored),
			// The trace goes on; nothing else of the agent's headers does.
			Traceparent: traceparent, Tracestate: tracestate,
		}
	}
	r.Worker = w.name
	if _, outlived := w.restarts.outlived(r); outlived {
		d.older = true
	}
	if !d.again && d.count == 1 && !d.replayed && (d.older || r.ID != wire.ResolveID("", "", d.sequence, d.stored)) {
		r.used = w.used.Begin(fetchworker.ResultSubject(r.Identity))
	}
	asked.Provider, asked.Operation, asked.Agent, asked.Lane, asked.ID = r.Provider, r.Operation, r.Agent, r.Lane, r.ID
	r.asked, r.replyTo = asked, asked.Reply()
	if bodyErr == nil && letterErr == nil {
		r.Know(asked.Params)
	}
	r.counts = r.Call()
	if letterErr != nil {
		return r, fmt.Errorf("%w: %w", errBrokenLetter, letterErr)
	}
	if err := asked.Check(); err != nil {
		return r, err
	}
	return r, bodyErr
}

// errBrokenLetter says that a letter of our own cannot be read.
var errBrokenLetter = errors.New("the letter cannot be read")

func laneOf(r *request) turns.Lane {
	switch {
	case r.replayed:
		return turns.Replay
	case r.Lane == fetchworker.LaneBatch:
		return turns.Batch
	default:
		return turns.Interactive
	}
}

// shardOf is the shard of the request's agent. The server put it into a
// request's subject; for a replayed one it is computed the same way.
func shardOf(r *request) int {
	if !r.replayed {
		return r.address.Shard
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(r.Agent))
	return int(h.Sum32() % wire.Shards)
}

func late(r *request, now time.Time) bool {
	return !r.Deadline.IsZero() && !now.Before(r.Deadline)
}

func (w *Worker) pastLife(r *request, now time.Time) bool {
	return !now.Before(r.RequestedAt.Add(w.maxLife))
}
