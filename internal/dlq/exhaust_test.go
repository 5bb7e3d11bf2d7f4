package dlq_test

import (
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/cancel"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// spent is a letter that has used up its retries.
func spent(i int) dlq.Letter {
	l := dlqtest.FailedOnce(i)
	l.Calls, l.Failures, l.NotBefore = 4, 4, l.FailedAt
	return l
}

// TestAnAnswerThatWinsLeavesNoItem: one that is stored between the look at what
// stands and the item, or just after it, and nobody is shown finished work.
func TestAnAnswerThatWinsLeavesNoItem(t *testing.T) {
	for name, persisted := range map[string]bool{"before the item": false, "after it": true} {
		t.Run(name, func(t *testing.T) {
			dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
				f.Serve("fmp")
				l := spent(1)
				var won atomic.Bool
				f.Replayer(func(*nats.Conn) record.Hook {
					return func(point string, after bool) error {
						if point == "review" && after == persisted && won.CompareAndSwap(false, true) {
							a := fetchworker.Answer{Identity: l.Identity, Status: fetchworker.StatusOK, Final: true, Generation: 1, Body: []byte("[1]")}
							if _, err := f.JS.PublishMsg(f.Ctx, a.Encode()); err != nil {
								t.Error(err)
							}
						}
						return nil
					}
				})
				f.Put(l)
				f.Eventually(time.Minute, "the letter is done", func() bool { return won.Load() && f.Count(wire.StreamDLQ, ">") == 0 })
				time.Sleep(5 * time.Second)
				if n := f.Count(wire.StreamReview, ">"); n != 0 {
					t.Errorf("%d items of finished work", n)
				}
				if a, ok := f.Answer(l.Identity); !ok || a.Status != fetchworker.StatusOK {
					t.Errorf("%+v", a)
				}
			})
		})
	}
}

// TestTheItemOfALaterLifeStays: a letter of an earlier one, in the hands of a
// replayer that was frozen, takes nothing from the person; nor does one whose
// id belongs to another request by now.
func TestTheItemOfALaterLifeStays(t *testing.T) {
	for name, edit := range map[string]func(*dlq.Letter){
		"a later life":    func(l *dlq.Letter) { l.Generation = 2 },
		"another request": func(l *dlq.Letter) { l.Generation, l.RequestedAt = 2, l.RequestedAt.Add(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
				f.Serve("fmp")
				later := spent(1)
				edit(&later)
				later.Class = wire.ClassPermanent
				if _, err := f.Log.Put(f.Ctx, later.ReviewSlot(), later.ReviewItem()); err != nil {
					t.Fatal(err)
				}
				a := later.Failed(fetchworker.CodeRetriesExhausted, "it failed again")
				a.Review = true
				if _, _, err := answer.New(f.Log).Put(f.Ctx, a, ""); err != nil {
					t.Fatal(err)
				}
				if err := dlq.Put(f.Ctx, f.Log, spent(1)); err != nil {
					t.Fatal(err)
				}
				f.Replayer(nil)
				f.Eventually(time.Minute, "the old letter is done", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
				if n := f.Count(wire.StreamReview, ">"); n != 1 {
					t.Errorf("%d items", n)
				}
			})
		})
	}
}

