// Package intake is how requests come into a worker: one lasting subscription
// on which all shards ask for as many messages as will soon start, and the
// messages themselves. It knows consumers and their pace, and no requests.
package intake

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fetchworker/internal/wait"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Intake is where all messages of a worker come in: one subscription for as
// long as it runs, on which all of its shards ask for more. (An inbox, a
// subscription, a channel, a timer and a goroutine for each pull of one or two
// messages were a third of a worker's CPU.)
//
// Of the shards that a worker could take from most are at rest, without a
// consumer: see Shard, lane and lookout.
type Intake struct {
	nc     *nats.Conn
	Shards []*Shard
	of     map[consumerName]int // index in shards
	// Deliver takes a message; Complain hears what the server had against a
	// pull request, and what else went wrong; Remade of a consumer that was gone
	// while it was asked. All are set before Run and called while it runs.
	Deliver  func(*Shard, Message, *nats.MsgMetadata)
	Complain func(*Shard, error)
	Remade   func(*Shard)

	inbox string
	sub   *nats.Subscription
	// round is part of the inbox of a request. It is raised when everything is
	// asked for anew: what the server says of older requests is not heard.
	round atomic.Int64

	lanes   map[string]*lane // by the subject they are heard on
	told    chan *nats.Msg   // what they have heard
	deaf    bool             // these credentials may not listen: no shard rests
	lookout *lookout
	making  sync.WaitGroup
	makers  chan struct{} // a place for each consumer that is being made

	mu     sync.Mutex // held while a message is taken in
	closed bool
}

type consumerName struct{ stream, consumer string }

const (
	// pullLasts is how long one pull request stays open at the server. It is
	// answered as soon as there is work, so an idle shard costs one request in
	// this time.
	pullLasts = 29 * time.Second
	// pullBeats is how often the server says that the request is still open;
	// two that are missing mean that it is not.
	pullBeats = 5 * time.Second
	// makersAtOnce bounds the consumers that are made at a time.
	makersAtOnce = 16
	// longestRaise is the longest pause between two tries to make a consumer that
	// was refused, soonRaise while there is only no leader yet.
	longestRaise = 1600 * time.Millisecond
	soonRaise    = 200 * time.Millisecond
	// makeTime bounds the first makeTries, as long as an election takes: while one
	// goes on nobody answers, and what is asked after its end is answered at once.
	makeTime, makeTries = 600 * time.Millisecond, 16
	// toldWait bounds what was heard and not yet looked at. What is beyond it is
	// found by the lookout.
	toldWait = 1024
)

var (
	errPull   = errors.New("pull")
	errSilent = fmt.Errorf("%w: the server is silent", errPull)
)

// New makes an intake for some shards, which rest when nothing has come for a
// while; Run starts it.
func New(js jetstream.JetStream, rest time.Duration, shards []*Shard) *Intake {
	in := &Intake{
		nc: js.Conn(), Shards: shards, of: make(map[consumerName]int, len(shards)),
		lanes: map[string]*lane{}, told: make(chan *nats.Msg, toldWait),
		lookout: newLookout(js, shards), makers: make(chan struct{}, makersAtOnce),
	}
	ending := fmt.Sprintf(`,"expires":%d,"idle_heartbeat":%d}`, pullLasts, pullBeats)
	in.lookout.needed = in.tires
	in.lookout.failed = func(err error) { in.Complain(nil, err) }
	for i, s := range shards {
		in.of[consumerName{s.stream, s.Consumer}] = i
		subject := subjectOf(s)
		l := in.lanes[subject]
		if l == nil {
			l = &lane{subject: subject}
			in.lanes[subject] = l
		}
		place := len(l.shards) // in its lane
		l.add(s)
		s.rest = rest
		next := "$JS.API.CONSUMER.MSG.NEXT." + s.stream + "." + s.Consumer
		s.ask = func(n int) error {
			request := make([]byte, 0, 80)
			request = strconv.AppendInt(append(request, `{"batch":`...), int64(n), 10)
			request = append(request, ending...)
			reply := in.inbox + "." + strconv.Itoa(i) + "." + strconv.FormatInt(in.round.Load(), 10)
			if err := in.nc.PublishRequest(next, reply, request); err != nil {
				return fmt.Errorf("%w: %w", errPull, err)
			}
			return nil
		}
		s.mayEnd = func() bool {
			since := l.since[place].Load()
			return since != nil && in.lookout.covers(*since)
		}
	}
	return in
}

