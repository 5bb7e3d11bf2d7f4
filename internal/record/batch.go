package record

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Entry is one of several records that are written together.
type Entry struct {
	Slot    Slot
	Message *nats.Msg
}

// PutAll is Put for several that are on their way together: one by one each wakes
// whoever wrote it, its connection and the server. What the stream does not simply
// store is put by itself after that. The errors are in the order of the entries.
func (l *Log) PutAll(ctx context.Context, entries []Entry) []error {
	failed, on := make([]error, len(entries)), make([]*sent, len(entries))
	for i, e := range entries {
		if failed[i] = l.reached(e.Slot.Point, false); failed[i] != nil {
			continue
		}
		expect(e.Message, jetstream.ExpectedLastSubjSeqHeader, "0")
		expect(e.Message, jetstream.ExpectedStreamHeader, e.Slot.Stream)
		ascii(e.Message.Header)
		way := l.way(e.Message)
		lasts := way.patience()
		if len(e.Message.Data) >= largeFrom {
			lasts = writeLasts // it is not sent again soon
		}
		on[i] = way.begun(e.Message, lasts)
	}
	for i, e := range entries {
		if failed[i] != nil {
			continue
		}
		if on[i].stored(ctx) {
			l.silence.ends(e.Slot.Stream)
		} else if _, failed[i] = l.put(ctx, e.Slot, 0, e.Message); failed[i] != nil {
			failed[i] = fmt.Errorf("put %s: %w", e.Slot.Subject, failed[i])
			continue
		}
		failed[i] = l.reached(e.Slot.Point, true)
	}
	return failed
}

// TakeOutAll takes messages out of a work queue that nobody has pulled for it.
// What the queue's consumer has handed out before is acknowledged, whoever had it:
// that is a fraction of a deletion for the server. It says nothing to an
// acknowledgement of what it has not handed out yet; that is deleted. The errors
// are in the order of the sequences.
func (l *Log) TakeOutAll(ctx context.Context, point, stream, consumer string, sequences []uint64, handedOut func(uint64) bool) []error {
	failed, on := make([]error, len(sequences)), make([]*sent, len(sequences))
	for i, sequence := range sequences {
		if failed[i] = l.reached(point, false); failed[i] == nil && handedOut(sequence) {
			on[i] = l.acks.begun(&nats.Msg{Subject: ackSubject(stream, consumer, sequence), Data: acked}, ackLasts)
		}
	}
	for i, sequence := range sequences {
		if failed[i] != nil {
			continue
		}
		if !on[i].heard(ctx) {
			failed[i] = l.remove(ctx, stream, sequence)
		}
		if failed[i] == nil {
			failed[i] = l.reached(point, true)
		}
	}
	return failed
}

var acked = []byte("+ACK")

// ackLasts is how long the word of an acknowledgement is waited for: it comes in
// no time, or not at all.
const ackLasts = 2 * time.Second

// ackSubject is where a message of a consumer's is acknowledged: how often and
// when it was handed out is of no account there.
func ackSubject(stream, consumer string, sequence uint64) string {
	return "$JS.ACK." + stream + "." + consumer + ".1." + strconv.FormatUint(sequence, 10) + ".0.0.0"
}

// sent is a message whose word is yet to be waited for; nil is one that could not
// be sent.
type sent struct {
	*write
	by    *acks
	token string
	at    time.Time
}

// begun sends a message, whose word is waited for so long at the most.
func (a *acks) begun(m *nats.Msg, lasts time.Duration) *sent {
	w, token, reply, err := a.begin(lasts)
	if err != nil {
		return nil
	}
	if a.send(w, m, reply) != nil {
		a.end(token, w)
		return nil
	}
	return &sent{w, a, token, time.Now()}
}

// word waits for what the server says, nil if it says nothing in time.
func (s *sent) word(ctx context.Context) (said *nats.Msg) {
	if s == nil {
		return nil
	}
	defer s.by.end(s.token, s.write)
	select {
	case said = <-s.said:
	case <-s.late.C:
	case <-ctx.Done():
	}
	if said != nil {
		s.by.took(time.Since(s.at))
	}
	return said
}

// stored reports whether the stream says that it has stored it.
func (s *sent) stored(ctx context.Context) bool {
	said := s.word(ctx)
	if said == nil {
		return false
	}
	ack, err := ackOf(said.Data)
	return err == nil && !ack.Duplicate
}

// heard reports whether there was anybody who took it.
func (s *sent) heard(ctx context.Context) bool {
	said := s.word(ctx)
	return said != nil && said.Header.Get("Status") != "503"
}
