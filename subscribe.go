package fetchworker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Subscriber consumes everybody's answers, or the fleet's events, with the
// service's user "subscriber". Its place in the stream is a durable consumer:
// any number of processes under one name share the work, and what comes while
// none runs waits for it, as long as it is stored.
type Subscriber struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	api      string // where its server's API is
	durable  string
	parallel int
}

// SubscriberOptions say how a subscriber consumes.
type SubscriberOptions struct {
	// Durable is the consumer's name, a token. With the shipped accounts the
	// admin makes it; whoever may make one needs no admin.
	Durable string
	// Domain is APP with the shipped accounts, and empty without accounts.
	Domain string
	// Parallel is how many handlers may run at a time; 0 is 16. While all are
	// busy nothing more is taken.
	Parallel int
}

// NewSubscriber uses a connection that the caller has and goes on owning.
func NewSubscriber(nc *nats.Conn, o SubscriberOptions) (*Subscriber, error) {
	if !ValidID(o.Durable) {
		return nil, &RequestError{"durable", "1 to 64 of A-Z a-z 0-9 _ -"}
	}
	js, err := jetstream.New(nc)
	api := "$JS.API."
	if o.Domain != "" {
		js, err = jetstream.NewWithDomain(nc, o.Domain)
		api = "$JS." + o.Domain + ".API."
	}
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	if o.Parallel <= 0 {
		o.Parallel = 16
	}
	return &Subscriber{nc, js, api, o.Durable, o.Parallel}, nil
}

// ResultFilter selects answers; empty fields select all.
type ResultFilter struct {
	Provider, Operation, Agent string
	Status                     []Status  // any of these
	Final                      bool      // final ones only
	Since                      time.Time // where a new consumer begins; zero: at the oldest stored
}

// Subscribe hands each answer to handle, large bodies read and verified, until
// ctx ends. It is acknowledged after handle has returned nil; with an error, or
// after a crash, it comes again. So each comes at least once, and an answer's
// identity, generation and status make it exactly once. Of answers that
// replaced each other quickly the earlier may be left out, never a final one
// for good. One whose stored body is not what was promised is Damaged.
//
// ErrNotPermitted: the consumer is missing, and this user may not make it.
func (s *Subscriber) Subscribe(ctx context.Context, f ResultFilter, handle func(context.Context, Answer) error) error {
	either := func(token string) string {
		if token == "" {
			return "*"
		}
		return token
	}
	for name, token := range map[string]string{"provider": f.Provider, "operation": f.Operation, "agent": f.Agent} {
		if token != "" && !ValidToken(token) {
			return &RequestError{name, "1 to 32 of a-z 0-9 _ -"}
		}
	}
	subject := "fetch.result." + either(f.Provider) + "." + either(f.Operation) + "." + either(f.Agent) + ".*"
	bodies, room := &Client{nc: s.nc}, newBodyRoom(handledAtOnce)
	return s.consume(ctx, StreamResults, subject, f.Since, func(ctx context.Context, m *nats.Msg) error {
		a, err := DecodeAnswer(m.Subject, m.Header, m.Data)
		if err != nil || f.Final && !a.Final || len(f.Status) > 0 && !slices.Contains(f.Status, a.Status) {
			return nil // what nobody can read is of no use a second time either
		}
		leave, err := room.take(ctx, &a) // until it is handled
		if err != nil {
			return err
		}
		defer leave()
		if err := bodies.resolveSurely(ctx, &a); err != nil && !errors.Is(err, ErrBodyCorrupt) {
			return err
		} else if err != nil || a.garbled(m.Data) { // it will not get better by waiting
			a.Body, a.Damaged = nil, true
		}
		return handle(ctx, a)
	})
}

// Event is something that happened to a provider, a CloudEvent.
type Event struct {
	Kind     string          `json:"-"` // circuit, budget, throttle, review, control
	Provider string          `json:"-"`
	ID       string          `json:"id"`
	Source   string          `json:"source"`
	Type     string          `json:"type"`
	Subject  string          `json:"subject,omitempty"`
	Time     time.Time       `json:"time"`
	Data     json.RawMessage `json:"data,omitempty"`
}

// EventFilter selects events; empty fields select all.
type EventFilter struct {
	Kind, Provider string
	Since          time.Time // where a new consumer begins; zero: at the oldest stored
}

