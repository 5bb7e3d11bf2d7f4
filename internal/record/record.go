// Package record keeps the one message of a subject: an answer, a dead
// letter, a replayed letter, a review item. Any number of writers may write
// it in any order, again and again; what stays is the highest by the
// subject's order. It does so by compare-and-set on the subject's last
// sequence, so the log itself refuses what would go down.
//
// It does not know why a message is written, and never deletes one that
// stands higher.
package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Hook is called around every durable step with its name, before it
// (persisted false) and after it (persisted true). An error stops the caller
// right there, as a crash would. Only tests set one.
type Hook func(point string, persisted bool) error

// Log writes and reads records. It is safe for concurrent use.
type Log struct {
	js   jetstream.JetStream
	hook Hook
	// patience is how long a write is tried again while its outcome is
	// unknown: a leader election takes up to ten seconds.
	patience time.Duration
	silence  silence
	unseen   unseen
	acks     *acks
	reads    *acks // of several messages at a time: what they take says nothing of a write
	large    *acks // of large messages, on a connection of their own; nil: on the same
}

// New makes a log. The hook may be nil.
func New(js jetstream.JetStream, hook Hook) *Log {
	return &Log{js: js, hook: hook, patience: 20 * time.Second, acks: newAcks(js.Conn()), reads: newAcks(js.Conn())}
}

// largeFrom is from where on a message is large, in bytes.
const largeFrom = 64 << 10

// Apart has large messages sent on a connection of their own. A connection is
// one queue: whatever small is to be said waits until what was begun before it
// has been taken in by the server. It is called before anything is written.
func (l *Log) Apart(nc *nats.Conn) { l.large = newAcks(nc) }

// way is how a message is sent.
func (l *Log) way(m *nats.Msg) *acks {
	if l.large != nil && len(m.Data) >= largeFrom {
		return l.large
	}
	return l.acks
}

// Point runs one durable step between its two hooks.
func (l *Log) Point(name string, step func() error) error {
	if err := l.reached(name, false); err != nil {
		return err
	}
	if err := step(); err != nil {
		return err
	}
	return l.reached(name, true)
}

// reached tells the hook of one side of a step.
func (l *Log) reached(name string, persisted bool) error {
	if l.hook == nil {
		return nil
	}
	if err := l.hook(name, persisted); err != nil {
		return hooked{err}
	}
	return nil
}

// hooked is the error of a hook: whoever was stopped must not go on.
type hooked struct{ error }

func (h hooked) Unwrap() error { return h.error }

// Slot is where a record lives.
type Slot struct {
	Stream  string
	Subject string // as stored; the message itself may be published under another one that the stream transforms
	Order   Order
	Point   string // name of the step for the hook
}

// Outcome says what stands under the subject after a Put.
type Outcome struct {
	Stored   bool     // ours does
	Existing *Message // the higher one that does, if not ours
	Sequence uint64
}

// Seen is what a read found under a subject: the zero value if nothing.
type Seen struct {
	Message
	Sequence uint64
}

// Put writes the message if it is higher than what stands under the slot's
// subject. It assumes first that nothing does, which costs one round trip;
// each conflict costs two more. An error means that the outcome is unknown or
// the stream refuses: nothing may be acknowledged on it, and the write may be
// repeated.
func (l *Log) Put(ctx context.Context, slot Slot, m *nats.Msg) (Outcome, error) {
	return l.Replace(ctx, slot, Seen{}, m)
}

// Replace is Put for a caller that has read the subject: what it has seen is
// assumed to stand still. A message that is not higher than that is not
// written at all.
func (l *Log) Replace(ctx context.Context, slot Slot, seen Seen, m *nats.Msg) (Outcome, error) {
	if seen.Sequence != 0 && !slot.Order(seen.Message, Message{m.Header, m.Data}) {
		stands := seen.Message // a copy, or what was seen would be made for each
		return Outcome{Existing: &stands, Sequence: seen.Sequence}, nil
	}
	return l.Over(ctx, slot, seen.Sequence, m)
}

// Over is Replace for a caller that knows its message to be higher than what it
// has seen at a sequence, 0 for nothing.
func (l *Log) Over(ctx context.Context, slot Slot, seen uint64, m *nats.Msg) (Outcome, error) {
	var out Outcome
	err := l.Point(slot.Point, func() (err error) {
		out, err = l.put(ctx, slot, seen, m)
		return err
	})
	if err != nil {
		return Outcome{}, fmt.Errorf("put %s: %w", slot.Subject, err)
	}
	return out, nil
}

