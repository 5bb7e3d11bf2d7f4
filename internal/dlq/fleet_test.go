package dlq_test

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
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

const (
	retries   = 3
	retryBase = time.Second
)

// fleet is a real server with any number of replayers, sweepers and stand-ins
// for workers, in a bubble whose clock jumps when all of them wait.
type fleet struct {
	*brokertest.Broker
	t        *testing.T
	ctx      context.Context
	log      *record.Log
	board    *budget.Board
	recorder *dlqtest.Recorder
	leave    func() // the worker that served fmp goes
	running  sync.WaitGroup
	accepted []fetchworker.Identity
	maxLife  time.Duration
}

// bubble runs a test with a fleet, and checks at its end that every request
// accepted has an end or still waits.
func bubble(t *testing.T, test func(f *fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.Start(t)
		defer b.Stop()
		ctx, stop := context.WithCancel(t.Context())
		f := &fleet{Broker: b, t: t, ctx: ctx, log: record.New(b.JS, nil), maxLife: 72 * time.Hour}
		var err error
		if f.board, err = budget.Watch(ctx, b.JS, b.KV); err != nil {
			t.Fatal(err)
		}
		defer f.board.Close()
		f.recorder = dlqtest.Record(t, b.NC)
		defer f.recorder.Stop()
		defer f.running.Wait()
		defer stop()
		test(f)
		if !t.Failed() && f.accepted != nil {
			f.check(dlqtest.Check{})
		}
	})
}

func (f *fleet) check(c dlqtest.Check) {
	f.t.Helper()
	c.Accepted, c.Retries = f.accepted, retries
	c.Run(f.t, f.JS)
}

func (f *fleet) logger() *zap.Logger {
	if testing.Verbose() {
		return zaptest.NewLogger(f.t, zaptest.Level(zap.InfoLevel))
	}
	return zap.NewNop()
}

// replayer starts one on a connection of its own and returns what stops it.
func (f *fleet) replayer(hook func(*nats.Conn) record.Hook) (stop func()) {
	f.t.Helper()
	return f.start(hook, func(js jetstream.JetStream, log *record.Log) daemon {
		return dlq.NewReplayer(js, log, f.board, dlq.Config{
			Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer,
			Retries: retries, MaxLife: f.maxLife, Logger: f.logger(),
		}).Run
	})
}

// sweeper is the same for a sweeper that knows newsapi by name.
func (f *fleet) sweeper(hook func(*nats.Conn) record.Hook) (stop func()) {
	f.t.Helper()
	return f.start(hook, func(js jetstream.JetStream, log *record.Log) daemon {
		return dlq.NewSweeper(js, log, f.board, dlq.SweeperConfig{
			Served: broker.ServedProvider, Known: func(provider string) bool { return provider == "newsapi" },
			MaxLife: f.maxLife, Logger: f.logger(),
		}).Run
	})
}

// daemon runs until its context ends.
type daemon func(context.Context) error

func (f *fleet) start(hook func(*nats.Conn) record.Hook, build func(jetstream.JetStream, *record.Log) daemon) (stop func()) {
	f.t.Helper()
	nc := f.Connect(f.t)
	js, err := broker.JetStream(nc)
	if err != nil {
		f.t.Fatal(err)
	}
	var h record.Hook
	if hook != nil {
		h = hook(nc)
	}
	run := build(js, record.New(js, h))
	ctx, cancel := context.WithCancel(f.ctx)
	var done sync.WaitGroup
	done.Go(func() {
		if err := run(ctx); err != nil {
			f.t.Error(err)
		}
	})
	f.running.Go(func() { done.Wait(); nc.Close() })
	return func() { cancel(); done.Wait() }
}