// Run takes messages in until ctx ends. Then it asks for no more and returns
// when the last that the server sent has been delivered, and the server knows
// that nothing is asked for.
func (in *Intake) Run(ctx context.Context) error {
	in.inbox = in.nc.NewInbox()
	sub, err := in.nc.Subscribe(in.inbox+".>", in.take)
	if err != nil {
		return fmt.Errorf("%w: %w", errPull, err)
	}
	in.sub = sub
	if err := sub.SetPendingLimits(-1, -1); err != nil { // bounded by what is asked for
		return fmt.Errorf("%w: %w", errPull, err)
	}
	for _, s := range in.Shards {
		s.rise = func() { in.making.Go(func() { in.raise(ctx, s) }) }
	}
	// With a new connection the server, perhaps another one, knows nothing of
	// what was asked for.
	connected := in.nc.StatusChanged(nats.CONNECTED)
	defer in.nc.RemoveStatusListener(connected)
	in.deaf = !in.mayListen(ctx)
	in.listen(time.Now())
	in.begin()
	in.making.Go(func() { in.lookout.run(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			in.stop()
			return nil
		case <-connected:
			in.begin()
			in.lookout.again()
		case m := <-in.told:
			if now, l := time.Now(), in.laneOf(m.Sub.Subject); l.hear(m.Subject, now) {
				in.listenTo(l, now)
			}
		case now := <-timer.C:
			in.listen(now)
			timer.Reset(time.Until(in.look(now)))
		}
	}
}

// raise makes the consumer of a shard, and tries until it exists or gives work:
// an election may hide for seconds whether it does.
func (in *Intake) raise(ctx context.Context, s *Shard) {
	pause := shortestPause
	for try := 0; ; try++ {
		err := in.make(ctx, s, try)
		if err == nil {
			return
		}
		switch api := new(jetstream.APIError); {
		case errors.Is(err, context.DeadlineExceeded):
			pause = shortestPause // nobody said no, and that took long enough
		case errors.As(err, &api) && api.Code == 503, errors.Is(err, nats.ErrNoResponders):
			pause = min(pause, soonRaise)
		}
		if wait.For(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, longestRaise)
	}
}

// make tries once. It returns an error if that is to be done again.
func (in *Intake) make(ctx context.Context, s *Shard, try int) error {
	select {
	case in.makers <- struct{}{}:
		defer func() { <-in.makers }()
	case <-ctx.Done():
		return nil
	}
	making, cancel := ctx, context.CancelFunc(func() {})
	if try < makeTries {
		making, cancel = context.WithTimeout(ctx, makeTime)
	}
	since, made, err := s.Make(making)
	cancel()
	if err != nil && ctx.Err() == nil {
		in.Complain(s, err)
	}
	lost, again := s.risen(since, made, err)
	if lost && in.Remade != nil {
		in.Remade(s)
	}
	if again {
		return err
	}
	return nil
}

// mayListen tries whether these credentials may hear what comes.
func (in *Intake) mayListen(ctx context.Context) bool {
	if len(in.Shards) == 0 {
		return true
	}
	before := in.nc.LastError()
	sub, err := in.nc.SubscribeSync(subjectOf(in.Shards[0]))
	if err != nil {
		return true // there is no connection that could tell
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	_ = in.nc.FlushWithContext(ctx) // the server's word comes before its answer to this
	_ = sub.Unsubscribe()
	now := in.nc.LastError()
	return now == before || !errors.Is(now, nats.ErrPermissionViolation) //nolint:errorlint // identity is meant
}

// listen listens to what rests or is about to, and to nothing else.
func (in *Intake) listen(now time.Time) {
	for _, l := range in.lanes {
		if in.deaf || in.lookout.mute.Load() {
			for _, s := range l.shards {
				s.Stir()
			}
			continue
		}
		in.listenTo(l, now)
	}
}

func (in *Intake) listenTo(l *lane, now time.Time) {
	err := l.listen(func(subject string) (*nats.Subscription, error) { return in.nc.ChanSubscribe(subject, in.told) }, now)
	if err != nil {
		in.Complain(l.shards[0], err)
	}
}

// tires reports whether some shard rests or is about to.
func (in *Intake) tires(now time.Time) bool {
	for _, s := range in.Shards {
		if s.tires(now) {
			return true
		}
	}
	return false
}

// begin asks anew for messages of all shards that do not rest.
func (in *Intake) begin() {
	in.round.Add(1)
	for _, s := range in.Shards {
		s.begin()
	}
}

// look has every shard do what is due, and tells when to look again.
func (in *Intake) look(now time.Time) time.Time {
	next := now.Add(time.Second)
	for _, s := range in.Shards {
		if again := s.look(now); !again.IsZero() && again.Before(next) {
			next = again
		}
	}
	return next
}

// stop withdraws what is asked for: without interest in its inbox the server
// forgets a request. What it had sent by then is delivered all the same.
func (in *Intake) stop() {
	for _, s := range in.Shards {
		s.close()
	}
	for _, l := range in.lanes {
		l.leave()
	}
	in.making.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if in.nc.FlushWithContext(ctx) == nil {
		for n, _, err := in.sub.Pending(); err == nil && n > 0 && ctx.Err() == nil; n, _, err = in.sub.Pending() {
			time.Sleep(time.Millisecond) //nolint:forbidigo // bounded by ctx
		}
	}
	// Without a connection the server has forgotten the requests already.
	_ = in.sub.Unsubscribe()
	_ = in.nc.FlushWithContext(ctx)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
}

// take takes one message in, or the server's word about a request.
func (in *Intake) take(m *nats.Msg) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return // too late: it is delivered again
	}
	if strings.HasPrefix(m.Reply, ackPrefix) {
		meta, err := m.Metadata()
		if err != nil {
			return
		}
		i, ok := in.of[consumerName{meta.Stream, meta.Consumer}]
		if !ok {
			return
		}
		in.Shards[i].came(meta.Sequence.Consumer)
		in.Deliver(in.Shards[i], Message{in.nc, m}, meta)
		return
	}
	index, round, _ := strings.Cut(strings.TrimPrefix(m.Subject, in.inbox+"."), ".")
	i, err := strconv.Atoi(index)
	if err != nil || i < 0 || i >= len(in.Shards) || round != strconv.FormatInt(in.round.Load(), 10) {
		return
	}
	s := in.Shards[i]
	switch status := m.Header.Get("Status"); status {
	case "100":
		s.beats()
	case "404", "408": // over, with nothing more
		left, _ := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
		s.over(left)
	default:
		err := fmt.Errorf("%w: the server says %s %s", errPull, status, m.Header.Get("Description"))
		s.fail(err)
		in.Complain(s, err)
	}
}
