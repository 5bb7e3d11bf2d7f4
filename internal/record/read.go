package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Raw is a stored message.
type Raw struct {
	Subject  string
	Sequence uint64
	Time     time.Time // when it was stored
	Header   nats.Header
	Data     []byte
}

// Last reads the last message of a subject by a direct get that names it, so
// that the right to read is a right to the subject. ErrMsgNotFound: none.
func (l *Log) Last(ctx context.Context, stream, subject string) (Raw, error) {
	// The server does not answer a question about what no subject can be.
	if slices.ContainsFunc(strings.Split(subject, "."), func(t string) bool { return t == "" || t == "*" || t == ">" }) || strings.ContainsAny(subject, " \t\r\n") {
		return Raw{}, jetstream.ErrMsgNotFound
	}
	return l.direct(ctx, "$JS.API.DIRECT.GET."+stream+"."+subject, nil)
}

// Next reads the first message of a subject filter at or after a sequence.
// ErrMsgNotFound: none.
func (l *Log) Next(ctx context.Context, stream, filter string, sequence uint64) (Raw, error) {
	request, _ := json.Marshal(struct { // plain fields: cannot fail
		Sequence uint64 `json:"seq"`
		Filter   string `json:"next_by_subj"`
	}{sequence, filter})
	return l.direct(ctx, "$JS.API.DIRECT.GET."+stream, request)
}

// Count is how many messages of a subject filter there are at or after a
// sequence. The server knows without listing them.
func (l *Log) Count(ctx context.Context, stream, filter string, sequence uint64) (uint64, error) {
	request, _ := json.Marshal(struct { // plain fields: cannot fail
		Sequence uint64 `json:"seq"`
		Filter   string `json:"next_by_subj"`
		Batch    int    `json:"batch"`
	}{sequence, filter, 1})
	first, err := l.direct(ctx, "$JS.API.DIRECT.GET."+stream, request)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("count: %w", err)
	}
	behind, err := strconv.ParseUint(Own(first.Header, "Nats-Num-Pending"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("count: how many more: %w", err)
	}
	return behind + 1, nil
}

// Page reads the first messages of a subject filter at or after a sequence, so
// many at a time; none: there are no more.
func (l *Log) Page(ctx context.Context, stream, filter string, sequence uint64, most int) ([]Raw, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	nc := l.js.Conn()
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("direct get: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection is gone then
	request := fmt.Appendf(nil, `{"seq":%d,"next_by_subj":%q,"batch":%d,"max_bytes":%d}`, sequence, filter, most, 4<<20)
	if err := nc.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, request); err != nil {
		return nil, fmt.Errorf("direct get: %w", err)
	}
	var page []Raw
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, fmt.Errorf("direct get: %w", err)
		}
		if !IsStored(m.Header) {
			if status := m.Header.Get("Status"); status != "204" && status != "404" {
				return nil, fmt.Errorf("direct get: server says %s %s", status, m.Header.Get("Description"))
			}
			return page, nil
		}
		raw, err := Direct(m)
		if err != nil {
			return nil, err
		}
		page = append(page, raw)
	}
}

// Span reads what there is of so many sequences from one on, in their order. The
// server finds each at once, where for a page it counts first how many more
// there are: behind a gap that is a look at every subject of the stream. All
// spans are heard on one subscription: one of its own for sixteen letters was
// half a megabyte of memory, and made the server forget whom it sends what.
func (l *Log) Span(ctx context.Context, stream string, from uint64, many int) ([]Raw, error) {
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	on := make([]*sent, many)
	for i := range on {
		request := fmt.Appendf(nil, `{"seq":%d}`, from+uint64(i))
		on[i] = l.reads.begun(&nats.Msg{Subject: "$JS.API.DIRECT.GET." + stream, Data: request}, readLasts)
	}
	found := make([]Raw, 0, many)
	var failed error
	for _, one := range on {
		m := one.word(ctx) // of each, also after a failure: it lets go of it
		if failed != nil {
			continue
		}
		raw, there, err := l.told(ctx, m)
		if err != nil {
			failed = err
			enough()
		} else if there {
			found = append(found, raw)
		}
	}
	if failed != nil {
		return nil, failed
	}
	return found, nil
}

// readLasts is how long the answer to a read of several is waited for.
const readLasts = 10 * time.Second