// put expects the subject's last sequence to be this one, 0 for none.
func (l *Log) put(ctx context.Context, slot Slot, last uint64, m *nats.Msg) (Outcome, error) {
	var out Outcome
	unsure := false // an earlier try may have stored it
	write := func() error {
		for conflicts := 0; ; conflicts++ {
			seq, again, err := l.publish(ctx, slot.Stream, m, last, true)
			if err == nil {
				out = Outcome{Stored: true, Sequence: seq}
				return nil
			}
			if unsure = unsure || again; !isConflict(err) {
				unsure = true
				return worthRetry(err)
			}
			// Writers that met once would meet again.
			if err := step(ctx, conflicts, isBusy(err)); err != nil {
				return backoff.Permanent(err)
			}
			stands, err := l.Get(ctx, slot)
			switch {
			case errors.Is(err, jetstream.ErrMsgNotFound):
				last = 0 // it was taken away meanwhile, or is not stored yet
				continue
			case err != nil:
				return worthRetry(err)
			case unsure && isOurs(stands.Message, m):
				out = Outcome{Stored: true, Sequence: stands.Sequence}
				return nil
			case !slot.Order(stands.Message, Message{m.Header, m.Data}):
				out = Outcome{Existing: &stands.Message, Sequence: stands.Sequence}
				return nil
			}
			last = stands.Sequence
		}
	}
	return out, l.repeat(ctx, write)
}

// isOurs reports whether what stands is what was to be stored, to the letter: an
// answer has an id of its own among its headers. (A letter has none: one that
// looks the same may be an earlier one that is about to be acknowledged.)
func isOurs(stands Message, m *nats.Msg) bool {
	if m.Header.Get(eventID) == "" || !bytes.Equal(stands.Data, m.Data) {
		return false
	}
	for key, values := range m.Header {
		if !strings.HasPrefix(key, "Nats-") && !slices.Equal(stands.Header[key], values) {
			return false
		}
	}
	return true
}

const eventID = "ce-id"

// step aside for a moment: not at all after a first conflict, whose winner is
// stored already; longer after each further one.
func step(ctx context.Context, conflicts int, busy bool) error {
	if conflicts == 0 && !busy {
		return nil
	}
	const longest = 7 // 256 ms
	return wait.Between(ctx, 0, 2*time.Millisecond<<min(conflicts, longest))
}

// ErrMoved says that the message which was to be replaced is no longer the
// one that was seen.
var ErrMoved = errors.New("the stored message is another one by now")

