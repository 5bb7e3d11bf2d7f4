// Package browse reads what is stored: letters, released letters, review
// items, answers, in any number, without a consumer and without a list in
// memory. It changes nothing.
package browse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Filter selects letters and review items. An empty field selects all.
type Filter struct {
	Provider, Operation, Agent, ID string

	Class        wire.Class
	Code         fetchworker.Code
	HTTPStatus   int
	Error        string    // a pattern of its text: * is any text, ? any character
	Group        int       // the number of its group; see Group.Number
	Since, Until time.Time // of the last failure
}

// Empty reports whether the filter selects everything.
func (f Filter) Empty() bool { return f == Filter{} }

// NamesOnly reports whether the filter selects by identity only.
func (f Filter) NamesOnly() bool {
	return f == Filter{Provider: f.Provider, Operation: f.Operation, Agent: f.Agent, ID: f.ID}
}

// Subject is the subject filter of a stream that keeps one message for each
// identity.
func (f Filter) Subject(stream string) string {
	either := func(token string) string {
		if token == "" {
			return "*"
		}
		return token
	}
	identity := either(f.Operation) + "." + either(f.Agent) + "." + either(f.ID)
	switch stream {
	case fetchworker.StreamRequests: // the id is in the message
		return "fetch.request." + either(f.Provider) + ".*.*." + either(f.Operation) + "." + either(f.Agent)
	case wire.StreamDLQ:
		return "fetch.dlq." + either(f.Provider) + ".*." + identity
	case wire.StreamReplay:
		return "fetch.replay." + either(f.Provider) + ".*." + identity
	case wire.StreamReview:
		return "fetch.review." + either(f.Provider) + "." + identity
	default:
		return "fetch.result." + either(f.Provider) + "." + identity
	}
}

// walkedWhole is from how many messages on a stream is read whole, and what
// does not match left out here: for each page the server counts all that match
// from there on, and of a million subjects that takes it longer than the page.
// Only everything it counts at once.
const walkedWhole = 20_000

// walked is the subject filter of a walk.
func (f Filter) walked(stream string, edge Edge) string {
	if f.ID == "" && edge.Messages > walkedWhole {
		return ">"
	}
	return f.Subject(stream)
}

// Coarse is what of a filter the server sorts out at no cost, where a stream
// has as many messages as at this edge. A search that has to end in time walks
// by it and applies Selects itself: what is passed over takes time too.
func (f Filter) Coarse(edge Edge) Filter {
	if f.ID == "" && edge.Messages > walkedWhole {
		return Filter{}
	}
	return Filter{Provider: f.Provider, Operation: f.Operation, Agent: f.Agent, ID: f.ID}
}

// Selects reports whether a filter selects what was found. Whether it would
// select what cannot be read is unknown: then its names decide.
func (f Filter) Selects(found Found) bool {
	if found.Fault == nil && f.Code != "" && found.Stream == wire.StreamReview { // its request has ended, also where the letter itself had no code
		if found.FailsWith() != f.Code {
			return false
		}
		f.Code = ""
	}
	return f.names(found.Identity) && (found.Fault != nil || f.Matches(found.Letter))
}

// names reports whether an identity is one that the filter names.
func (f Filter) names(i fetchworker.Identity) bool {
	return (f.Provider == "" || f.Provider == i.Provider) && (f.Operation == "" || f.Operation == i.Operation) &&
		(f.Agent == "" || f.Agent == i.Agent) && (f.ID == "" || f.ID == i.ID)
}

// Matches judges what a subject filter cannot.
func (f Filter) Matches(l dlq.Letter) bool {
	return (f.Class == "" || f.Class == l.Class) &&
		(f.Code == "" || f.Code == l.Code) &&
		(f.HTTPStatus == 0 || f.HTTPStatus == l.HTTPStatus) &&
		(f.Error == "" || like(f.Error, l.Error)) &&
		(f.Group == 0 || f.Group == GroupOf(l).Number()) &&
		(f.Since.IsZero() || !l.FailedAt.Before(f.Since)) &&
		(f.Until.IsZero() || l.FailedAt.Before(f.Until))
}

// Found is a stored letter or review item.
type Found struct {
	dlq.Letter
	Stream   string
	Sequence uint64
	StoredAt time.Time
	Fault    error // its headers cannot be read; only the identity is sure
}