// serve makes a provider served, by a worker that lives until the returned
// function is called.
func (f *fleet) serve(provider string) (leave func()) {
	f.t.Helper()
	// One shard is enough to be served, and a tenth of the files.
	for stream, consumers := range broker.ProviderConsumers(provider, 16) {
		if _, err := f.JS.CreateOrUpdateConsumer(f.ctx, stream, consumers[0]); err != nil {
			f.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(f.ctx)
	f.running.Go(func() {
		budget.Present(ctx, f.JS, f.KV, budget.Worker{Name: "w-" + provider, Providers: []string{provider}}, func(err error) { f.t.Log(err) })
	})
	f.lives(provider, true)
	return func() { cancel(); f.lives(provider, false) }
}

// lives waits until the board knows whether a worker lives.
func (f *fleet) lives(provider string, want bool) {
	f.t.Helper()
	f.eventually(time.Second, "the board knows of the worker", func() bool {
		return (len(f.board.View(provider, time.Now()).Workers) > 0) == want
	})
}

// worker takes released letters of a provider and does to each what a test
// says, at most held at a time.
func (f *fleet) worker(provider string, do func(l dlq.Letter) error) (stop func()) {
	f.t.Helper()
	c, err := f.JS.Consumer(f.ctx, fetchworker.StreamReplay, broker.ReplayConsumer(provider))
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.ctx)
	f.running.Go(func() {
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
					f.t.Error(err)
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

// put stores letters; a request whose letter is stored is accepted.
func (f *fleet) put(letters ...dlq.Letter) {
	f.t.Helper()
	for _, l := range letters {
		if err := dlq.Put(f.ctx, f.log, l); err != nil {
			f.t.Fatal(err)
		}
		f.accepted = append(f.accepted, l.Identity)
	}
}

// failedAgain is what a worker does after a call that failed.
func (f *fleet) failedAgain(l dlq.Letter) error {
	now := time.Now()
	l.Calls++
	l.Failures++
	l.Class, l.FailedAt, l.NotBefore = fetchworker.ClassTransient, now, now
	if l.FirstFailedAt.IsZero() {
		l.FirstFailedAt = now
	}
	if l.Failures <= retries {
		l.NotBefore = now.Add(dlq.Wait(retryBase, time.Hour, l.Failures))
	}
	return dlq.Put(f.ctx, f.log, l)
}

// parkedAgain is what a worker does with a letter that it may not call for.
func (f *fleet) parkedAgain(l dlq.Letter, class fetchworker.Class) error {
	l.Class, l.FailedAt, l.NotBefore = class, time.Now(), time.Now()
	return dlq.Put(f.ctx, f.log, l)
}

// succeed is what a worker does after a call that succeeded; it looks first,
// as a worker does with a replayed request.
func (f *fleet) succeed(l dlq.Letter) error {
	if a, ok := f.answer(l.Identity); ok && a.Final && a.Generation >= l.Generation {
		return nil
	}
	_, err := dlq.Answer(f.ctx, f.log, fetchworker.Answer{
		Identity: l.Identity, Status: fetchworker.StatusOK, Final: true, Generation: l.Generation,
		Calls: l.Calls + 1, Failures: l.Failures, Body: []byte(`{}`),
	}, "")
	return err
}

// answer is what is stored for a request.
func (f *fleet) answer(id fetchworker.Identity) (fetchworker.Answer, bool) {
	f.t.Helper()
	m, err := f.log.Get(f.ctx, dlq.AnswerSlot(id))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return fetchworker.Answer{}, false
	}
	if err != nil {
		f.t.Fatal(err)
	}
	a, err := fetchworker.DecodeAnswer(fetchworker.ResultSubject(id), m.Header, m.Data)
	if err != nil {
		f.t.Fatal(err)
	}
	return a, true
}

// count is how many messages of a stream match a subject.
func (f *fleet) count(stream, subject string) int {
	f.t.Helper()
	n, _, err := dlq.NewBrowser(f.NC).Count(f.ctx, stream, subject)
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

// circuit writes what workers share about a provider's health.
func (f *fleet) circuit(provider string, c circuit.Record) {
	f.t.Helper()
	value, err := json.Marshal(c)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.KV.Put(f.ctx, "circuit."+provider, value); err != nil {
		f.t.Fatal(err)
	}
	synctest.Wait()
}

// eventually waits until something holds, for no longer than it may take.
func (f *fleet) eventually(within time.Duration, what string, holds func() bool) time.Duration {
	f.t.Helper()
	start := time.Now()
	for time.Since(start) <= within {
		if holds() {
			return time.Since(start)
		}
		time.Sleep(min(max(within/500, 10*time.Millisecond), 250*time.Millisecond))
	}
	f.t.Fatalf("not within %v: %s", within, what)
	return 0
}

func ident(i int) fetchworker.Identity {
	return fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: fmt.Sprintf("q-%d", i)}
}

// fresh is a letter of a request that was just made and has not been called.
func fresh(i int, class fetchworker.Class) dlq.Letter {
	now := time.Now()
	id := ident(i)
	return dlq.Letter{
		Identity: id, Lane: fetchworker.LaneInteractive, Generation: 1, Class: class,
		Body:        []byte(`{"id":"` + id.ID + `","params":{"symbol":"AAPL"},"reply_to":"fetch.reply.alice.x"}`),
		RequestedAt: now, FailedAt: now, NotBefore: now,
	}
}

// failedOnce is a letter whose first call has just failed.
func failedOnce(i int) dlq.Letter {
	l := fresh(i, fetchworker.ClassTransient)
	l.Calls, l.Failures, l.Error, l.HTTPStatus = 1, 1, "HTTP 503", 503
	l.FirstFailedAt = l.FailedAt
	l.NotBefore = l.FailedAt.Add(dlq.Wait(retryBase, time.Hour, 1))
	return l
}

// crowd stores many letters of another agent, quickly.
func (f *fleet) crowd(n int, edit func(*dlq.Letter)) {
	f.t.Helper()
	acks := make([]jetstream.PubAckFuture, 0, 500)
	for i := range n {
		l := failedOnce(i)
		l.Agent = "crowd"
		edit(&l)
		ack, err := f.JS.PublishMsgAsync(l.DeadLetter())
		if err != nil {
			f.t.Fatal(err)
		}
		if acks = append(acks, ack); len(acks) < cap(acks) && i < n-1 {
			continue
		}
		for _, ack := range acks {
			select {
			case <-ack.Ok():
			case err := <-ack.Err():
				f.t.Fatal(err)
			}
		}
		acks = acks[:0]
	}
}

// request publishes one as agents do, of the operation quote and the agent alice.
func (f *fleet) request(provider string, lane fetchworker.Lane, body string, options ...jetstream.PublishOpt) fetchworker.Identity {
	f.t.Helper()
	ack, err := f.JS.Publish(f.ctx, fetchworker.RequestSubject(provider, lane, "quote", "alice"), []byte(body), options...)
	if err != nil {
		f.t.Fatal(err)
	}
	m, err := f.log.Next(f.ctx, fetchworker.StreamRequests, "fetch.request.>", ack.Sequence)
	if err != nil {
		f.t.Fatal(err)
	}
	r, _ := fetchworker.DecodeRequest([]byte(body))
	id := fetchworker.Identity{Provider: provider, Operation: "quote", Agent: "alice"}
	id.ID = fetchworker.ResolveID(r.ID, m.Header.Get(jetstream.MsgIDHeader), m.Sequence, m.Time)
	f.accepted = append(f.accepted, id)
	return id
}
