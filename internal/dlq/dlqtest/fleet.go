package dlqtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/browse"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/sweep"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

// What the fleets of tests are configured with.
const (
	Retries   = 3           // that a request may have
	RetryBase = time.Second // of the first wait
)

// Fleet is a real server with any number of replayers, sweepers and stand-ins
// for workers, in a bubble whose clock jumps when all of them wait.
type Fleet struct {
	*brokertest.Broker
	T        *testing.T
	Ctx      context.Context // ends with the fleet
	Log      *record.Log
	Board    *fleet.View
	Recorder *Recorder
	Leave    func()                 // a test's own: the worker that served fmp goes
	Running  sync.WaitGroup         // all that is waited for at the end
	Accepted []fetchworker.Identity // what the check looks for
	MaxLife  time.Duration
}

// Bubble runs a test with a fleet, and checks at its end that every request
// accepted has an end or still waits.
func Bubble(t *testing.T, test func(f *Fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f, stop := Start(t, brokertest.Start(t))
		defer stop()
		f.Recorder = Record(t, f.NC)
		defer f.Recorder.Stop()
		test(f)
		if !t.Failed() && f.Accepted != nil {
			f.Check(Check{})
		}
	})
}

// Start makes a fleet on a server, which stop ends with all that runs.
func Start(t *testing.T, b *brokertest.Broker) (f *Fleet, stop func()) {
	t.Helper()
	b.Ageless(t)
	ctx, cancel := context.WithCancel(t.Context())
	f = &Fleet{Broker: b, T: t, Ctx: ctx, Log: record.New(b.JS, nil), MaxLife: 72 * time.Hour}
	var err error
	if f.Board, err = fleet.Watch(ctx, b.JS, b.KV); err != nil {
		t.Fatal(err)
	}
	return f, func() {
		cancel()
		f.Running.Wait()
		f.Board.Close()
		b.Stop()
	}
}

// Check checks all that was accepted.
func (f *Fleet) Check(c Check) {
	f.T.Helper()
	c.Accepted, c.Retries = f.Accepted, Retries
	c.Run(f.T, f.JS)
}

// Logger logs where a test is verbose.
func (f *Fleet) Logger() *zap.Logger {
	if testing.Verbose() {
		return zaptest.NewLogger(f.T, zaptest.Level(zap.InfoLevel))
	}
	return zap.NewNop()
}

// Replayer starts one on a connection of its own and returns what stops it.
func (f *Fleet) Replayer(hook func(*nats.Conn) record.Hook) (stop func()) {
	f.T.Helper()
	return f.Start(hook, func(js jetstream.JetStream, log *record.Log) Daemon {
		return dlq.NewReplayer(js, log, f.Board, dlq.Config{
			Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer,
			Retries: Retries, MaxLife: f.MaxLife, Logger: f.Logger(),
		}).Run
	})
}

// Sweeper is the same for a sweeper that knows newsapi by name.
func (f *Fleet) Sweeper(hook func(*nats.Conn) record.Hook) (stop func()) {
	f.T.Helper()
	return f.Start(hook, func(js jetstream.JetStream, log *record.Log) Daemon {
		return sweep.New(js, log, f.Board, sweep.Config{
			Known:   func(provider string) bool { return provider == "newsapi" },
			MaxLife: f.MaxLife, Logger: f.Logger(),
		}).Run
	})
}

// Daemon runs until its context ends.
type Daemon func(context.Context) error

// Start runs a daemon on a connection of its own.
func (f *Fleet) Start(hook func(*nats.Conn) record.Hook, build func(jetstream.JetStream, *record.Log) Daemon) (stop func()) {
	f.T.Helper()
	nc := f.Connect(f.T)
	js, err := broker.JetStream(nc)
	if err != nil {
		f.T.Fatal(err)
	}
	var h record.Hook
	if hook != nil {
		h = hook(nc)
	}
	run := build(js, record.New(js, h))
	ctx, cancel := context.WithCancel(f.Ctx)
	var done sync.WaitGroup
	done.Go(func() {
		if err := run(ctx); err != nil {
			f.T.Error(err)
		}
	})
	f.Running.Go(func() { done.Wait(); nc.Close() })
	return func() { cancel(); done.Wait() }
}

