package fetchworker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/nats-io/nats.go"
)

// refusals are those who publish on a connection and would be told that the
// server refuses it. It says so beside the request, which would wait in vain, in
// words that name the subject.
type refusals struct {
	mu      sync.Mutex
	waiting map[string]map[*refusable]struct{} // by subject
}

type refusable struct{ refuse context.CancelCauseFunc }

// listening are the connections whose refusals are heard. One that is gone is
// none of them any more.
var listening = struct {
	sync.Mutex
	to map[weak.Pointer[nats.Conn]]*refusals
}{to: map[weak.Pointer[nats.Conn]]*refusals{}}

// refusalsOf listens to the errors of a connection, once for all its clients.
// Whoever listened to them before goes on doing so.
func refusalsOf(nc *nats.Conn) *refusals {
	key := weak.Make(nc)
	listening.Lock()
	defer listening.Unlock()
	if r := listening.to[key]; r != nil {
		return r
	}
	r := &refusals{waiting: map[string]map[*refusable]struct{}{}}
	listening.to[key] = r
	runtime.AddCleanup(nc, func(key weak.Pointer[nats.Conn]) {
		listening.Lock()
		defer listening.Unlock()
		delete(listening.to, key)
	}, key)
	before := nc.ErrorHandler()
	nc.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		r.heard(err)
		if before != nil {
			before(nc, sub, err)
		}
	})
	return r
}

// heard tells a refusal to those who publish to its subject.
func (r *refusals) heard(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for one := range r.waiting[refusedSubject(err)] {
		one.refuse(notPermitted(err))
	}
}

// refusedSubject is the subject that a refusal names.
func refusedSubject(err error) string {
	_, rest, _ := strings.Cut(err.Error(), `"`)
	subject, _, _ := strings.Cut(rest, `"`)
	return subject
}

func notPermitted(err error) error { return fmt.Errorf("%w: %w", ErrNotPermitted, err) }

func (r *refusals) add(subject string, one *refusable) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting[subject] == nil {
		r.waiting[subject] = map[*refusable]struct{}{}
	}
	r.waiting[subject][one] = struct{}{}
}

func (r *refusals) remove(subject string, one *refusable) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if delete(r.waiting[subject], one); len(r.waiting[subject]) == 0 {
		delete(r.waiting, subject)
	}
}

// refusedAfter is how soon the last refusal of a connection is looked at, for a
// program that listens to its errors instead of us. It remembers no more than
// one.
const refusedAfter = 100 * time.Millisecond

// publishing is the context of what is published to a subject: it ends after so
// long, or with ErrNotPermitted when the server refuses it.
func publishing(parent context.Context, nc *nats.Conn, subject string, within time.Duration) (context.Context, context.CancelFunc) {
	lasting, end := context.WithTimeout(parent, within)
	ctx, refuse := context.WithCancelCause(lasting)
	one, all := &refusable{refuse}, refusalsOf(nc)
	before := nc.LastError()
	all.add(subject, one)
	var look *time.Timer
	made := make(chan struct{}) // it may fire before it is known here
	look = time.AfterFunc(refusedAfter, func() {
		<-made
		err := nc.LastError()
		if err != nil && err != before && errors.Is(err, nats.ErrPermissionViolation) && refusedSubject(err) == subject { //nolint:errorlint // the very same value
			refuse(notPermitted(err))
			return
		}
		if ctx.Err() == nil {
			look.Reset(2 * refusedAfter)
		}
	})
	close(made)
	return ctx, func() {
		all.remove(subject, one)
		end()
		look.Stop()
	}
}