// Browser reads what is stored without a consumer, which a work queue would
// not allow, and without a list in memory: pages of direct gets, one after
// the other. It changes nothing.
type Browser struct {
	nc  *nats.Conn
	try func(context.Context, func() error) error
}

// New makes a browser on a connection.
func New(nc *nats.Conn) *Browser { return &Browser{nc: nc, try: fewTimes} }

// Trying is a browser that tries each of its reads as it is told to: reading
// twice changes nothing.
func (b *Browser) Trying(try func(context.Context, func() error) error) *Browser {
	return &Browser{nc: b.nc, try: try}
}

func fewTimes(ctx context.Context, try func() error) (err error) {
	for range pageTries {
		if err = try(); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

const (
	pageMessages = 1000
	pageBytes    = 4 << 20
	pageWait     = 10 * time.Second // for the next message of a page
	pageTries    = 3
)

// Edge is where a stream ended at a moment of the server's time. A walk up to
// an edge ends although others write meanwhile, the walker itself included.
type Edge struct {
	Sequence uint64
	Messages uint64 // that the stream held
	At       time.Time
}

// Edge asks for the present end of a stream.
func (b *Browser) Edge(ctx context.Context, stream string) (Edge, error) {
	var info struct {
		Error *jetstream.APIError `json:"error"`
		Time  time.Time           `json:"ts"`
		State struct {
			Last     uint64 `json:"last_seq"`
			Messages uint64 `json:"messages"`
		} `json:"state"`
	}
	if err := b.ask(ctx, "$JS.API.STREAM.INFO."+stream, nil, &info); err != nil {
		return Edge{}, err
	}
	if info.Error != nil {
		return Edge{}, fmt.Errorf("stream %s: %w", stream, info.Error)
	}
	return Edge{Sequence: info.State.Last, Messages: info.State.Messages, At: info.Time}, nil
}

// Walk yields what the filter selects of a stream, in the order it was
// stored, up to the edge. What cannot be read is yielded with a fault, so
// that nothing is left out in silence. It stops after the first error.
func (b *Browser) Walk(ctx context.Context, stream string, f Filter, edge Edge) iter.Seq2[Found, error] {
	return found(stream, f, b.Messages(ctx, stream, f.walked(stream, edge), time.Time{}, edge))
}

// Count is how many messages of a stream a subject filter matches, and the
// first of them; zero and no message where there is none.
func (b *Browser) Count(ctx context.Context, stream, subject string) (int, record.Raw, error) {
	page, err := b.page(ctx, stream, pageRequest{Subject: subject, Batch: 1})
	if err != nil || len(page.messages) == 0 {
		return 0, record.Raw{}, err
	}
	return page.left + 1, page.messages[0], nil
}

// Messages yields the stored messages of a subject filter from a time on (zero:
// from the first) up to the edge.
func (b *Browser) Messages(ctx context.Context, stream, subject string, from time.Time, edge Edge) iter.Seq2[record.Raw, error] {
	request := pageRequest{Subject: subject}
	if !from.IsZero() {
		request.From = &from
	}
	return b.pages(ctx, stream, request, edge)
}

// MessagesFrom is Messages from a sequence on.
func (b *Browser) MessagesFrom(ctx context.Context, stream, subject string, sequence uint64, edge Edge) iter.Seq2[record.Raw, error] {
	return b.pages(ctx, stream, pageRequest{Subject: subject, Sequence: sequence}, edge)
}

func (b *Browser) pages(ctx context.Context, stream string, request pageRequest, edge Edge) iter.Seq2[record.Raw, error] {
	return func(yield func(record.Raw, error) bool) {
		request := request // the walk may be done again
		request.Batch, request.MaxBytes = pageMessages, pageBytes
		for {
			page, err := b.page(ctx, stream, request)
			if err != nil {
				yield(record.Raw{}, err)
				return
			}
			for _, m := range page.messages {
				if m.Sequence > edge.Sequence || !yield(m, nil) {
					return
				}
				request.Sequence, request.From = m.Sequence+1, nil
			}
			if page.left > 0 {
				continue
			}
			if request.From != nil {
				return // nothing since then; the leader cannot be asked by time
			}
			// In a cluster any replica answers a direct get, and one that lags
			// would end the walk early. Only the leader may say that it is over.
			var next uint64
			err = b.try(ctx, func() (err error) {
				next, err = b.leaderNext(ctx, stream, request)
				if errors.Is(err, jetstream.ErrMsgNotFound) {
					next, err = 0, nil
				}
				return err
			})
			if err == nil && (next == 0 || next > edge.Sequence) {
				return
			}
			if err == nil {
				err = wait.For(ctx, 100*time.Millisecond)
			}
			if err != nil {
				yield(record.Raw{}, err)
				return
			}
		}
	}
}

type pageRequest struct {
	Sequence uint64     `json:"seq,omitempty"`
	From     *time.Time `json:"start_time,omitempty"`
	Subject  string     `json:"next_by_subj"`
	Batch    int        `json:"batch,omitempty"`
	MaxBytes int        `json:"max_bytes,omitempty"`
}

type page struct {
	messages []record.Raw
	left     int // messages that match after these
}

// page reads one page. A page that does not arrive whole is asked for again.
func (b *Browser) page(ctx context.Context, stream string, request pageRequest) (p page, err error) {
	err = b.try(ctx, func() (err error) {
		p, err = b.pageOnce(ctx, stream, request)
		return err
	})
	return p, err
}

func (b *Browser) pageOnce(ctx context.Context, stream string, request pageRequest) (page, error) {
	inbox := b.nc.NewRespInbox()
	sub, err := b.nc.SubscribeSync(inbox)
	if err != nil {
		return page{}, fmt.Errorf("read %s: %w", stream, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	body, err := json.Marshal(request)
	if err != nil {
		return page{}, fmt.Errorf("read %s: %w", stream, err)
	}
	if err := b.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, body); err != nil {
		return page{}, fmt.Errorf("read %s: %w", stream, err)
	}
	p := page{messages: make([]record.Raw, 0, request.Batch)}
	for {
		m, err := b.nextOf(ctx, sub)
		if err != nil {
			return page{}, fmt.Errorf("read %s: %w", stream, err)
		}
		if record.IsStored(m.Header) {
			raw, err := record.Direct(m)
			if err != nil {
				return page{}, fmt.Errorf("read %s: %w", stream, err)
			}
			p.messages = append(p.messages, raw)
			continue
		}
		switch status := m.Header.Get("Status"); status {
		case "204": // the end of the page
			p.left, err = strconv.Atoi(m.Header.Get("Nats-Num-Pending"))
			if err != nil {
				return page{}, fmt.Errorf("read %s: end of page: %w", stream, err)
			}
			return p, nil
		case "404":
			return p, nil
		default:
			return page{}, fmt.Errorf("read %s: the server says %s %s", stream, status, m.Header.Get("Description"))
		}
	}
}

func (b *Browser) nextOf(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, pageWait)
	defer cancel()
	m, err := sub.NextMsgWithContext(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return m, err
}

// leaderNext is the sequence of the next message as the stream's leader knows
// it.
func (b *Browser) leaderNext(ctx context.Context, stream string, request pageRequest) (uint64, error) {
	body, err := json.Marshal(pageRequest{Sequence: max(request.Sequence, 1), Subject: request.Subject})
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", stream, err)
	}
	var reply struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Sequence uint64 `json:"seq"`
		} `json:"message"`
	}
	if err := b.ask(ctx, "$JS.API.STREAM.MSG.GET."+stream, body, &reply); err != nil {
		return 0, err
	}
	switch {
	case reply.Error == nil:
		return reply.Message.Sequence, nil
	case reply.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return 0, jetstream.ErrMsgNotFound
	default:
		return 0, fmt.Errorf("read %s: %w", stream, reply.Error)
	}
}

func (b *Browser) ask(ctx context.Context, subject string, request []byte, reply any) error {
	ctx, cancel := context.WithTimeout(ctx, pageWait)
	defer cancel()
	m, err := b.nc.RequestWithContext(ctx, subject, request)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("ask %s: %w", subject, err)
	}
	if err := json.Unmarshal(m.Data, reply); err != nil {
		return fmt.Errorf("ask %s: %w", subject, err)
	}
	return nil
}
