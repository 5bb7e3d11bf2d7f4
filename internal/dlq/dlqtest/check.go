// Package dlqtest checks, over the streams themselves, what fetchworker
// promises: each accepted request has exactly one end, or still waits
// somewhere; no final answer ever changes; nothing is retried too often; what
// a failed answer says went to review is there.
package dlqtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Recorder sees every answer that is stored, as a live subscriber does, and
// fails the test on one that may not follow the one before.
type Recorder struct {
	t   testing.TB
	sub *nats.Subscription

	mu   sync.Mutex
	seen map[string][]fetchworker.Answer // by identity, in the order stored
	last uint64                          // sequence
}

// Record starts a recorder. Stop it before its connection closes.
func Record(t testing.TB, nc *nats.Conn) *Recorder {
	t.Helper()
	r := &Recorder{t: t, seen: map[string][]fetchworker.Answer{}}
	var err error
	if r.sub, err = nc.Subscribe("fetch.result.>", r.see); err != nil {
		t.Fatal(err)
	}
	// Not Flush: its timers come from a pool that all bubbles share.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := nc.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	return r
}

// Stop ends the recording.
func (r *Recorder) Stop() { _ = r.sub.Unsubscribe() }

// Answers are all that were stored for a request, in order.
func (r *Recorder) Answers(id fetchworker.Identity) []fetchworker.Answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen[id.String()])
}

func (r *Recorder) see(m *nats.Msg) {
	next, err := fetchworker.DecodeAnswer(m.Subject, m.Header, m.Data)
	if err != nil {
		r.t.Errorf("answer on %s: %v", m.Subject, err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	sequence, _ := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	if sequence <= r.last {
		return // a live copy that came twice
	}
	r.last = sequence
	key := next.Identity.String()
	if before := r.seen[key]; len(before) > 0 {
		if last := before[len(before)-1]; !record.AnswerReplaces(last, next) {
			r.t.Errorf("%s: %s was replaced by %s", key, Describe(last), Describe(next))
		}
		if next.Status == fetchworker.StatusOK && slices.ContainsFunc(before, func(a fetchworker.Answer) bool { return a.Status == fetchworker.StatusOK }) {
			r.t.Errorf("%s: a second ok", key)
		}
	}
	r.seen[key] = append(r.seen[key], next)
}

// Describe is an answer in a few words.
func Describe(a fetchworker.Answer) string {
	s := fmt.Sprintf("%s (generation %d, calls %d, failures %d", a.Status, a.Generation, a.Calls, a.Failures)
	if a.Problem != nil {
		s += ", " + a.Problem.Error()
	}
	if a.Final {
		s += ", final"
	}
	if a.Review {
		s += ", in review"
	}
	return s + ")"
}

// Check is what must hold of all streams together at a moment when nothing
// moves.
type Check struct {
	Accepted []fetchworker.Identity // every request whose receipt the test has
	Retries  int                    // a request may fail this often, and once more
	Empty    bool                   // and nothing waits any more: each has its final answer
}

// Run reads the streams and reports everything that is wrong.
func (c Check) Run(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	w, err := read(t.Context(), record.New(js, nil))
	if err != nil {
		t.Fatal(err)
	}
	accepted := map[string]bool{}
	for _, id := range c.Accepted {
		key := id.String()
		accepted[key] = true
		answer, answered := w.answers[key]
		places := w.waits[key]
		final := answered && answer.Final
		// A requeue is at work on a request that has a final answer, in review.
		switch {
		case !final && len(places) == 0:
			t.Errorf("%s is lost: it has no final answer and waits nowhere", key)
		case c.Empty && !final:
			t.Errorf("%s has no final answer; it waits in %s", key, strings.Join(places, ", "))
		case c.Empty && len(places) > 0:
			t.Errorf("%s still waits in %s", key, strings.Join(places, ", "))
		}
	}
	for key, answer := range w.answers {
		if !accepted[key] {
			t.Errorf("%s has an answer, and nobody asked", key)
		}
		if answer.Failures > c.Retries+1 {
			t.Errorf("%s failed %d times, %d are allowed", key, answer.Failures, c.Retries+1)
		}
		if _, item := w.reviews[key]; answer.Review && !item && len(w.waits[key]) == 0 {
			t.Errorf("%s is said to be in review, and is not", key)
		}
	}
	for key := range w.waits {
		if !accepted[key] {
			t.Errorf("%s waits, and nobody asked", key)
		}
	}
	for key, item := range w.reviews {
		answer, answered := w.answers[key]
		if len(w.waits[key]) == 0 && (!answered || !answer.Review || answer.Generation != item.Generation) {
			t.Errorf("%s is in review, and its answer does not say so: %s", key, Describe(answer))
		}
	}
	for _, l := range w.letters {
		if l.Failures > c.Retries+1 {
			t.Errorf("%s failed %d times, %d are allowed", l.Identity, l.Failures, c.Retries+1)
		}
	}
}

// world is all that is stored, by identity.
type world struct {
	answers map[string]fetchworker.Answer
	reviews map[string]dlq.Letter
	waits   map[string][]string // the streams it waits in
	letters []dlq.Letter        // waiting, released and in review
}

func read(ctx context.Context, log *record.Log) (world, error) {
	w := world{answers: map[string]fetchworker.Answer{}, reviews: map[string]dlq.Letter{}, waits: map[string][]string{}}
	var failed []error
	note := func(err error) {
		if err != nil {
			failed = append(failed, err)
		}
	}
	// Along the flow of work, and once around its loop: what moves meanwhile is
	// then met where it came from or where it went, if not in both.
	note(each(ctx, log, fetchworker.StreamRequests, "fetch.request.>", func(m record.Raw) error {
		address, err := wire.ParseSubject(m.Subject)
		r, _ := fetchworker.DecodeRequest(m.Data)
		id := address.Identity
		id.ID = wire.ResolveID(r.ID, m.Header.Get(jetstream.MsgIDHeader), m.Sequence, m.Time)
		w.waits[id.String()] = append(w.waits[id.String()], fetchworker.StreamRequests)
		return err
	}))
	letter := func(stream string) func(record.Raw) error {
		return func(m record.Raw) error {
			l, err := dlq.Decode(m.Subject, m.Header, m.Data)
			key := l.String()
			w.letters = append(w.letters, l)
			if stream == wire.StreamReview {
				w.reviews[key] = l
			} else {
				w.waits[key] = append(w.waits[key], stream)
			}
			return err
		}
	}
	note(each(ctx, log, wire.StreamDLQ, "fetch.dlq.>", letter(wire.StreamDLQ)))
	note(each(ctx, log, wire.StreamReplay, "fetch.replay.>", letter(wire.StreamReplay)))
	note(each(ctx, log, wire.StreamDLQ, "fetch.dlq.>", letter(wire.StreamDLQ)))
	note(each(ctx, log, wire.StreamReview, "fetch.review.>", letter(wire.StreamReview)))
	note(each(ctx, log, fetchworker.StreamResults, "fetch.result.>", func(m record.Raw) error {
		a, err := fetchworker.DecodeAnswer(m.Subject, m.Header, m.Data)
		w.answers[a.Identity.String()] = a
		return err
	}))
	return w, errors.Join(failed...)
}

func each(ctx context.Context, log *record.Log, stream, filter string, do func(record.Raw) error) error {
	var failed []error
	for next := uint64(1); ; {
		m, err := log.Next(ctx, stream, filter, next)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return errors.Join(failed...)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		if err := do(m); err != nil {
			failed = append(failed, err)
		}
		next = m.Sequence + 1
	}
}
