package fetch

import (
	"context"
	"errors"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/cache"
	"fetchworker/internal/providers"
	"fetchworker/internal/wire"
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
			"raw bodies are counted": func() error { return end(s.raws.room(ctx, "bob")) },
			"raw, with room": func() error {
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
			"a young body that came meanwhile": func() error { done, _, err := s.lateLook(ctx, made(nil), nil); return end(!done, err) },
			"an end that came meanwhile": func() error {
				done, waits, err := s.lateLook(ctx, made(func(r *request) { r.delivery = d.as(func(d *delivery) { d.again = true }) }), func() {})
				return end(done || waits, err)
			},
			"what stands against it":    func() error { _, err := s.suspicionOf(ctx, d); return err },
			"something more against it": func() error { return s.suspect(ctx, d, func(*suspicion) {}) },
			"a hand-back":               func() error { return s.givesBack(d) },
			"whether its workers live":  func() error { n, err := s.fallen(ctx, suspicion{Running: []string{"another"}}); return end(n > 0, err) },
			"whether it runs here":      func() error { n, err := s.fallen(ctx, suspicion{Running: []string{s.name}}); return end(n > 0, err) },
			"a suspect's run": func() error {
				return s.guarded(ctx, d.as(func(d *delivery) { d.count = 6 }), func() error { t.Error("it runs"); return nil })
			},
			"one that kills":             func() error { err := s.poison(ctx, d); return end(errors.Is(err, errPoison), err) },
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