// Serve makes a provider served, by a worker that lives until the returned
// function is called.
func (f *Fleet) Serve(provider string) (leave func()) {
	f.T.Helper()
	// One shard is enough to be served, and a tenth of the files.
	for stream, consumers := range broker.ProviderConsumers(provider, 16) {
		if _, err := f.JS.CreateOrUpdateConsumer(f.Ctx, stream, consumers[0]); err != nil {
			f.T.Fatal(err)
		}
	}
	if err := fleet.NoteServed(f.Ctx, f.JS, provider); err != nil {
		f.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.Ctx)
	f.Running.Go(func() {
		fleet.Present(ctx, f.JS, f.KV, fleet.Worker{Name: "w-" + provider, Providers: []string{provider}}, func(err error) { f.T.Log(err) })
	})
	f.Lives(provider, true)
	return func() { cancel(); f.Lives(provider, false) }
}

// Lives waits until the board knows whether a worker lives.
func (f *Fleet) Lives(provider string, want bool) {
	f.T.Helper()
	f.Eventually(time.Second, "the board knows of the worker", func() bool {
		return (len(f.Board.Provider(provider, time.Now()).Workers) > 0) == want
	})
}

// Worker takes released letters of a provider and does to each what a test
// says, at most held at a time.
func (f *Fleet) Worker(provider string, do func(l dlq.Letter) error) (stop func()) {
	f.T.Helper()
	c, err := f.JS.Consumer(f.Ctx, wire.StreamReplay, broker.ReplayConsumer(provider))
	if err != nil {
		f.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.Ctx)
	f.Running.Go(func() {
		for ctx.Err() == nil {
			pull, cancel := context.WithTimeout(ctx, 5*time.Second)
			batch, err := c.Fetch(16, jetstream.FetchContext(pull))
			if err != nil {
				cancel()
				return
			}
			for m := range batch.Messages() {
				l, err := dlq.Decode(m.Subject(), m.Headers(), m.Data())
				if err != nil {
					f.T.Error(err)
				}
				if err := do(l); err != nil {
					_ = m.Nak()
					continue
				}
				_ = m.Ack()
			}
			cancel()
		}
	})
	return cancel
}

// Put stores letters; a request whose letter is stored is accepted.
func (f *Fleet) Put(letters ...dlq.Letter) {
	f.T.Helper()
	for _, l := range letters {
		if err := dlq.Put(f.Ctx, f.Log, l); err != nil {
			f.T.Fatal(err)
		}
		f.Accepted = append(f.Accepted, l.Identity)
	}
}

// FailedAgain is what a worker does after a call that failed.
func (f *Fleet) FailedAgain(l dlq.Letter) error {
	now := time.Now()
	l.Calls++
	l.Failures++
	l.Class, l.FailedAt, l.NotBefore = wire.ClassTransient, now, now
	if l.FirstFailedAt.IsZero() {
		l.FirstFailedAt = now
	}
	if l.Failures <= Retries {
		l.NotBefore = now.Add(dlq.Wait(RetryBase, time.Hour, l.Failures))
	}
	return dlq.Put(f.Ctx, f.Log, l)
}

// ParkedAgain is what a worker does with a letter that it may not call for.
func (f *Fleet) ParkedAgain(l dlq.Letter, class wire.Class) error {
	l.Class, l.FailedAt, l.NotBefore = class, time.Now(), time.Now()
	return dlq.Put(f.Ctx, f.Log, l)
}

// Succeed is what a worker does after a call that succeeded; it looks first,
// as a worker does with a replayed request.
func (f *Fleet) Succeed(l dlq.Letter) error {
	if a, ok := f.Answer(l.Identity); ok && a.Final && a.Generation >= l.Generation {
		return nil
	}
	_, _, err := answer.New(f.Log).Put(f.Ctx, fetchworker.Answer{
		Identity: l.Identity, Status: fetchworker.StatusOK, Final: true, Generation: l.Generation,
		Calls: l.Calls + 1, Failures: l.Failures, Body: []byte(`{}`),
	}, "")
	return err
}

// Answer is what is stored for a request.
func (f *Fleet) Answer(id fetchworker.Identity) (fetchworker.Answer, bool) {
	f.T.Helper()
	m, err := f.Log.Get(f.Ctx, answer.Slot(id))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return fetchworker.Answer{}, false
	}
	if err != nil {
		f.T.Fatal(err)
	}
	a, err := fetchworker.DecodeAnswer(fetchworker.ResultSubject(id), m.Header, m.Data)
	if err != nil {
		f.T.Fatal(err)
	}
	return a, true
}