// TestSupersededMeetsWhatMoves: a later life is met wherever it is, also while
// it moves from one place to the next.
func TestSupersededMeetsWhatMoves(t *testing.T) {
	item := spent(1)
	later := spent(1)
	later.Generation, later.Failures, later.NotBefore = 2, 0, time.Time{}
	other := spent(1)
	other.Generation = 1
	settled := func(f *dlqtest.Fleet) {
		a := item.Failed(fetchworker.CodeDiscarded, "")
		if _, _, err := answer.New(f.Log).Put(f.Ctx, a, ""); err != nil {
			f.T.Fatal(err)
		}
	}
	put := func(f *dlqtest.Fleet, slot record.Slot, m *nats.Msg) {
		if _, err := f.Log.Put(f.Ctx, slot, m); err != nil {
			f.T.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		before, during func(f *dlqtest.Fleet) // during: after the first look
		want           dlq.Moved
	}{
		"nothing of it": {want: dlq.Nowhere},
		"waiting for its retry": {before: func(f *dlqtest.Fleet) {
			put(f, later.DeadLetterSlot(), later.DeadLetter())
		}, want: dlq.LaterLife},
		"sent back to work": {before: func(f *dlqtest.Fleet) {
			put(f, later.ReplaySlot(), later.Replayed())
		}, want: dlq.LaterLife},
		"answered for good": {before: settled, want: dlq.LaterLife},
		"from work to the letters": {before: func(f *dlqtest.Fleet) {
			put(f, later.ReplaySlot(), later.Replayed())
		}, during: func(f *dlqtest.Fleet) {
			put(f, later.DeadLetterSlot(), later.DeadLetter())
			s, err := f.JS.Stream(f.Ctx, wire.StreamReplay)
			if err != nil {
				f.T.Fatal(err)
			}
			if err := s.Purge(f.Ctx); err != nil {
				f.T.Fatal(err)
			}
		}, want: dlq.LaterLife},
		"another's": {before: func(f *dlqtest.Fleet) {
			tenant := other
			tenant.RequestedAt = item.RequestedAt.Add(time.Hour)
			put(f, tenant.DeadLetterSlot(), tenant.DeadLetter())
		}, want: dlq.OtherTenant},
	} {
		t.Run(name, func(t *testing.T) {
			dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
				if c.before != nil {
					c.before(f)
				}
				w := &brokertest.Wire{}
				js, end := f.Through(t, w)
				defer end()
				w.Break("DIRECT.GET", brokertest.ReplyLate, 4, time.Second)
				if c.during != nil {
					f.Running.Go(func() {
						time.Sleep(500 * time.Millisecond)
						c.during(f)
					})
				}
				if got, err := dlq.Superseded(f.Ctx, record.New(js, nil), item); err != nil || got != c.want {
					t.Errorf("%q, want %q: %v", got, c.want, err)
				}
			})
		})
	}
}

