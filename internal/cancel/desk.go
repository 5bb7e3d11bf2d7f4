package cancel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/record"
	"fetchworker/internal/wait"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// Subject is where orders are taken: fetch.cancel.<provider>.<agent>.
const Subject = "fetch.cancel.*.*"

// seenPrefix begins the subjects where workers say that they have seen a mark.
const seenPrefix = "fetch.seen."

// Desk takes orders. Any worker does; one of them gets each.
type Desk struct {
	view    *View
	log     *record.Log
	answers *answer.Store
	known   func(provider string) bool
	maxLife time.Duration
	logger  *zap.Logger

	turns chan struct{}

	mu     sync.Mutex // held while an order begins
	closed bool
	work   sync.WaitGroup // of those under way; none is added once it is closed
}

// ordersAtOnce bounds the orders under way; more are refused.
const ordersAtOnce = 64

// NewDesk makes a desk. Only orders for providers that are known are taken.
func NewDesk(v *View, log *record.Log, known func(string) bool, maxLife time.Duration, logger *zap.Logger) *Desk {
	return &Desk{
		view: v, log: log, answers: answer.New(log), known: known, maxLife: maxLife, logger: logger,
		turns: make(chan struct{}, ordersAtOnce),
	}
}

// orderLasts is how long an order may take; the longest wait is for a worker
// that says nothing.
const orderLasts = 10 * time.Second

// Handle takes one order. It returns at once: an endpoint's orders come one
// after another.
func (d *Desk) Handle(r micro.Request) {
	if refusal := d.begin(func() {
		ctx, cancel := context.WithTimeout(context.Background(), orderLasts)
		defer cancel()
		reply, err := d.Take(ctx, r.Subject(), r.Data())
		d.respond(r, reply, err)
	}); refusal != nil {
		d.respond(r, nil, refusal)
	}
}

// begin begins an order, or says why not.
func (d *Desk) begin(take func()) *Refusal {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return refuse(503, "the worker is stopping; try again")
	}
	select {
	case d.turns <- struct{}{}:
	default:
		return refuse(503, "too many orders at once; try again")
	}
	d.work.Go(func() {
		defer func() { <-d.turns }()
		take()
	})
	return nil
}

// Close refuses the orders that are yet to come, which may do so while a
// service ends, and waits for those under way.
func (d *Desk) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.work.Wait()
}

func (d *Desk) respond(r micro.Request, reply *Reply, err error) {
	var refusal *Refusal
	switch {
	case err == nil:
		err = r.RespondJSON(reply)
	case errors.As(err, &refusal):
		err = r.Error(strconv.Itoa(refusal.Status), refusal.Why, nil)
	default:
		d.logger.Warn("order to cancel", zap.String("subject", r.Subject()), zap.Error(err))
		err = r.Error("500", "the order could not be carried out; try again", nil)
	}
	if err != nil { // whoever asked asks again
		d.logger.Debug("reply to an order to cancel", zap.String("subject", r.Subject()), zap.Error(err))
	}
}

// Take carries an order out: when it returns without an error no call begins
// any more for what was cancelled. An order may be given again.
func (d *Desk) Take(ctx context.Context, subject string, body []byte) (*Reply, error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 4 || !fetchworker.ValidToken(tokens[2]) || !fetchworker.ValidToken(tokens[3]) {
		return nil, refuse(400, "the subject is fetch.cancel.<provider>.<agent>")
	}
	provider, agent := tokens[2], tokens[3]
	if !d.known(provider) {
		return nil, refuse(404, "no provider named "+provider+" is known")
	}
	o, err := decodeOrder(body)
	if err != nil {
		return nil, err
	}
	// Of the stream that stores requests, and so on the clock that their times
	// are of.
	now, err := d.now(ctx)
	if err != nil {
		return nil, err
	}
	reply := &Reply{}
	if !o.All {
		// The answers come first: whoever has seen the mark looks for them.
		cancelled, final, err := d.answer(ctx, provider, agent, o)
		if err != nil {
			return nil, err
		}
		reply.Cancelled, reply.Final = &cancelled, &final
		if cancelled == 0 {
			return reply, nil
		}
	} else {
		reply.Before = &now
	}
	return reply, d.mark(ctx, provider, agent, o, now)
}

// now is the time of the requests' stream, as its leader has it.
func (d *Desk) now(ctx context.Context) (time.Time, error) {
	m, err := d.view.js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.INFO."+fetchworker.StreamRequests, nil)
	if err != nil {
		return time.Time{}, fmt.Errorf("time of %s: %w", fetchworker.StreamRequests, err)
	}
	var info struct {
		Error *jetstream.APIError `json:"error"`
		Time  time.Time           `json:"ts"`
	}
	if err := json.Unmarshal(m.Data, &info); err != nil {
		return time.Time{}, fmt.Errorf("time of %s: %w", fetchworker.StreamRequests, err)
	}
	if info.Error != nil {
		return time.Time{}, fmt.Errorf("time of %s: %w", fetchworker.StreamRequests, info.Error)
	}
	return info.Time, nil
}

// answersAtOnce bounds the answers under way of one order.
const answersAtOnce = 32

