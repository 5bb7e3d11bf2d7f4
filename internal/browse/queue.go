package browse

import (
	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// ClassQueued is the class of a request that waits for its turn, or is at work
// for the first time: it has not failed, and no letter has it.
const ClassQueued wire.Class = "queued"

// Queued is a request that waits for its turn as the letter that it would
// become; its last failure is when it was asked.
func Queued(raw record.Raw) (dlq.Letter, error) {
	address, err := wire.ParseSubject(raw.Subject)
	if err != nil {
		return dlq.Letter{}, err
	}
	// Of a body that cannot be read whole, the id may still be.
	r, _ := fetchworker.DecodeRequest(raw.Data)
	traceparent, tracestate := dlq.TraceOf(raw.Header)
	l := dlq.Letter{
		Identity: address.Identity, Lane: address.Lane, Body: raw.Data, Generation: 1, Class: ClassQueued,
		RequestedAt: raw.Time, FailedAt: raw.Time, Deadline: r.Expires(raw.Time),
		Traceparent: traceparent, Tracestate: tracestate,
	}
	l.ID = wire.ResolveID(r.ID, raw.Header.Get(jetstream.MsgIDHeader), raw.Sequence, raw.Time)
	return l, nil
}

// read reads what a stream holds.
func read(stream string, raw record.Raw) (dlq.Letter, error) {
	if stream == fetchworker.StreamRequests {
		return Queued(raw)
	}
	return dlq.Decode(raw.Subject, raw.Header, raw.Data)
}