// Count is how many messages of a stream match a subject.
func (f *Fleet) Count(stream, subject string) int {
	f.T.Helper()
	n, _, err := browse.New(f.NC).Count(f.Ctx, stream, subject)
	if err != nil {
		f.T.Fatal(err)
	}
	return n
}

// Circuit writes what workers share about a provider's health.
func (f *Fleet) Circuit(provider string, c circuit.Record) {
	f.T.Helper()
	value, err := json.Marshal(c)
	if err != nil {
		f.T.Fatal(err)
	}
	if _, err := f.KV.Put(f.Ctx, "circuit."+provider, value); err != nil {
		f.T.Fatal(err)
	}
	synctest.Wait()
}

// Eventually waits until something holds, for no longer than it may take.
func (f *Fleet) Eventually(within time.Duration, what string, holds func() bool) time.Duration {
	f.T.Helper()
	start := time.Now()
	for time.Since(start) <= within {
		if holds() {
			return time.Since(start)
		}
		time.Sleep(min(max(within/500, 10*time.Millisecond), 250*time.Millisecond)) //nolint:forbidigo // for tests, and bounded by within
	}
	f.T.Fatalf("not within %v: %s", within, what)
	return 0
}

// Ident is the n-th request of alice.
func Ident(i int) fetchworker.Identity {
	return fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: fmt.Sprintf("q-%d", i)}
}

// Fresh is a letter of a request that was just made and has not been called.
func Fresh(i int, class wire.Class) dlq.Letter {
	now := time.Now()
	id := Ident(i)
	return dlq.Letter{
		Identity: id, Lane: fetchworker.LaneInteractive, Generation: 1, Class: class,
		Body:        []byte(`{"id":"` + id.ID + `","params":{"symbol":"AAPL"},"reply_to":"fetch.reply.alice.x"}`),
		RequestedAt: now, FailedAt: now, NotBefore: now,
	}
}

// FailedOnce is a letter whose first call has just failed.
func FailedOnce(i int) dlq.Letter {
	l := Fresh(i, wire.ClassTransient)
	l.Calls, l.Failures, l.Error, l.HTTPStatus = 1, 1, "HTTP 503", 503
	l.FirstFailedAt = l.FailedAt
	l.NotBefore = l.FailedAt.Add(dlq.Wait(RetryBase, time.Hour, 1))
	return l
}

// Crowd stores many letters of another agent, quickly.
func (f *Fleet) Crowd(n int, edit func(*dlq.Letter)) {
	f.T.Helper()
	acks := make([]jetstream.PubAckFuture, 0, 500)
	for i := range n {
		l := FailedOnce(i)
		l.Agent = "crowd"
		edit(&l)
		ack, err := f.JS.PublishMsgAsync(l.DeadLetter())
		if err != nil {
			f.T.Fatal(err)
		}
		if acks = append(acks, ack); len(acks) < cap(acks) && i < n-1 {
			continue
		}
		for _, ack := range acks {
			select {
			case <-ack.Ok():
			case err := <-ack.Err():
				f.T.Fatal(err)
			}
		}
		acks = acks[:0]
	}
}

// Request publishes one as agents do, of the operation quote and the agent alice.
func (f *Fleet) Request(provider string, lane fetchworker.Lane, body string, options ...jetstream.PublishOpt) fetchworker.Identity {
	f.T.Helper()
	ack, err := f.JS.Publish(f.Ctx, fetchworker.RequestSubject(provider, lane, "quote", "alice"), []byte(body), options...)
	if err != nil {
		f.T.Fatal(err)
	}
	m, err := f.Log.Next(f.Ctx, fetchworker.StreamRequests, "fetch.request.>", ack.Sequence)
	if err != nil {
		f.T.Fatal(err)
	}
	r, _ := fetchworker.DecodeRequest([]byte(body))
	id := fetchworker.Identity{Provider: provider, Operation: "quote", Agent: "alice"}
	id.ID = wire.ResolveID(r.ID, m.Header.Get(jetstream.MsgIDHeader), m.Sequence, m.Time)
	f.Accepted = append(f.Accepted, id)
	return id
}