// answer gives each of the named requests its final answer, unless one stands.
func (d *Desk) answer(ctx context.Context, provider, agent string, o Order) (cancelled, final int, err error) {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(answersAtOnce)
	for _, id := range o.IDs {
		i := fetchworker.Identity{Provider: provider, Operation: o.Operation, Agent: agent, ID: id}
		group.Go(func() error {
			ours, err := End(ctx, d.answers, i, Detail)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if ours {
				cancelled++
			} else {
				final++
			}
			return nil
		})
	}
	return cancelled, final, group.Wait()
}

// End gives a request that is known by its identity only its final answer,
// and reports whether that is the one that stands. It is of the generation
// that was answered last.
func End(ctx context.Context, answers *answer.Store, i fetchworker.Identity, detail string) (bool, error) {
	a := Answer(i, 1, detail)
	for {
		stands, _, err := answers.Put(ctx, a, "")
		switch {
		case err != nil:
			return false, err
		case stands.Problem != nil && stands.Problem.Code() == fetchworker.CodeCancelled:
			return true, nil // by us, an order before, or its like at another desk
		case stands.Generation <= a.Generation:
			return false, nil // it is final: over all else ours is stored
		}
		a.Generation = stands.Generation // a person sent it back to work
	}
}

// Answer is the final answer of a cancelled request.
func Answer(i fetchworker.Identity, generation int, detail string) fetchworker.Answer {
	p := fetchworker.Failure(i, fetchworker.CodeCancelled, detail)
	return fetchworker.Answer{
		Identity: i, Status: fetchworker.StatusFailed, Final: true, Generation: generation, Time: time.Now(), Problem: &p,
	}
}

// mark stores what was cancelled, and returns when every worker that may
// begin a call has seen it.
func (d *Desk) mark(ctx context.Context, provider, agent string, o Order, before time.Time) error {
	nonce := nats.NewInbox()
	tell := seenPrefix + nonce[strings.LastIndexByte(nonce, '.')+1:]
	seen, err := d.view.js.Conn().SubscribeSync(tell)
	if err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	defer func() { _ = seen.Unsubscribe() }()
	revision, err := store(ctx, d.view.js, d.log, provider, agent, o, before, d.maxLife, tell)
	if err != nil {
		return err
	}
	if err := d.view.until(ctx, revision); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	// Whoever began to beat before the mark is in the view by now, and whoever
	// begins after it has seen the mark when its beat counts.
	return d.heard(ctx, seen, d.view.storedAt(provider, agent, revision, before))
}

// staleWait is about how long a mark that another has replaced meanwhile is not
// read again: a copy that lags would be asked without end.
const staleWait = 20 * time.Millisecond

// store replaces an agent's mark by compare-and-set.
func store(ctx context.Context, js jetstream.JetStream, log *record.Log, provider, agent string, o Order, before time.Time, maxLife time.Duration, tell string) (uint64, error) {
	for {
		m, last, err := read(ctx, log, provider, agent)
		if err != nil {
			return 0, fmt.Errorf("mark: %w", err)
		}
		if m, err = m.with(o, before, maxLife); err != nil {
			return 0, err
		}
		m.Tell = tell
		msg := nats.NewMsg(markSubject(provider, agent))
		msg.Data = m.encode()
		ack, err := js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(last), jetstream.WithMsgTTL((maxLife + time.Hour).Truncate(time.Second)))
		var api *jetstream.APIError
		switch {
		case err == nil:
			return ack.Sequence, nil
		case errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
			// Another order of this agent came between.
			if err := wait.Between(ctx, staleWait/2, 3*staleWait/2); err != nil {
				return 0, fmt.Errorf("mark: %w", err)
			}
		default:
			return 0, fmt.Errorf("mark: %w", err)
		}
	}
}

// longestLife is longer than any fleet lets a request live.
const longestLife = 30 * 24 * time.Hour

// Note has every worker look for the answer of an agent's requests that were
// stored before a moment. It is for an operator, who cancels by storing the
// answers first and tells nobody that no call begins from now on.
func Note(ctx context.Context, js jetstream.JetStream, log *record.Log, provider, agent string, before time.Time) error {
	_, err := store(ctx, js, log, provider, agent, Order{}, before, longestLife, "")
	return err
}

// heard waits for every worker that may still call by what it knew before:
// until it says that it has seen the mark, or can call no more without.
func (d *Desk) heard(ctx context.Context, seen *nats.Subscription, at time.Time) error {
	missing := d.view.callers(at)
	began := time.Now()
	for len(missing) > 0 {
		longest := time.Duration(0)
		for _, left := range missing {
			longest = max(longest, left)
		}
		left := longest - time.Since(began)
		if left <= 0 {
			return nil
		}
		waiting, cancel := context.WithTimeout(ctx, left)
		m, err := seen.NextMsgWithContext(waiting)
		cancel()
		switch {
		case err == nil:
			delete(missing, string(m.Data))
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, context.DeadlineExceeded):
			return nil
		default:
			return fmt.Errorf("mark: %w", err)
		}
	}
	return nil
}
