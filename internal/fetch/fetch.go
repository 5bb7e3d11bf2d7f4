package fetch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/cache"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers"
	"fetchworker/internal/wire"
)

// life is the life of a request in a worker, from top to bottom: every path
// ends in exactly one end. nil means that the request has its answer or its
// letter, stored and acknowledged; an error that the message must be
// delivered again, because something of ours failed.
//
// The order never changes: what costs nothing comes first (validation, the
// stored answer, rights, deadline, cache, budget, circuit), the permit last,
// so that none is spent on a request that then does not go.
func (w *Worker) life(ctx context.Context, d *delivery) error {
	var r *request
	var done bool
	err := w.guarded(ctx, d, func() (err error) {
		r, done, err = w.prepare(ctx, d)
		return err
	})
	if err != nil || done {
		return err
	}
	flight, leads := w.flights.join(r.call.Key, &r.flight)
	for !leads {
		result, err := w.follow(ctx, r, flight)
		if err != nil {
			return w.without(ctx, r, err)
		}
		if result != nil {
			return w.guarded(ctx, d, func() error { return w.conclude(ctx, r, result, shared) })
		}
		// It came to nothing that could be shared; somebody must try again, if
		// what came from elsewhere meanwhile does not do.
		if done, _, err := w.lateLook(ctx, r, nil); done || err != nil {
			return err
		}
		flight, leads = w.flights.join(r.call.Key, &r.flight)
	}
	return w.lead(ctx, r, flight)
}

// lead makes the call that those who asked for the same thing wait for.
func (w *Worker) lead(ctx context.Context, r *request, flight *flight) error {
	landed := false
	land := func(result *providers.Result) {
		if !landed {
			landed = true
			w.flights.land(r.call.Key, flight, shareable(result))
		}
	}
	defer land(nil)
	if done, err := w.usedBefore(ctx, r); done || err != nil {
		return err
	}
	r.leads = bounded{Context: ctx, w: w, r: r}
	r.over = &r.leads
	defer r.over.cancel()
	for {
		if done, err := w.cancelled(ctx, r); done || err != nil {
			return err
		}
		if done, _, err := w.overBudget(ctx, r, func() {}); done || err != nil {
			return err
		}
		if err := w.settled(r.over, r); err != nil {
			return w.without(ctx, r, err)
		}
		asked := time.Now()
		permit, err := w.permit(r.over, r)
		if err != nil {
			return w.without(ctx, r, err)
		}
		if again, err := w.use(ctx, r, permit, time.Since(asked), land); !again || err != nil {
			return err
		}
	}
}

// use makes the call that a permit allows, and gives the request its end. On
// every path the permit has ended after it: one that was not needed is for
// others. landed is told of the result before the end is stored. again: no
// call was made, and the request waits for its next permit.
func (w *Worker) use(ctx context.Context, r *request, permit *budget.Permit, waited time.Duration, land func(*providers.Result)) (again bool, err error) {
	defer permit.Done(unused)
	r.start()
	if waited > lateLookAfter {
		letGo := func() { permit.Done(unused) }
		done, waits, err := w.lateLook(ctx, r, letGo)
		if done || waits || err != nil {
			return waits, err
		}
		// What went meanwhile may have used up the month's bytes.
		if done, waits, err = w.overBudget(ctx, r, letGo); done || waits || err != nil {
			return waits, err
		}
	}
	asked := time.Now()
	disputed, _ := w.restarts.disputed(r)
	alone, after, over := w.alone(ctx, r, disputed)
	defer over()
	// Its body may have come since this one looked, or its end by who had it before.
	if after || alone && disputed || r.redelivered() && time.Since(asked) > lateLookAfter {
		done, waits, err := w.lateLook(ctx, r, func() { over(); permit.Done(unused) })
		if done || waits || err != nil {
			return waits, err
		}
	}
	if !alone && !permit.Probe() {
		permit.Done(unused) // not only after the wait
		done, err := w.awaitOther(ctx, r)
		return !done, err
	}
	err = w.guarded(ctx, r.delivery, func() error {
		result := w.call(ctx, r, permit)
		if again = lapsed(result); again {
			return nil // its time was over before anything was on the wire
		}
		land(result)
		if !disputed {
			over() // who waits for this call needs its body, not that its end is stored
		}
		made := ordinary
		if permit.Probe() {
			made = probe
		}
		return w.conclude(ctx, r, result, made)
	})
	return again, err
}

