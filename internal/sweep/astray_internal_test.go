package sweep

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// swept is a sweeper of which a test takes the steps one by one.
type swept struct {
	*Sweeper
	t     *testing.T
	b     *brokertest.Broker
	nc    *nats.Conn
	lines *brokertest.Wire
}

func sweeping(t *testing.T, test func(t *testing.T, s *swept)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := &swept{t: t, b: brokertest.StartIn(t, dir, ""), lines: &brokertest.Wire{}}
		defer s.b.Stop()
		s.b.Ageless(t)
		s.nc = s.b.ConnectThrough(t, s.lines)
		defer s.nc.Close()
		js, err := broker.JetStream(s.nc)
		if err != nil {
			t.Fatal(err)
		}
		board, err := fleet.Watch(t.Context(), s.b.JS, s.b.KV)
		if err != nil {
			t.Fatal(err)
		}
		defer board.Close()
		s.Sweeper = New(js, record.New(js, nil), board, Config{
			Known: func(string) bool { return false }, MaxLife: time.Hour, Backlog: 1, Logger: zap.NewNop(),
		})
		test(t, s)
	})
}

// ask publishes something to one of the queues, and is what lies there.
func (s *swept) ask(stream, subject, body string) record.Raw {
	s.t.Helper()
	ack, err := s.b.JS.Publish(s.t.Context(), subject, []byte(body))
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := record.New(s.b.JS, nil).Next(s.t.Context(), stream, ">", ack.Sequence)
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

func (s *swept) look(name string) jetstream.Stream {
	s.t.Helper()
	stream, err := s.b.JS.Stream(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	return stream
}

// released is a letter on its way back to work.
func released(generation int) dlq.Letter {
	now := time.Now()
	return dlq.Letter{
		Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "released"}, Lane: fetchworker.LaneBatch,
		Generation: generation, Class: wire.ClassTransient, Body: []byte(`{"id":"released"}`), RequestedAt: now, FailedAt: now, NotBefore: now,
	}
}

// Whatever a step of a sweep could not read or write, it says so, and looks at all
// of it again: what is taken for seen is never found.
func TestNoStepOfASweepThatFailedCountsAsMade(t *testing.T) {
	sweeping(t, func(t *testing.T, s *swept) {
		ctx := t.Context()
		one := s.ask(fetchworker.StreamRequests, "fetch.request.nobody.batch.quote.alice", `{"id":"a"}`)
		for _, id := range []string{"b", "c"} {
			s.ask(fetchworker.StreamRequests, "fetch.request.nobody.batch.quote.alice", `{"id":"`+id+`"}`)
		}
		stray := s.ask(fetchworker.StreamRequests, "fetch.request.nobody.batch.QU\x7fTE.alice", `{}`)
		back, err := s.b.JS.PublishMsg(ctx, released(2).Replayed())
		if err != nil {
			t.Fatal(err)
		}
		again, err := record.New(s.b.JS, nil).Next(ctx, wire.StreamReplay, ">", back.Sequence)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		requests, replayed := s.look(fetchworker.StreamRequests), s.look(wire.StreamReplay)
		nobody := map[string]bool{}
		letter, err := queued(one)
		if err != nil {
			t.Fatal(err)
		}
		unwanted := func() []*refused {
			return []*refused{{subject: one.Subject, code: fetchworker.CodeUnknownProvider, left: 3, next: 1}}
		}
		s.nc.Close()
		for name, step := range map[string]func() error{
			"a pass":                      func() error { return s.pass(ctx) },
			"a stream":                    func() error { _, err := s.stream(ctx, fetchworker.StreamRequests); return err },
			"who is served":               func() error { _, err := s.served(ctx); return err },
			"what is too much":            func() error { return s.backlog(ctx, requests) },
			"the newest":                  func() error { return s.beyond(ctx, "fetch.request.>", 1, "") },
			"what nobody serves":          func() error { return s.unserved(ctx, requests, nobody) },
			"what nobody serves, of back": func() error { return s.unservedReplay(ctx, replayed, nobody) },
			"the old":                     func() error { return s.expireRequests(ctx, requests.CachedInfo().State) },
			"the old, of what is back":    func() error { return s.expireReplayed(ctx, replayed.CachedInfo().State) },
			"whose workers are gone": func() error {
				return s.absent(ctx, fetchworker.StreamRequests, "fetch.request.", requests.CachedInfo().State, map[string]bool{"nobody": true})
			},
			"one is told":        func() error { return s.tellAbsence(ctx, one) },
			"one is buried":      func() error { return s.bury(ctx, one) },
			"a stray is buried":  func() error { return s.bury(ctx, stray) },
			"one goes to review": func() error { return s.toReview(ctx, one, letter, wire.ClassExpired, "", "") },
			"one is refused":     func() error { return s.refuse(ctx, one, fetchworker.CodeUnknownProvider, "") },
			"a person's is":      func() error { return s.refuse(ctx, again, fetchworker.CodeUnknownProvider, "") },
			"a stray is refused": func() error { return s.refuse(ctx, stray, fetchworker.CodeUnknownProvider, "") },
			"all are refused":    func() error { return s.refuseAll(ctx, fetchworker.StreamRequests, unwanted()) },
			"all strays go": func() error {
				return s.dropAll(ctx, fetchworker.StreamRequests, map[string]uint64{"fetch.request.>": 1})
			},
			"one stray goes": func() error { return s.drop(ctx, fetchworker.StreamRequests, stray) },
			"the hidden go":  func() error { return s.dropHidden(ctx) },
			"each": func() error {
				_, err := s.each(ctx, fetchworker.StreamRequests, ">", 1, everything, func(context.Context, record.Raw) error { return nil })
				return err
			},
		} {
			if err := step(); err == nil {
				t.Errorf("%s: what failed is not told", name)
			}
		}
		if s.clean.messages != 0 || s.scanned != 0 || len(s.told) > 0 || !s.listed.IsZero() || !s.whole.IsZero() || s.empty(ctx) {
			t.Errorf("something counts as seen: %+v", s.Sweeper)
		}
	})
}

// What is in the way of one message of a sweep is in that of no other, and is told.
func TestWhatASweepCannotReadIsLeftForTheNext(t *testing.T) {
	for name, c := range map[string]struct {
		lost string // the part of the subject, of what the server never hears
		step func(ctx context.Context, s *swept) error
	}{
		"where the newest begin": {"DIRECT.GET." + fetchworker.StreamRequests, func(ctx context.Context, s *swept) error { return s.beyond(ctx, "fetch.request.>", 1, "") }},
		"all that are refused": {"DIRECT.GET." + fetchworker.StreamRequests, func(ctx context.Context, s *swept) error {
			return s.refuseAll(ctx, fetchworker.StreamRequests, []*refused{{subject: "fetch.request.>", left: 2, next: 1}})
		}},
		"that one is answered": {"fetch.put.", func(ctx context.Context, s *swept) error {
			return s.refuseAll(ctx, fetchworker.StreamRequests, []*refused{{subject: "fetch.request.>", code: fetchworker.CodeUnknownProvider, left: 2, next: 1}})
		}},
		"that one is too much": {"fetch.put.", func(ctx context.Context, s *swept) error { return s.beyond(ctx, "fetch.request.>", 1, "") }},
		"that one is old": {"fetch.dlq.", func(ctx context.Context, s *swept) error {
			return s.expireRequests(ctx, s.look(fetchworker.StreamRequests).CachedInfo().State)
		}},
		"what is hidden": {"DIRECT.GET." + fetchworker.StreamRequests, func(ctx context.Context, s *swept) error { return s.dropHidden(ctx) }},
	} {
		t.Run(name, func(t *testing.T) {
			sweeping(t, func(t *testing.T, s *swept) {
				for _, id := range []string{"a", "b"} {
					s.ask(fetchworker.StreamRequests, "fetch.request.nobody.batch.quote.alice", `{"id":"`+id+`"}`)
				}
				time.Sleep(2 * time.Hour)
				s.lines.Break(c.lost, brokertest.RequestLost, 1<<20, 0)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := c.step(ctx, s); err == nil {
					t.Error("it is not told")
				}
				if n := s.look(fetchworker.StreamRequests).CachedInfo().State.Msgs; n != 2 {
					t.Errorf("%d of 2 are left", n)
				}
			})
		})
	}
}

// A request that has lived its whole life says so to the person who reads it: when
// that was, of what kind, and why.
func TestWhatHasLivedItsLifeSaysSo(t *testing.T) {
	sweeping(t, func(t *testing.T, s *swept) {
		raw := s.ask(fetchworker.StreamRequests, "fetch.request.nobody.batch.quote.alice", `{"id":"a"}`)
		time.Sleep(2 * time.Hour)
		now := time.Now()
		if err := s.bury(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
		letter, err := s.log.Last(t.Context(), wire.StreamDLQ, "fetch.dlq.nobody.batch.quote.alice.a")
		if err != nil {
			t.Fatal(err)
		}
		l, err := dlq.Decode(letter.Subject, letter.Header, letter.Data)
		const why = "the request reached its maximum life of 1h0m0s"
		if err != nil || l.Class != wire.ClassExpired || l.Error != why || !l.FailedAt.Equal(now) || !l.NotBefore.Equal(now) || !l.RequestedAt.Equal(raw.Time) {
			t.Errorf("%+v, %v", l, err)
		}
		if h := l.History; len(h) != 1 || !h[0].At.Equal(now) || h[0].Class != wire.ClassExpired || h[0].Error != why {
			t.Errorf("its history is %+v", l.History)
		}
		if n := s.look(fetchworker.StreamRequests).CachedInfo().State.Msgs; n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// A filter finds a stray by what of its subject can be said in one.
func TestAFilterFindsAStray(t *testing.T) {
	long := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = 'x'
		}
		return string(b)
	}
	for subject, want := range map[string]string{
		"fetch.request.fmp.batch.3.quote.alice":                 "fetch.request.fmp.batch.3.quote.alice",
		"fetch.request.a\tb.batch.3.quote.alice":                "fetch.request.*.batch.3.quote.alice",
		"fetch.request.fmp.batch.3.\x7f.alice":                  "fetch.request.fmp.batch.3.*.alice",
		"fetch.request.fmp.batch.3.~.alice":                     "fetch.request.fmp.batch.3.~.alice",
		"fetch.request.fmp.batch.3.!.é":                         "fetch.request.fmp.batch.3.!.*",
		"fetch.request.fmp.batch.3." + long(64) + ".alice":      "fetch.request.fmp.batch.3." + long(64) + ".alice",
		"fetch.request.fmp.batch.3." + long(65) + ".\x01.alice": "fetch.request.fmp.batch.3.*.*.alice",
	} {
		if got := around(subject); got != want {
			t.Errorf("%q is found by %q, want %q", subject, got, want)
		}
	}
}
