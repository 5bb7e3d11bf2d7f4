package fetch

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget"
	"fetchworker/internal/cache"
	"fetchworker/internal/providers"
	"fetchworker/internal/wire"

	"golang.org/x/sync/semaphore"
)

// Whatever a step of a request's life could not read or write, it says so: what
// takes its failure for an end would acknowledge a request that has none, and
// what takes it for nothing known would call beside what is stored.
func TestNoStepThatFailedIsAnEnd(t *testing.T) {
	stepping(t, func(t *testing.T, s *steps) {
		s.upstream.Fallback = nil
		d := s.take("q", "AAPL", `,"max_stale":"1h","ttl":"1h"`)
		raw := s.takes("fetch.request.fmp.batch.quote.bob", `nothing that could be read`)
		ctx := t.Context()
		young := &cache.Entry{FetchedAt: time.Now(), CameAt: time.Now().Add(time.Hour), HTTPStatus: 200, Body: []byte(`[]`)}
		made := func(edit func(r *request)) *request {
			r := s.request(d)
			r.cache = young
			if edit != nil {
				edit(r)
			}
			return r
		}
		asRead := func(d *delivery) *request { r, _ := s.decode(d); return r }
		result := func(class wire.Class, code fetchworker.Code) *providers.Result {
			return &providers.Result{Class: class, Code: code, HTTPStatus: 200, Detail: "a detail", Sent: true, Body: []byte(`[]`)}
		}
		end := func(done bool, err error) error {
			if err == nil && !done {
				return nil
			}
			if err == nil {
				t.Error("it counts as the request's end")
			}
			return err
		}
		steps := map[string]func() error{
			"what stands is read": func() error { return end(s.endedBefore(ctx, made(nil))) },
			"what stands was being looked": func() error {
				r := made(nil)
				r.used = s.used.Begin(fetchworker.ResultSubject(r.Identity))
				return end(s.usedBefore(ctx, r))
			},
			"raw bodies are counted": func() error { clear(s.raws.agents); return end(s.raws.room(ctx, "bob")) },
			"raw, with room": func() error {
				clear(s.raws.agents)
				s.raws.take("bob", &rawCount{})
				return s.refuse(ctx, asRead(raw), fetchworker.ErrNotObject)
			},
			"raw, without": func() error {
				s.raws.agents["bob"] = &rawCount{n: rawsMost, looked: time.Now()}
				return s.refuse(ctx, asRead(raw), fetchworker.ErrNotObject)
			},
			"raw, not counted":  func() error { clear(s.raws.agents); return s.refuse(ctx, asRead(raw), fetchworker.ErrNotObject) },
			"no right":          func() error { return s.refuse(ctx, made(nil), &providers.RightsError{}) },
			"no operation":      func() error { return s.refuse(ctx, made(nil), providers.ErrUnknownOperation) },
			"a broken letter":   func() error { return s.refuse(ctx, made(nil), errBrokenLetter) },
			"a mistake":         func() error { return s.refuse(ctx, made(nil), errors.New("a mistake")) },
			"failed":            func() error { return s.fail(ctx, made(nil), fetchworker.CodeRejected, "") },
			"its life is over":  func() error { return s.expire(ctx, made(nil)) },
			"parked":            func() error { return s.park(ctx, made(func(r *request) { r.cache = nil }), &budget.ClosedError{}) },
			"parked, and shown": func() error { return s.park(ctx, made(nil), &budget.ClosedError{}) },
			"no permit":         func() error { return s.without(ctx, made(nil), &budget.ClosedError{}) },
			"no permit, and late": func() error {
				return s.without(ctx, made(func(r *request) { r.Deadline = time.Now().Add(-time.Second) }), context.DeadlineExceeded)
			},
			"no permit, and old": func() error {
				return s.without(ctx, made(func(r *request) { r.RequestedAt = time.Now().Add(-s.Worker.maxLife) }), context.DeadlineExceeded)
			},
			"no permit, and a stop": func() error { return s.without(ctx, made(nil), context.Canceled) },
			"an answer of a call":   func() error { return s.conclude(ctx, made(nil), result(wire.ClassOK, ""), ordinary) },
			"a letter of a call": func() error {
				return s.conclude(ctx, made(func(r *request) { r.cache = nil }), result(wire.ClassTransient, ""), ordinary)
			},
			"a refusal of a call": func() error {
				return s.conclude(ctx, made(nil), result(wire.ClassPermanent, fetchworker.CodeRejected), ordinary)
			},
			"an answer of another's": func() error { return s.conclude(ctx, made(nil), result(wire.ClassOK, ""), shared) },
			"a young body": func() error {
				r := made(nil)
				s.cache.Put(r.call.Key, young)
				done, err := s.cached(ctx, r, nil)
				if !done {
					t.Error("the body at hand is not young enough")
				}
				return err
			},
			"a young body that came meanwhile": func() error {
				r := made(nil)
				s.cache.Put(r.call.Key, young)
				_, _, err := s.lateLook(ctx, r, nil)
				return err
			},
			"an end that came meanwhile": func() error {
				done, waits, err := s.lateLook(ctx, made(func(r *request) { r.delivery = d.as(func(d *delivery) { d.again = true }) }), func() {})
				return end(done || waits, err)
			},
			"what stands against it":    func() error { _, err := s.suspicionOf(ctx, d); return err },
			"something more against it": func() error { return s.suspect(ctx, d, func(*suspicion) {}) },
			"a hand-back":               func() error { return s.givesBack(d) },
			"whether its workers live":  func() error { n, err := s.fallen(ctx, suspicion{Running: []string{"another"}}); return end(n > 0, err) },
			"a suspect's run": func() error {
				return s.guarded(ctx, d.as(func(d *delivery) { d.count = 6 }), func() error { t.Error("it runs"); return nil })
			},
			"one that kills": func() error {
				err := s.poison(ctx, d)
				if errors.Is(err, errPoison) {
					t.Error("it counts as buried")
				}
				return err
			},
			"all that stands of any":     func() error { return s.clearLeft(ctx) },
			"the whole life":             func() error { return s.life(ctx, d.as(func(d *delivery) { d.again = true })) },
			"the whole life, of its own": func() error { return s.life(ctx, d) },
			"the whole life, of none":    func() error { return s.life(ctx, raw) },
		}
		s.nc.Close()
		time.Sleep(time.Second)
		for name, step := range steps {
			if err := step(); err == nil {
				t.Errorf("%s: what failed is not told", name)
			}
		}
		if n := len(s.upstream.Calls()); n != 0 {
			t.Errorf("%d calls", n)
		}
	})
}

