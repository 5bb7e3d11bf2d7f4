package main

import (
	"context"
	"errors"
	"fmt"

	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/dial"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The exit codes.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitNothing = 3
)

// failure is an error with its exit code and what to do about it.
type failure struct {
	code int
	err  error
	next string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// failed, misused and nothing make failures; next says what to do.
func failed(next, format string, args ...any) error {
	return &failure{exitFailed, fmt.Errorf(format, args...), next}
}

func misused(next, format string, args ...any) error {
	return &failure{exitUsage, fmt.Errorf(format, args...), next}
}

func nothing(next, format string, args ...any) error {
	return &failure{exitNothing, fmt.Errorf(format, args...), next}
}

// exit tells an error on stderr, with what to do next, and returns its code.
func (c *cli) exit(ctx context.Context, err error) int {
	if err == nil {
		return exitDone
	}
	if errors.Is(err, errUnwell) {
		return exitFailed // it has said all
	}
	var f *failure
	if !errors.As(err, &f) {
		f = c.judge(ctx, err)
	}
	c.sayf("replayer: %v", err)
	if f.next != "" {
		c.sayf("  next: %s", f.next)
	}
	return f.code
}

// judge finds what to do about an error that does not say so itself.
func (c *cli) judge(ctx context.Context, err error) *failure {
	f := &failure{code: exitFailed, err: err}
	switch refused := c.refused.Load(); {
	case !c.started:
		f.code, f.next = exitUsage, "replayer --help lists the commands, replayer COMMAND --help shows an example of one"
	case refused != nil:
		f.next = "the server refuses these credentials (" + *refused + "): use an operator's, with --creds, --context or NATS_URL, and the inbox prefix of that user, with --inbox-prefix"
	case ctx.Err() != nil:
		f.next = "interrupted; run the same command again to go on, nothing is done twice"
	case errors.Is(err, app.ErrConfig):
		f.code, f.next = exitUsage, "correct or unset the variable"
	case errors.Is(err, dial.ErrAddress):
		f.code, f.next = exitUsage, "say where the server is with --server, --context or NATS_URL, such as nats://user:password@host:4222"
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired):
		f.next = "give an operator's credentials, with --creds, --context or NATS_URL=nats://user:password@host:4222"
	case errors.Is(err, errConnect):
		f.next = "start the server, or say where it is with --server, --context or NATS_URL"
	case errors.Is(err, broker.ErrServerTooOld):
		f.next = "update the server, or name another one with --server"
	case errors.Is(err, jetstream.ErrBucketNotFound), errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		f.next = "the server has no fetchworker streams: is this the right server and account? A worker, or replayer run with an admin's credentials, makes them"
	case errors.Is(err, store.ErrConflict):
		f.next = "others write the same key all the time: run it again"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		f.next = "the server did not answer in time; run the same command again, nothing is done twice"
	default:
		f.next = "run the same command again, nothing is done twice; replayer status shows what the fleet does"
	}
	return f
}

var errConnect = errors.New("no connection")