// told reads the answer to a direct get, nil where none came; there: a message
// is stored.
func (l *Log) told(ctx context.Context, m *nats.Msg) (raw Raw, there bool, err error) {
	switch {
	case m == nil && ctx.Err() != nil:
		return Raw{}, false, fmt.Errorf("direct get: %w", ctx.Err())
	case m == nil && l.js.Conn().IsClosed():
		return Raw{}, false, fmt.Errorf("direct get: %w", nats.ErrConnectionClosed)
	case m == nil:
		return Raw{}, false, fmt.Errorf("direct get: the server says nothing: %w", context.DeadlineExceeded)
	case IsStored(m.Header):
		raw, err = Direct(m)
		return raw, err == nil, err
	case m.Header.Get("Status") != "404":
		return Raw{}, false, fmt.Errorf("direct get: server says %s %s", m.Header.Get("Status"), m.Header.Get("Description"))
	default:
		return Raw{}, false, nil
	}
}

func (l *Log) direct(ctx context.Context, subject string, request []byte) (Raw, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	m, err := l.js.Conn().RequestWithContext(ctx, subject, request)
	if err != nil {
		return Raw{}, fmt.Errorf("direct get: %w", err)
	}
	raw, there, err := l.told(ctx, m)
	if err == nil && !there {
		err = jetstream.ErrMsgNotFound
	}
	return raw, err
}

// Direct reads a stored message from the reply to a direct get.
func Direct(m *nats.Msg) (Raw, error) {
	raw := Raw{Subject: Own(m.Header, jetstream.SubjectHeader), Header: m.Header, Data: m.Data}
	var err error
	if raw.Sequence, err = strconv.ParseUint(Own(m.Header, jetstream.SequenceHeader), 10, 64); err != nil {
		return Raw{}, fmt.Errorf("direct get: sequence: %w", err)
	}
	if raw.Time, err = time.Parse(time.RFC3339Nano, Own(m.Header, jetstream.TimeStampHeaer)); err != nil {
		return Raw{}, fmt.Errorf("direct get: time: %w", err)
	}
	return raw, nil
}

// IsStored tells a stored message from the server's own word about one. What
// is stored always comes with its stream's name, whatever headers its
// publisher made up.
func IsStored(h nats.Header) bool { return Own(h, jetstream.StreamHeader) != "" }

// Own is the server's value of a header. It appends its own after those of a
// message, so whatever stands before the last one is the publisher's.
func Own(h nats.Header, key string) string {
	if values := h.Values(key); len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}

// Delete takes a message out of a stream by its sequence; one that is gone
// already is no error.
func (l *Log) Delete(ctx context.Context, point, stream string, sequence uint64) error {
	return l.Point(point, func() error { return l.remove(ctx, stream, sequence) })
}

func (l *Log) remove(ctx context.Context, stream string, sequence uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request := fmt.Appendf(nil, `{"seq":%d,"no_erase":true}`, sequence)
	err := l.ask(ctx, "$JS.API.STREAM.MSG.DELETE."+stream, request)
	if err == nil || notFound(err) {
		return nil
	}
	// The server says "delete failed" of a message that another deleted
	// first as well as of one that it could not delete: look.
	var refused *jetstream.APIError
	if errors.As(err, &refused) && refused.ErrorCode == deleteFailed &&
		notFound(l.ask(ctx, "$JS.API.STREAM.MSG.GET."+stream, fmt.Appendf(nil, `{"seq":%d}`, sequence))) {
		return nil
	}
	return fmt.Errorf("delete %s %d: %w", stream, sequence, err)
}

const (
	sequenceNotFound jetstream.ErrorCode = 10043
	deleteFailed     jetstream.ErrorCode = 10057
)

// notFound says that no message has the sequence any more.
func notFound(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == sequenceNotFound || api.ErrorCode == jetstream.JSErrCodeMessageNotFound)
}

// ask makes a request of the JetStream API whose reply matters only if it is
// an error.
func (l *Log) ask(ctx context.Context, subject string, request []byte) error {
	m, err := l.js.Conn().RequestWithContext(ctx, subject, request)
	if err != nil {
		return err
	}
	var reply struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		return err
	}
	if reply.Error != nil {
		return reply.Error
	}
	return nil
}

// Send publishes a message that nothing stores.
func (l *Log) Send(m *nats.Msg) error {
	ascii(m.Header)
	if err := l.js.Conn().PublishMsg(m); err != nil {
		return fmt.Errorf("send to %s: %w", m.Subject, err)
	}
	return nil
}
