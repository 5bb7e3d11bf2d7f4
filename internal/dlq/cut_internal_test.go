package dlq

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// Whatever step of what a replayer does the server does not hear, it is an error,
// and the letter stays where it was; and done again, it is done.
func TestAStepThatNobodyHearsIsAnError(t *testing.T) {
	const (
		ack       = "$JS.ACK."
		answers   = "DIRECT.GET.FETCH_RESULTS"
		letters   = "DIRECT.GET.FETCH_DLQ"
		releases  = "DIRECT.GET.FETCH_REPLAY"
		requests  = "DIRECT.GET.FETCH_REQUESTS"
		items     = "DIRECT.GET.FETCH_REVIEW"
		consumers = "CONSUMER.INFO.FETCH_REPLAY"
		streams   = "STREAM.INFO.FETCH_REPLAY"
		deletes   = "MSG.DELETE."
	)
	later := func(l *Letter) { l.NotBefore = l.NotBefore.Add(time.Hour) }
	spends := func(l *Letter) { l.Failures = 4 }
	// stands stores an answer of the request's before.
	stands := func(ctx context.Context, r *Replayer, l Letter) {
		a := l.Answer(fetchworker.StatusOK)
		a.Final, a.Body = true, []byte(`[1]`)
		if _, _, err := r.answers.Put(ctx, a, ""); err != nil {
			panic(err)
		}
	}
	open := circuit.Circuit{State: circuit.Open, OpenUntil: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)}
	acts := func(do func(r *Replayer, ctx context.Context, l *held) (time.Duration, error)) func(*Replayer, context.Context, *held) error {
		return func(r *Replayer, ctx context.Context, l *held) error { _, err := do(r, ctx, l); return err }
	}
	waits := func(l *Letter) { l.Provider, l.Class = "away", wire.ClassCircuitOpen }
	probes := func(r *Replayer, ctx context.Context, _ *held) error {
		due := open
		due.OpenUntil = time.Now()
		_, err := r.probe(ctx, "away", "", due)
		return err
	}
	for _, c := range []struct {
		name   string
		cut    []string
		edit   func(*Letter)
		before func(context.Context, *Replayer, Letter)
		do     func(*Replayer, context.Context, *held) error
		stays  bool // the letter, also where all is well
	}{
		{name: "a release", cut: []string{consumers, "fetch.replay.", ack}, do: acts((*Replayer).release)},
		{name: "a deadline", cut: []string{"fetch.put.", ack}, do: acts((*Replayer).expire)},
		{name: "a cancelled request", cut: []string{"fetch.put.", ack}, do: acts((*Replayer).end)},
		{name: "a provider given up", cut: []string{consumers, "fetch.put.", ack}, edit: func(l *Letter) { l.Provider = "gone" }, do: acts((*Replayer).refuse)},
		{
			name: "a person's, of a provider given up", cut: []string{consumers, "fetch.review.", ack},
			edit: func(l *Letter) { l.Provider, l.Generation = "gone", 2 }, do: acts((*Replayer).refuse),
		},
		{name: "who waits", cut: []string{answers, "fetch.put."}, edit: func(l *Letter) { l.Provider, l.Class = "paused", wire.ClassPaused }, do: acts((*Replayer).tell), stays: true},
		{name: "who waits, and is answered", cut: []string{answers, ack}, edit: func(l *Letter) { l.Provider, l.Class = "paused", wire.ClassPaused }, before: stands, do: acts((*Replayer).tell)},
		{name: "a spent letter", cut: []string{answers, "fetch.review.", "fetch.put.", letters, "fetch.event.", ack}, edit: spends, do: acts((*Replayer).exhaust)},
		{name: "a spent letter that is answered", cut: []string{answers, items, deletes, ack}, edit: spends, before: func(ctx context.Context, r *Replayer, l Letter) {
			stands(ctx, r, l)
			if _, err := r.log.Put(ctx, l.ReviewSlot(), l.ReviewItem()); err != nil {
				panic(err)
			}
		}, do: acts((*Replayer).exhaust)},
		{name: "a probe", cut: []string{releases, requests, letters, "fetch.replay."}, edit: waits, do: probes},
		{name: "a probe that is not taken out", cut: []string{deletes}, edit: waits, do: probes, stays: true}, // it is at work

		{name: "cancelled letters", cut: []string{letters}, edit: later, do: func(r *Replayer, ctx context.Context, l *held) error {
			return r.cancelLetters(ctx, l.Provider, l.Agent)
		}, stays: true},
		{name: "a cancelled letter that is read", cut: []string{"fetch.put.", deletes}, do: func(r *Replayer, ctx context.Context, l *held) error {
			return r.cancelStored(ctx, l.Letter, record.Raw{Sequence: l.sequence})
		}},
		{name: "how much room there is", cut: []string{consumers}, edit: later, do: func(r *Replayer, ctx context.Context, l *held) error {
			_, err := r.rooms.left(ctx, l.Provider)
			return err
		}, stays: true},
		{name: "how much room there is at rest", cut: []string{consumers, streams}, edit: func(l *Letter) { l.Provider = "gone" }, do: func(r *Replayer, ctx context.Context, l *held) error {
			_, err := r.rooms.left(ctx, l.Provider)
			return err
		}, stays: true},
		{name: "a drain", cut: []string{consumers, letters}, do: func(r *Replayer, ctx context.Context, l *held) error {
			_, err := r.drainOne(ctx, l.Provider, &drain{place: place{next: 1}}, false)
			return err
		}},
		{name: "what a drain has read", cut: []string{consumers}, do: func(r *Replayer, ctx context.Context, l *held) error {
			m := l.DeadLetter()
			_, _, err := r.due(ctx, l.Provider, &drain{place: place{next: 1}}, []record.Raw{{Subject: m.Subject, Header: m.Header, Data: m.Data, Sequence: l.sequence, Time: l.stored}})
			return err
		}, stays: true},
		{name: "a lease", cut: []string{"DIRECT.GET.KV_", "$KV."}, edit: later, do: func(r *Replayer, ctx context.Context, _ *held) error {
			kv, err := r.js.KeyValue(ctx, wire.BucketProviders)
			if err != nil {
				return err
			}
			_, err = lease(ctx, kv, "fmp", "a", time.Now())
			return err
		}, stays: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inside(t, func(t *testing.T, b *brokertest.Broker, whole *Replayer) {
				ctx := t.Context()
				var w brokertest.Wire
				js, end := b.Through(t, &w)
				defer end()
				log := record.New(js, nil)
				ordered := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				ordered(fleet.Pause(ctx, b.KV, "paused", time.Now().Add(time.Hour), "ann", "maintenance"))
				ordered(fleet.NoteServed(ctx, b.JS, "gone"))
				ordered(fleet.Retire(ctx, b.KV, "gone", "ann", "contract ended"))
				value, err := circuit.Record{Circuit: open}.Encode()
				ordered(err)
				_, err = b.KV.Put(ctx, "circuit.away", value)
				ordered(err)
				ordered(fleet.Beat(ctx, b.JS, fleet.Worker{Name: "w2", Providers: []string{"away", "paused"}}))
				synctest.Wait()

				l := Letter{
					Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}, Lane: fetchworker.LaneBatch,
					Body: []byte(`{}`), Generation: 1, Calls: 1, Failures: 1, Class: wire.ClassTransient, Error: "HTTP 503",
					RequestedAt: time.Now(), FailedAt: time.Now(), NotBefore: time.Now(),
				}
				if c.edit != nil {
					c.edit(&l)
				}
				if c.before != nil {
					c.before(ctx, whole, l)
				}
				_, err = b.JS.PublishMsg(ctx, l.DeadLetter())
				ordered(err)
				consumer, err := js.Consumer(ctx, wire.StreamDLQ, broker.ReplayerConsumer)
				ordered(err)
				take := func() *held {
					m, err := consumer.Next(jetstream.FetchMaxWait(2 * time.Minute))
					ordered(err)
					h, err := newHeld(m)
					ordered(err)
					return h
				}
				left := func() int {
					info, err := b.JS.Stream(ctx, wire.StreamDLQ)
					ordered(err)
					return int(info.CachedInfo().State.Msgs)
				}
				h := take()
				// A replayer that knows nothing yet, each time.
				replayer := func() *Replayer {
					return NewReplayer(js, log, whole.gates.board, Config{
						Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer,
						Retries: 3, MaxLife: time.Hour, Logger: zap.NewNop(),
					})
				}
				time.Sleep(2 * settle)
				for _, part := range c.cut {
					met := w.Met()
					w.Break(part, brokertest.RequestLost, 1_000_000, 0)
					r := replayer()
					if err := c.do(r, ctx, h); err == nil {
						t.Errorf("without %s: it is done", part)
					}
					if w.Met() == met {
						t.Errorf("%s is no step of it", part)
					}
					if left() != 1 {
						t.Fatalf("without %s the letter is gone", part)
					}
					if len(r.drains.claimed) != 0 {
						t.Errorf("without %s the letter is held as being released", part)
					}
					w.Mend()
					ordered(fleet.Beat(ctx, b.JS, fleet.Worker{Name: "w2", Providers: []string{"away", "paused"}}))
					synctest.Wait()
				}
				if err := c.do(replayer(), ctx, h); err != nil {
					t.Errorf("at last: %v", err)
				}
				if stays := left() == 1; stays != c.stays {
					t.Errorf("the letter stays: %t", stays)
				}
			})
		})
	}
}