// Events hands each event to handle as Subscribe does answers.
func (s *Subscriber) Events(ctx context.Context, f EventFilter, handle func(context.Context, Event) error) error {
	subject := "fetch.event."
	for i, token := range []string{f.Kind, f.Provider} {
		switch {
		case token == "":
			token = "*"
		case !ValidToken(token):
			return &RequestError{[]string{"kind", "provider"}[i], "1 to 32 of a-z 0-9 _ -"}
		}
		subject += token + "."
	}
	return s.consume(ctx, StreamEvents, strings.TrimSuffix(subject, "."), f.Since, func(ctx context.Context, m *nats.Msg) error {
		var e Event
		tokens := strings.Split(m.Subject, ".")
		if json.Unmarshal(m.Data, &e) != nil || len(tokens) != 4 {
			return nil //nolint:nilerr // what nobody can read is of no use a second time either
		}
		e.Kind, e.Provider = tokens[2], tokens[3]
		return handle(ctx, e)
	})
}

const (
	consumerAckWait = 30 * time.Second
	// handleAgain is how soon a message comes again whose handler has failed,
	// at first; it doubles up to a minute.
	handleAgain = time.Second
)

// consume pulls messages and acknowledges each when take has returned nil.
func (s *Subscriber) consume(ctx context.Context, stream, subject string, since time.Time, take func(context.Context, *nats.Msg) error) error {
	if err := s.consumer(ctx, stream, subject, since); err != nil {
		return err
	}
	in, err := s.openPull(stream)
	if err != nil {
		return err
	}
	var handling sync.WaitGroup
	defer handling.Wait()
	// What the server has sent by now is handed back before this returns, or
	// nobody would get it for as long as a handler may take.
	defer in.close()
	turns := make(chan struct{}, s.parallel)
	for ctx.Err() == nil {
		select {
		case turns <- struct{}{}: // all may be busy
			<-turns
		case <-ctx.Done():
			return nil
		}
		over, err := in.ask(ctx, s.parallel-len(turns), func(m *nats.Msg) {
			turns <- struct{}{}
			handling.Go(func() {
				defer func() { <-turns }()
				s.handle(ctx, m, take)
			})
		})
		switch {
		case err != nil:
			return err
		case over:
			continue
		}
		// An election, a reconnect, or a consumer that somebody deleted.
		if _, err := s.js.Consumer(ctx, stream, s.durable); errors.Is(err, jetstream.ErrConsumerNotFound) {
			return fmt.Errorf("consumer %s on %s: %w", s.durable, stream, err)
		}
		_ = pause(ctx, time.Second)
	}
	return nil
}

// handle runs one handler while the server is told that it is at work.
func (s *Subscriber) handle(ctx context.Context, m *nats.Msg, take func(context.Context, *nats.Msg) error) {
	if ctx.Err() != nil {
		_ = m.Nak()
		return
	}
	working, done := context.WithCancel(context.Background())
	var beats sync.WaitGroup
	beats.Go(func() {
		for pause(working, consumerAckWait/3) == nil {
			_ = m.InProgress() // unheard, it comes again
		}
	})
	err := take(ctx, m)
	done()
	beats.Wait()
	if err == nil {
		_ = m.Ack() // lost, it comes again
		return
	}
	wait := handleAgain
	if meta, err := m.Metadata(); err == nil {
		wait = handleAfter(meta.NumDelivered)
	}
	_ = m.NakWithDelay(wait)
}

// handleAfter is how soon a message comes again that was delivered so often.
func handleAfter(delivered uint64) time.Duration {
	return min(handleAgain<<min(delivered-1, 6), time.Minute)
}

// consumer finds the durable consumer, and makes it where that is allowed.
func (s *Subscriber) consumer(ctx context.Context, stream, subject string, since time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := s.js.Consumer(ctx, stream, s.durable)
	if err == nil {
		if have := c.CachedInfo().Config.FilterSubject; have != subject {
			return fmt.Errorf("consumer %s on %s is for %s, not for %s: use another name", s.durable, stream, have, subject)
		}
		return nil
	}
	if !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("consumer %s on %s: %w", s.durable, stream, err)
	}
	config := jetstream.ConsumerConfig{
		Durable: s.durable, FilterSubject: subject, AckPolicy: jetstream.AckExplicitPolicy, AckWait: consumerAckWait,
		MaxDeliver: -1, MaxAckPending: 4 * s.parallel,
	}
	if !since.IsZero() {
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	making, cancel := publishing(ctx, s.nc, "$JS.API.CONSUMER.CREATE."+stream+"."+s.durable+"."+subject, 10*time.Second)
	defer cancel()
	_, err = s.js.CreateConsumer(making, stream, config)
	if err != nil {
		if making.Err() != nil || errors.Is(err, nats.ErrNoResponders) {
			err = fmt.Errorf("%w: the admin makes it with: nats consumer add %s %s --filter '%s' --ack explicit --pull --deliver all --max-pending %d --defaults", ErrNotPermitted, stream, s.durable, subject, config.MaxAckPending)
		}
		return fmt.Errorf("consumer %s on %s: %w", s.durable, stream, err)
	}
	return nil
}