// unused says that a permit let no call go.
var unused = budget.Report{Outcome: budget.Unused, Remaining: -1}

// follow waits for the call that an identical request of this worker makes.
// A nil result means that it came to nothing that could be shared.
func (w *Worker) follow(ctx context.Context, r *request, fl *flight) (*providers.Result, error) {
	over := w.untilOver(ctx, r)
	defer over.cancel()
	select {
	case <-fl.done:
		return w.flights.landed(fl), nil
	case <-over.Done():
		return nil, context.Cause(over)
	}
}

// shareable is what others who asked for the same may have of a result: an
// answer. A failure is the caller's own; the next one tries for itself.
func shareable(result *providers.Result) *providers.Result {
	if result != nil && (result.Class == wire.ClassOK || result.Class == wire.ClassPermanent) {
		return result
	}
	return nil
}

// prepare does everything that needs no permit. done: the request has its end.
func (w *Worker) prepare(ctx context.Context, d *delivery) (r *request, done bool, err error) {
	r, err = w.decode(d)
	w.tracer.join(ctx, r)
	if err != nil {
		return nil, true, w.refuse(ctx, r, err)
	}
	// A redelivered or replayed request may have been answered already; a
	// fresh one has not, and is spared the look. Those of one moment are looked
	// for together.
	if d.redelivered() || d.replayed {
		if !r.used.Begun() {
			r.used = w.used.Begin(fetchworker.ResultSubject(r.Identity))
		}
		if done, err := w.usedBefore(ctx, r); done || err != nil {
			return nil, true, err
		}
	}
	if done, err := w.cancelled(ctx, r); done || err != nil {
		return nil, true, err
	}
	now := r.now()
	if w.pastLife(r, now) {
		return nil, true, w.expire(ctx, r)
	}
	if r.call, err = r.served.Provider.Plan(r.Operation, r.asked.Params); err != nil {
		return nil, true, w.refuse(ctx, r, err)
	}
	if err := w.rights.Check(r.Agent, r.served.Provider, r.call.Operation, r.asked.Use); err != nil {
		return nil, true, w.refuse(ctx, r, err)
	}
	if late(r, now) {
		return nil, true, w.fail(ctx, r, fetchworker.CodeDeadlineExceeded, "the deadline had passed at the request's turn")
	}
	done, err = w.cached(ctx, r, nil)
	w.metrics.lookup(r, done)
	return r, done, err
}

// lateLookAfter is the wait for a permit from which it pays to look into the
// fleet's cache once more: another worker may have fetched the same meanwhile.
// So under a scarce quota the fleet makes one call for the same thing, however
// many workers ask.
const lateLookAfter = 50 * time.Millisecond

// lateLook answers a request that has waited from the cache, if something
// young enough has come into it; one that was delivered before may have its
// answer by now. A large body may have to wait for its memory:
// letGo, if there is one, then gives others first what this one holds. waited:
// it did, and the request has no end yet.
func (w *Worker) lateLook(ctx context.Context, r *request, letGo func()) (done, waited bool, err error) {
	var aside cache.Aside
	if letGo != nil {
		aside = func(wait func() error) error {
			waited = true
			letGo()
			return w.asideOf(r)(wait)
		}
	}
	err = w.guarded(ctx, r.delivery, func() (err error) {
		// Who had it before, and was thought to be gone, may have ended it since.
		if disputed, _ := w.restarts.disputed(r); disputed || r.redelivered() {
			if done, err = w.endedBefore(ctx, r); done || err != nil {
				return err
			}
		}
		done, err = w.cached(ctx, r, aside)
		return err
	})
	return done, waited && !done && err == nil, err
}