// Each end that a replayer brings about is told once, and none that another has
// told: whatever fails on the way, and whoever is faster.
func TestEachEndIsToldOnce(t *testing.T) {
	past := func() dlq.Letter {
		l := dlqtest.FailedOnce(1)
		l.NotBefore, l.Deadline = l.FailedAt.Add(time.Minute), l.FailedAt.Add(time.Second)
		return l
	}
	waits := func() dlq.Letter {
		l := dlqtest.FailedOnce(1)
		l.NotBefore = l.FailedAt.Add(time.Hour)
		return l
	}
	for name, c := range map[string]struct {
		put    func(f *dlqtest.Fleet) dlq.Letter
		rival  bool   // a worker's answer comes just before ours
		fails  string // this step, once
		told   int
		cancel bool
		detail string // what its agent reads; empty: whatever
	}{
		"past its life": {put: func(f *dlqtest.Fleet) dlq.Letter {
			l := dlqtest.FailedOnce(1)
			l.RequestedAt = l.RequestedAt.Add(-f.MaxLife)
			return l
		}, told: 1, detail: "HTTP 503"},
		"past its life, never tried": {put: func(f *dlqtest.Fleet) dlq.Letter {
			l := dlqtest.Fresh(1, wire.ClassPaused)
			l.RequestedAt = l.RequestedAt.Add(-f.MaxLife)
			return l
		}, told: 1, detail: "the request reached its maximum life of 72h0m0s"},
		"a deadline":                     {put: func(*dlqtest.Fleet) dlq.Letter { return past() }, told: 1},
		"a deadline, answered meanwhile": {put: func(*dlqtest.Fleet) dlq.Letter { return past() }, rival: true},
		"a deadline, and its ack fails":  {put: func(*dlqtest.Fleet) dlq.Letter { return past() }, fails: "ack", told: 1},
		"cancelled":                      {put: func(*dlqtest.Fleet) dlq.Letter { return waits() }, cancel: true, told: 1},
		"cancelled, answered meanwhile":  {put: func(*dlqtest.Fleet) dlq.Letter { return waits() }, cancel: true, rival: true},
		"spent":                          {put: func(*dlqtest.Fleet) dlq.Letter { return spent(1) }, told: 1},
		"spent, answered meanwhile":      {put: func(*dlqtest.Fleet) dlq.Letter { return spent(1) }, rival: true},
		"spent, and its event fails":     {put: func(*dlqtest.Fleet) dlq.Letter { return spent(1) }, fails: "event", told: 1},
		"spent, and its ack fails":       {put: func(*dlqtest.Fleet) dlq.Letter { return spent(1) }, fails: "ack", told: 1},
		"spent, and answered before":     {put: func(f *dlqtest.Fleet) dlq.Letter { finished(f, spent(1)); return spent(1) }},
		"spent, and its worker has told that": {put: func(f *dlqtest.Fleet) dlq.Letter {
			a := spent(1).Failed(fetchworker.CodeRetriesExhausted, "HTTP 503")
			a.Review = true
			if _, _, err := answer.New(f.Log).Put(f.Ctx, a, ""); err != nil {
				f.T.Fatal(err)
			}
			return spent(1)
		}},
		"given up": {put: func(f *dlqtest.Fleet) dlq.Letter {
			if err := fleet.NoteServed(f.Ctx, f.JS, "polygon"); err != nil {
				f.T.Fatal(err)
			}
			if err := fleet.Retire(f.Ctx, f.KV, "polygon", "ann", "contract ended"); err != nil {
				f.T.Fatal(err)
			}
			l := waits()
			l.Provider = "polygon"
			return l
		}, told: 1},
	} {
		t.Run(name, func(t *testing.T) {
			dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
				f.Serve("fmp")
				view, err := cancel.Watch(f.Ctx, f.JS, f.KV)
				if err != nil {
					t.Fatal(err)
				}
				defer view.Close()
				l := c.put(f)
				f.Put(l)
				if c.cancel {
					time.Sleep(time.Second)
					desk := cancel.NewDesk(view, record.New(f.JS, nil), func(string) bool { return true }, time.Hour, zap.NewNop())
					if _, err := desk.Take(f.Ctx, "fetch.cancel.fmp.alice", []byte(`{"all":true}`)); err != nil {
						t.Fatal(err)
					}
					desk.Close()
					time.Sleep(time.Second)
				}
				var told, failed, won atomic.Int32
				rivals := make(chan struct{}) // closed: the worker's answer is stored
				defer replayerWith(f, nil, func(point string, persisted bool) error {
					switch {
					case persisted:
					case point == c.fails && failed.CompareAndSwap(0, 1):
						return errCrash
					case point == "answer" && c.rival && won.CompareAndSwap(0, 1):
						finished(f, l)
						close(rivals)
					case point == "answer" && c.rival: // as a cancelled letter is met in two ways
						<-rivals
					}
					return nil
				}, func(config *dlq.Config) {
					config.Cancels = view
					config.Failed = func(of dlq.Letter) {
						if told.Add(1); of.Identity != l.Identity {
							t.Errorf("told of %s", of.Identity)
						}
					}
				})()
				f.Eventually(time.Minute, "it has its end", func() bool {
					a, ok := f.Answer(l.Identity)
					return ok && a.Final && f.Count(wire.StreamDLQ, ">") == 0
				})
				time.Sleep(5 * time.Second)
				a, _ := f.Answer(l.Identity)
				if c.told == 1 && (a.HTTPStatus != l.HTTPStatus || a.Calls != l.Calls || a.Failures != l.Failures || a.Generation != l.Generation) {
					t.Errorf("%s with HTTP %d, of a letter with %d calls, %d failures and HTTP %d", dlqtest.Describe(a), a.HTTPStatus, l.Calls, l.Failures, l.HTTPStatus)
				}
				if c.told == 1 && (a.Digest != fetchworker.RequestDigest(l.Operation, []byte(`{"symbol":"AAPL"}`)) || c.detail != "" && a.Problem.Detail != c.detail) {
					t.Errorf("%q of the request %s: %s", a.Problem.Detail, a.Digest, dlqtest.Describe(a))
				}
				if n := int(told.Load()); n != c.told || (won.Load() == 1) != c.rival || (failed.Load() == 1) != (c.fails != "") {
					t.Errorf("its end was told %d times, want %d", n, c.told)
				}
			})
		})
	}
}
