package operate_test

import (
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/operate"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// A write whose word is lost is sent again, and where what it stored has been
// worked off meanwhile it is stored once more. What a person has decided by then
// stands all the same: no item comes back, and no request is begun or ended twice.
func TestAWriteThatIsSentAgainUndoesNoDecision(t *testing.T) {
	for name, c := range map[string]struct {
		lost    string // the word of this write
		requeue bool
		works   bool // a worker answers the new life
	}{
		"its item, discarded":                {lost: "fetch.review."},
		"its item, at work again":            {lost: "fetch.review.", requeue: true},
		"its item, answered by a new life":   {lost: "fetch.review.", requeue: true, works: true},
		"its letter, discarded":              {lost: "fetch.dlq."},
		"its letter, at work again":          {lost: "fetch.dlq.", requeue: true},
		"its letter, answered by a new life": {lost: "fetch.dlq.", requeue: true, works: true},
	} {
		t.Run(name, func(t *testing.T) {
			dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
				f.Serve("fmp")
				if c.works {
					f.Worker("fmp", f.Succeed)
				}
				w := &brokertest.Wire{}
				js, end := f.Through(t, w)
				defer end()
				w.Break(c.lost, brokertest.ReplyLost, 1, 0)
				stop := f.Start(nil, func(jetstream.JetStream, *record.Log) dlqtest.Daemon {
					return dlq.NewReplayer(js, record.New(js, nil), f.Board, dlq.Config{
						Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer,
						Retries: dlqtest.Retries, MaxLife: f.MaxLife, Logger: f.Logger(),
					}).Run
				})
				defer stop()
				l := dlqtest.Fresh(1, wire.ClassPermanent)
				l.Calls = 1
				f.Accepted = append(f.Accepted, l.Identity)
				f.Running.Go(func() {
					if err := dlq.Put(f.Ctx, record.New(js, nil), l); err != nil {
						t.Error(err)
					}
				})
				began := time.Now()
				var item []browse.Found
				f.Eventually(200*time.Millisecond, "it is in review", func() bool {
					b := browse.New(f.NC)
					edge, err := b.Edge(f.Ctx, wire.StreamReview)
					if err != nil {
						t.Fatal(err)
					}
					for found, err := range b.Walk(f.Ctx, wire.StreamReview, browse.Filter{}, edge) {
						if err != nil {
							t.Fatal(err)
						}
						item = append(item, found)
					}
					return len(item) > 0
				})
				o := operate.NewOperator(f.JS, record.New(f.JS, nil), operate.Signature{By: "ann", Reason: "a test"})
				var fate operate.Fate
				var err error
				if c.requeue {
					fate, err = o.Requeue(f.Ctx, item[0], operate.RequeueOptions{})
				} else {
					fate, err = o.Discard(f.Ctx, item[0])
				}
				if took := time.Since(began); fate != operate.FateDone || err != nil || took >= 250*time.Millisecond {
					t.Fatalf("%s, %v after %v: the write is sent again by then", fate, err, took)
				}
				time.Sleep(10 * time.Second)
				if w.Met() != 1 {
					t.Fatal("no word was lost")
				}
				if n := f.Count(wire.StreamReview, ">"); n != 0 {
					t.Errorf("%d items are back", n)
				}
				if n := f.Count(wire.StreamDLQ, ">"); n != 0 {
					t.Errorf("%d letters are left", n)
				}
				want := 0
				if c.requeue && !c.works {
					want = 1
				}
				if n := f.Count(wire.StreamReplay, "fetch.replay.>"); n != want {
					t.Errorf("%d are at work, want %d", n, want)
				}
				a, _ := f.Answer(l.Identity)
				switch {
				case c.works && a.Status != fetchworker.StatusOK, !c.requeue && (a.Problem == nil || a.Problem.Code() != fetchworker.CodeDiscarded):
					t.Errorf("its end is %s", dlqtest.Describe(a))
				}
			})
		})
	}
}