// cached answers a request from a body that is young enough, and keeps an
// older one in mind for when the provider cannot be asked. aside is called
// around waits for a large one's memory; nil: only the process is let go of.
func (w *Worker) cached(ctx context.Context, r *request, aside cache.Aside) (done bool, err error) {
	maxAge := r.call.Operation.Fresh
	if r.asked.MaxAge != nil {
		maxAge = time.Duration(*r.asked.MaxAge)
	}
	now := r.now()
	r.cache = w.cache.AtHand(r.call.Key)
	if !r.cache.Fresh(r.RequestedAt, now, maxAge) {
		if aside == nil {
			aside = w.asideOf(r)
		}
		// Another worker may have a younger one.
		r.cache = w.cache.Get(ctx, r.call.Key, cache.Wanted{Stored: r.RequestedAt, Now: now, MaxAge: maxAge}, aside)
	}
	if !r.cache.Fresh(r.RequestedAt, now, maxAge) {
		r.cache = r.cache.Lasting().Light()
		return false, nil
	}
	return true, w.finish(ctx, r, ending{answer: cachedAnswer(r.Letter, r.cache, now)}, nil)
}

// overBudget ends a request that the month's bytes no longer allow. A large
// body that is shown then may have to wait for its memory: letGo gives others
// first what this one holds. waited: it did, and the request has no end yet.
func (w *Worker) overBudget(ctx context.Context, r *request, letGo func()) (done, waited bool, err error) {
	beyond := func() (ending, bool) {
		used, limit := r.served.Gate.Used()
		return beyondBudget(r, used, limit, r.served.Gate.Now())
	}
	if _, over := beyond(); !over {
		return false, false, nil
	}
	letGo()
	w.whole(ctx, r)
	e, over := beyond()
	if !over { // the body is not kept any more
		r.cache = r.cache.Light()
		return false, true, nil
	}
	return true, false, w.finish(ctx, r, e, nil)
}

// permit asks the gate whether the provider may be called now, and waits for
// the permit while the message is kept alive, until ctx ends.
func (w *Worker) permit(ctx context.Context, r *request) (*budget.Permit, error) {
	ctx, span := w.tracer.permit(ctx)
	// What could not be stored is not called for.
	if err := w.stores.room(ctx, r.Provider); err != nil {
		return nil, err
	}
	started, ask := time.Now(), r.ask()
	if ask.Group != "" {
		r.start() // others of its shard do not wait for the limits of its group
	}
	permit, err := r.served.Gate.Acquire(ctx, ask)
	closed := closedBy(err)
	span(closed)
	w.metrics.waited(r, time.Since(started), closed)
	return permit, err
}

// without ends a request that gets no permit: parked while the provider's
// gate is closed, answered when its own time is over, handed back when the
// worker stops.
func (w *Worker) without(ctx context.Context, r *request, err error) error {
	var closed *budget.ClosedError
	now := r.now()
	if done, err := w.cancelled(ctx, r); done || err != nil {
		return err
	}
	switch {
	case errors.As(err, &closed):
		return w.park(ctx, r, closed)
	case w.pastLife(r, now):
		return w.expire(ctx, r)
	case late(r, now):
		return w.fail(ctx, r, fetchworker.CodeDeadlineExceeded, "the deadline passed while the request waited for a permit")
	default:
		return err
	}
}