// Swap replaces the message that was seen at a sequence, and no other, and
// returns the new one's: ErrMoved if another stands there, or none. Any other
// error leaves open whether it was stored.
func (l *Log) Swap(ctx context.Context, slot Slot, seen uint64, m *nats.Msg) (sequence uint64, err error) {
	err = l.Point(slot.Point, func() (err error) {
		for conflicts := 0; ; conflicts++ {
			// Sent again, it would meet itself, and look as if another stood there.
			sequence, _, err = l.publish(ctx, slot.Stream, m, seen, false)
			switch {
			case err == nil:
				return nil
			case !isConflict(err):
				return err
			case !isBusy(err) || conflicts == mostBusy:
				return ErrMoved
			}
			if err := step(ctx, conflicts, true); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return 0, fmt.Errorf("replace %s: %w", slot.Subject, err)
	}
	return sequence, nil
}

// mostBusy is how often a swap meets another's write before it believes that
// the message is no longer what was seen.
const mostBusy = 10

// publish writes over the subject's last sequence, once, or, where that may be
// repeated, until the stream says something. unsure: see acks.
func (l *Log) publish(ctx context.Context, stream string, m *nats.Msg, last uint64, repeat bool) (sequence uint64, unsure bool, err error) {
	expect(m, jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(last, 10))
	return l.publishAny(ctx, stream, m, repeat)
}

func expect(m *nats.Msg, header, value string) {
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	values := expected[value]
	if values == nil {
		values = []string{value}
	}
	m.Header[header] = values
}

// expected are the values that nearly all writes expect, as headers hold them:
// that nothing stands there, and the streams' names. Nobody changes them: ascii
// copies what it does.
var expected = map[string][]string{
	"0":                       {"0"},
	fetchworker.StreamResults: {fetchworker.StreamResults},
	wire.StreamDLQ:            {wire.StreamDLQ},
	wire.StreamReplay:         {wire.StreamReplay},
}

// publishAny writes whatever stands, unless the message says otherwise. (What is
// expected is set as headers: as options it cost five allocations.)
func (l *Log) publishAny(ctx context.Context, stream string, m *nats.Msg, repeat bool) (sequence uint64, unsure bool, err error) {
	ascii(m.Header)
	expect(m, jetstream.ExpectedStreamHeader, stream)
	way := l.way(m)
	// What has a message id is known when it comes again, and taken for another's.
	repeat = repeat && m.Header.Get(nats.MsgIdHdr) == ""
	ack, unsure, err := way.publish(ctx, m, repeat)
	if errors.Is(err, errLate) && way.nc.IsConnected() {
		l.silence.begins(stream)
		return 0, true, err
	}
	l.silence.ends(stream)
	switch {
	case err == nil && !ack.Duplicate:
		return ack.Sequence, unsure, nil
	case hasCode(err, accountFull, serverFull, storageFull, storeFailed):
		return 0, unsure, &NoRoomError{stream, err}
	case err != nil:
		return 0, unsure, err
	case ack.Duplicate && m.Header.Get(nats.ExpectedLastSubjSeqHdr) != "":
		return 0, unsure, ErrDuplicate
	}
	return ack.Sequence, unsure, nil
}

// ErrDuplicate says that the stream dropped a record because its message id is
// a recent one: whether what it named is still anywhere is for the caller to
// find out.
var ErrDuplicate = errors.New("dropped as a duplicate")

// Get reads the record of a slot. ErrMsgNotFound: there is none.
func (l *Log) Get(ctx context.Context, slot Slot) (Seen, error) {
	raw, err := l.Last(ctx, slot.Stream, slot.Subject)
	if err != nil {
		return Seen{}, err
	}
	return Seen{Message{raw.Header, raw.Data}, raw.Sequence}, nil
}

// isConflict says that the subject's last sequence is another one, or is about
// to be.
func isConflict(err error) bool {
	return hasCode(err, jetstream.JSErrCodeStreamWrongLastSequence) || isBusy(err)
}

// isBusy says that another write which expects a sequence of the same subject
// is in process at the leader: it may be stored or not.
func isBusy(err error) bool { return hasCode(err, sequenceInProcess) }

// NoTTL reports whether a stream refused a message because it keeps none for
// a time of its own.
func NoTTL(err error) bool { return hasCode(err, ttlDisabled) }

const (
	ttlDisabled       jetstream.ErrorCode = 10166
	sequenceInProcess jetstream.ErrorCode = 10164
	accountFull       jetstream.ErrorCode = 10002
	serverFull        jetstream.ErrorCode = 10023
	storageFull       jetstream.ErrorCode = 10047
	storeFailed       jetstream.ErrorCode = 10077 // a limit of the stream, or its disk
)

func hasCode(err error, codes ...jetstream.ErrorCode) bool {
	if err == nil {
		return false // nearly always, and what errors.As fills in lives on the heap
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && slices.Contains(codes, api.ErrorCode)
}

// NoRoomError says that a stream takes nothing more: it is at its limit, or
// what lies under it is. Nothing was stored; there may be room again later.
type NoRoomError struct {
	Stream string
	Err    error
}

func (e *NoRoomError) Error() string { return e.Stream + " has no room: " + e.Err.Error() }
func (e *NoRoomError) Unwrap() error { return e.Err }

// worthRetry stops the retries where trying again at once cannot help: the
// request itself is refused, or the stream is full. A timeout, an election
// pass.
func worthRetry(err error) error {
	if err == nil {
		return nil
	}
	var full *NoRoomError
	if errors.As(err, &full) || Refused(err) {
		return backoff.Permanent(err)
	}
	return err
}

// Refused reports whether a write will be refused however often it is tried.
func Refused(err error) bool {
	var api *jetstream.APIError
	var full *NoRoomError
	var hook hooked
	return errors.As(err, &hook) || errors.As(err, &api) && api.Code >= 400 && api.Code < 500 && !errors.As(err, &full) ||
		errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, ErrDuplicate)
}

// Append stores one more message, with nothing to compare it to, and tries
// again while the outcome is unknown: it may then be stored twice.
func (l *Log) Append(ctx context.Context, point, stream string, m *nats.Msg) error {
	err := l.Point(point, func() error {
		return l.repeat(ctx, func() error {
			_, _, err := l.publishAny(ctx, stream, m, false)
			return worthRetry(err)
		})
	})
	if err != nil {
		return fmt.Errorf("append %s: %w", m.Subject, err)
	}
	return nil
}

// repeat makes a step again while that can help. Nearly all succeed at once,
// and these are spared the policy's timer and random numbers.
func (l *Log) repeat(ctx context.Context, step func() error) error {
	err := step()
	if err == nil {
		return nil
	}
	var final *backoff.PermanentError
	if errors.As(err, &final) {
		return final.Err
	}
	policy := l.policy(ctx)
	_ = wait.For(ctx, policy.NextBackOff())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return backoff.Retry(step, policy)
}

// longestRepeat is between two tries. Each has asked three times already where no
// stream listens; who waits out an election is to see its end soon.
const longestRepeat = 500 * time.Millisecond

// policy tries again, ever more slowly, until patience ends or ctx does.
func (l *Log) policy(ctx context.Context) backoff.BackOff {
	return backoff.WithContext(backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(50*time.Millisecond),
		backoff.WithMaxInterval(longestRepeat),
		backoff.WithMaxElapsedTime(l.patience),
	), ctx)
}