// as is a delivery like this one, but for what is edited.
func (d *delivery) as(edit func(*delivery)) *delivery {
	other := &delivery{
		msg: d.msg, address: d.address, sequence: d.sequence, stored: d.stored, came: d.came, count: d.count, behind: d.behind,
		replayed: d.replayed, older: d.older, again: d.again, shard: d.shard, held: d.held,
	}
	edit(other)
	return other
}

// Who hears nothing of one thing does not go on as if nothing were there.
func TestWhatIsNotHeardIsNotKnown(t *testing.T) {
	lone := func(d *delivery) *delivery { return d.as(func(d *delivery) { d.count = suspectAfter + 1 }) }
	never := func(t *testing.T) func() error { return func() error { t.Error("it runs"); return nil } }
	for name, c := range map[string]struct {
		part   string // of the subject of what the server never hears
		before func(t *testing.T, s *steps, r *request)
		step   func(ctx context.Context, t *testing.T, s *steps, r *request) error
		within time.Duration // it gives up; 0: as soon as its own question does
	}{
		"what an agent has on its way to review": {
			"DIRECT.GET." + wire.StreamDLQ, nil,
			func(ctx context.Context, t *testing.T, s *steps, _ *request) error {
				room, err := s.raws.room(ctx, "bob")
				if room || len(s.raws.agents) > 0 {
					t.Error("a place was taken")
				}
				return err
			}, 0,
		},
		"whether a letter carries it": {
			"DIRECT.GET." + wire.StreamDLQ,
			func(t *testing.T, s *steps, r *request) {
				if _, _, err := s.answers.Put(t.Context(), r.Waiting(fetchworker.ReasonPaused, "", time.Time{}), ""); err != nil {
					t.Fatal(err)
				}
			},
			func(ctx context.Context, t *testing.T, s *steps, r *request) error {
				done, err := s.endedBefore(ctx, r)
				if done {
					t.Error("it counts as carried")
				}
				return err
			}, 0,
		},
		"an end that came meanwhile": {
			"DIRECT.GET." + fetchworker.StreamResults,
			func(_ *testing.T, s *steps, r *request) {
				s.cache.Put(r.call.Key, &cache.Entry{FetchedAt: time.Now(), CameAt: time.Now().Add(time.Hour), HTTPStatus: 200, Body: []byte(`[]`)})
				r.again = true
			},
			func(ctx context.Context, _ *testing.T, s *steps, r *request) error {
				_, _, err := s.lateLook(ctx, r, func() {})
				return err
			}, 0,
		},
		"whether a lone run's worker lives": {
			"$KV." + wire.BucketProviders + ".worker.",
			func(t *testing.T, s *steps, r *request) { s.against(t, r.delivery, `{"running":["gone"]}`) },
			func(ctx context.Context, t *testing.T, s *steps, r *request) error {
				return s.guarded(ctx, lone(r.delivery), never(t))
			}, 0,
		},
		"that a lone run begins": {
			"$KV." + wire.BucketProviders + ".suspect.",
			func(t *testing.T, s *steps, r *request) { s.against(t, r.delivery, `{}`) },
			func(ctx context.Context, t *testing.T, s *steps, r *request) error {
				return s.guarded(ctx, lone(r.delivery), never(t))
			}, 0,
		},
		"that one that kills is buried": {
			"fetch.dlq.", nil,
			func(ctx context.Context, t *testing.T, s *steps, r *request) error {
				err := s.poison(ctx, r.delivery)
				if errors.Is(err, errPoison) {
					t.Error("it counts as buried")
				}
				return err
			}, 20 * time.Second,
		},
		"that it is parked": {
			"fetch.dlq.",
			func(_ *testing.T, s *steps, _ *request) { s.parks = semaphore.NewWeighted(0) }, // others are on their way
			func(ctx context.Context, _ *testing.T, s *steps, r *request) error {
				maxStale := fetchworker.Duration(time.Hour)
				r.asked.MaxStale, r.cache = &maxStale, &cache.Entry{FetchedAt: time.Now(), HTTPStatus: 200, Body: []byte(`[]`)}
				return s.park(ctx, r, &budget.ClosedError{})
			}, 20 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			stepping(t, func(t *testing.T, s *steps) {
				r := s.request(s.take("q", "AAPL", ""))
				if c.before != nil {
					c.before(t, s, r)
				}
				s.wire.Break(c.part, brokertest.RequestLost, 1<<20, 0)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.within > 0 {
					time.AfterFunc(c.within, cancel)
				}
				if err := c.step(ctx, t, s, r); err == nil {
					t.Error("what was not heard is not told")
				}
				s.wire.Mend()
				if _, err := s.log.Last(t.Context(), fetchworker.StreamResults, fetchworker.ResultSubject(r.Identity)); err == nil && c.before == nil {
					t.Error("it is answered")
				}
			})
		})
	}
}

// against writes down what stands against a message.
func (s *steps) against(t *testing.T, d *delivery, what string) {
	t.Helper()
	if _, err := s.b.KV.PutString(t.Context(), d.suspectKey(), what); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

// A run of this very worker that has not been lowered yet is no death, though
// nobody says that the worker lives.
func TestOnesOwnRunIsNoDeath(t *testing.T) {
	stepping(t, func(t *testing.T, s *steps) {
		s.take("q", "AAPL", "")
		if n, err := s.fallen(t.Context(), suspicion{Running: []string{"gone", s.name}}); n != 0 || !errors.Is(err, errElsewhere) {
			t.Errorf("%d deaths, %v", n, err)
		}
		if n, err := s.fallen(t.Context(), suspicion{Running: []string{"gone", "gone-too"}}); n != 2 || err != nil {
			t.Errorf("%d deaths, %v", n, err)
		}
	})
}