// call makes the one provider call of this turn and tells the gate how it
// went. Once begun it is not broken off by a stop: its own timeout ends it.
func (w *Worker) call(ctx context.Context, r *request, permit *budget.Permit) *providers.Result {
	options := providers.Options{
		BeforeWrite: func() error { return w.startCall(r, permit) }, Written: r.written,
		Wait: func(came bool, wait func() error) error {
			if came {
				permit.Came()
			}
			return w.aside(r.delivery, wait)
		},
	}
	if r.mayAskWhetherChanged() {
		options.ETag, options.LastModified = r.cache.ETag, r.cache.LastModified
	}
	calling, span := w.tracer.call(ctx, w.working, r)
	result := r.served.Provider.Do(calling, r.call, options)
	span(result)
	// A body is as old as the server's clock says, which is everybody's.
	result.FetchedAt = result.FetchedAt.Add(time.Until(r.now()))
	r.served.Gate.AddBytes(result.WireBytes)
	permit.Done(report(r, result))
	if lapsed(result) {
		return result
	}
	w.metrics.called(r, result)
	w.spent(r, result)
	if failedConditional(result) {
		w.cache.Refuse(r.call.Key, r.cache)
	}
	if result.NotModified {
		w.unchanged(ctx, r, result)
	}
	if result.Class == wire.ClassOK {
		w.endLoop(r, result)
		w.cache.Put(r.call.Key, cache.Of(result))
	}
	return result
}

// startCall is the last look before a request is written. Dialling may have
// outlasted the permit, which in a window of a second is valid for some 40 ms:
// then the permit is renewed while the connection is kept, or a provider that
// answers from far away would never be called.
func (w *Worker) startCall(r *request, permit *budget.Permit) error {
	soon := r.over.shortly(renewWithin)
	defer soon.cancel()
	if err := w.cancels.mayCall(soon, r); err != nil {
		return err
	}
	if err := w.unsettled(r); err != nil { // the server was another meanwhile
		return err
	}
	err := permit.Start()
	if !errors.Is(err, budget.ErrLapsed) {
		return err
	}
	if renewal := permit.Renew(soon); renewal != nil {
		return fmt.Errorf("%w: %w", budget.ErrLapsed, renewal)
	}
	return permit.Start()
}

// renewWithin is how long a connection is kept for the next permit: within
// any provider's timeout, which runs on meanwhile.
const renewWithin = 2 * time.Second

// lapsed reports whether the permit's time was over before the request was
// written, so that no call was made.
func lapsed(result *providers.Result) bool {
	return !result.Sent && errors.Is(result.Err, budget.ErrLapsed)
}

// conclude gives the request the end that decide finds for a call's result.
func (w *Worker) conclude(ctx context.Context, r *request, result *providers.Result, how made) error {
	if err := w.log.Point("call", func() error { return nil }); err != nil {
		return err
	}
	f := facts{letter: r.Letter, result: result, made: how, now: r.now()}
	if result.Class != wire.ClassOK {
		w.whole(ctx, r)
		w.ofFailure(&f, r)
	}
	e := decide(f)
	if !e.spare.IsZero() {
		if err := r.served.Gate.Spare(ctx, r.counts, e.spare); err != nil {
			w.logger.Warn("circuit not opened", zap.String("provider", r.Provider), zap.Error(err))
		}
	}
	return w.finish(ctx, r, e, result)
}

// ofFailure adds what the end of a failed call is decided from. (It is apart
// because even where it is not reached its functions would be made, for every
// good answer four.)
func (w *Worker) ofFailure(f *facts, r *request) {
	gate := r.served.Gate
	f.retries, f.cache, f.maxStale, f.stale = w.retries, r.cache, r.acceptsStale(), r.call.Operation.Stale
	f.retryWait = func(failures int) time.Duration { return dlq.Wait(w.retryBase, longestRetry, failures) }
	f.hold = func() time.Time { return gate.State().HoldUntil }
	f.outage = func(first time.Time) bool { return gate.Outage(r.counts, first) }
	f.circuit = func() *budget.ClosedError { return gate.Holds(r.counts) }
}
