package operate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// Task is one act on everything that a filter selects: planned, paced,
// watched. It walks the stream twice, once to plan and once to act, so its
// memory does not grow with what it matches.
type Task struct {
	Action string // ActReplay, ActRequeue or ActDiscard
	Filter browse.Filter
	Limit  int // at most so many; 0: all
	Signed Signature

	PerSecond  float64 // 0: as fast as the server can
	Canary     int     // do so many first and watch their answers; 0: none
	MinSuccess float64 // the share of the canary that must succeed
	CanaryWait time.Duration

	KeepDeadline bool   // of a requeue
	Body         []byte // of a requeue of one: its edited request

	desk     *Desk
	fleet    *Fleet
	operator *Operator
	edge     browse.Edge
}

// Plan is what a task would touch.
type Plan struct {
	Histogram
	Due  int  // letters that are due already, and go by themselves
	More bool // the limit leaves some out
}

// Watch is told of a task's progress. Its functions may be called by several
// at once.
type Watch struct {
	Did  func()
	Note func(string)
}

// Result is what a task did.
type Result struct {
	Fates map[Fate]int
	Took  time.Duration
}

// HoldError says that a task was refused or stopped because of a hold.
type HoldError struct{ Hold Hold }

func (e *HoldError) Error() string {
	return fmt.Sprintf("%s is held: %s", e.Hold.Provider, e.Hold.Reason)
}

// Parallel is how many acts are under way; more only wait for each other's
// fsync.
const Parallel = 16

// Begin opens a task at the present end of its stream.
func (t *Task) Begin(ctx context.Context, d *Desk, f *Fleet) error {
	t.desk, t.fleet = d, f
	t.operator = NewOperator(d.JS, d.Log, t.Signed)
	var err error
	t.edge, err = d.Edge(ctx, t.Stream())
	return err
}

// Stream is where the task's messages are.
func (t *Task) Stream() string {
	if t.Action == ActReplay {
		return fetchworker.StreamDLQ
	}
	return fetchworker.StreamReview
}

// Works reports whether the task sends messages to the workers: then permits,
// circuits and answers matter.
func (t *Task) Works() bool { return t.Action != ActDiscard }

// Plan walks everything once and changes nothing.
func (t *Task) Plan(ctx context.Context, w Watch) (Plan, error) {
	var plan Plan
	for found, err := range t.matching(ctx) {
		if err != nil {
			return plan, err
		}
		w.Did()
		switch {
		case t.isDue(found):
			plan.Due++
		case t.Limit > 0 && plan.Count == t.Limit:
			plan.More = true
			return plan, nil
		default:
			plan.Add(found)
		}
	}
	return plan, nil
}

// One is the message of a task that matches a single one.
func (t *Task) One(ctx context.Context) (browse.Found, error) {
	for found, err := range t.matching(ctx) {
		if err != nil {
			return browse.Found{}, err
		}
		if found.Fault == nil {
			return found, nil
		}
	}
	return browse.Found{}, ErrGone
}

// ErrGone says that a message is no longer where the plan saw it.
var ErrGone = errors.New("it is gone")

// Holds are what holds the plan's providers up.
func (t *Task) Holds(plan Plan) []Hold {
	var holds []Hold
	for provider := range plan.Providers {
		if h, held := t.fleet.Hold(provider); held {
			holds = append(holds, h)
		}
	}
	return holds
}

// Takes is how long the acts take at the task's rate, and how long the calls
// that follow take within the permits; zero: nobody knows. Providers work
// side by side.
func (t *Task) Takes(plan Plan) (acts, calls time.Duration) {
	if t.PerSecond > 0 {
		acts = time.Duration(float64(plan.Count) / t.PerSecond * float64(time.Second))
	}
	if t.Works() {
		for provider, n := range plan.Providers {
			calls = max(calls, CallsTake(n, t.fleet.Limits(provider)))
		}
	}
	return acts, calls
}

func (t *Task) matching(ctx context.Context) func(func(browse.Found, error) bool) {
	return t.desk.Walk(ctx, t.Stream(), t.Filter, t.edge)
}

// isDue reports whether there is nothing to do for a letter.
func (t *Task) isDue(f browse.Found) bool {
	return t.Action == ActReplay && f.Fault == nil && !f.NotBefore.After(t.edge.At)
}

// Do acts on each, in order of age, at most at the rate. The result counts
// what was done, also where it stopped early.
func (t *Task) Do(ctx context.Context, plan Plan, w Watch) (Result, error) {
	began := time.Now()
	acting, release := finishing(ctx)
	defer release()
	limiter := rate.NewLimiter(rate.Limit(t.PerSecond), 1)
	if t.PerSecond == 0 {
		limiter.SetLimit(rate.Inf)
	}
	counts := counter{fates: map[Fate]int{}}
	group, going := newGroup(ctx)
	var stopped error
	started := 0
	var canary []browse.Found
	for found, err := range t.matching(ctx) {
		if err != nil {
			stopped = err
			break
		}
		if found.Fault != nil {
			continue
		}
		if t.isDue(found) {
			counts.add(FateDue)
			continue
		}
		if started == t.canaries(plan) {
			if stopped = group.Wait(); stopped == nil {
				stopped = t.watchCanary(ctx, canary, w)
			}
			if stopped != nil {
				break
			}
			group, going = newGroup(ctx)
		}
		if t.Limit > 0 && started == t.Limit {
			break
		}
		if stopped = t.mayGo(going, found.Provider, limiter); stopped != nil {
			break
		}
		started++
		if len(canary) < t.Canary {
			canary = append(canary, found)
		}
		group.Go(func() error {
			fate, err := t.act(acting, found)
			if err != nil {
				return err
			}
			counts.add(fate)
			w.Did()
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		stopped = err
	}
	return Result{Fates: counts.fates, Took: time.Since(began)}, stopped
}

func (t *Task) act(ctx context.Context, f browse.Found) (Fate, error) {
	switch t.Action {
	case ActReplay:
		return t.operator.ReplayNow(ctx, f, t.edge.At)
	case ActRequeue:
		return t.operator.Requeue(ctx, f, RequeueOptions{Now: t.edge.At, KeepDeadline: t.KeepDeadline, Body: t.Body})
	default:
		return t.operator.Discard(ctx, f)
	}
}

// finishing is a context in which what was begun is finished: an interrupt
// stops between messages. It ends only when the server refuses a permission,
// since what was asked would only time out.
func finishing(ctx context.Context) (context.Context, func()) {
	acting, refuse := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if cause := context.Cause(ctx); errors.Is(cause, nats.ErrPermissionViolation) {
			refuse(cause)
		}
	})
	return acting, func() { stop(); refuse(nil) }
}

func newGroup(ctx context.Context) (*errgroup.Group, context.Context) {
	group, going := errgroup.WithContext(ctx)
	group.SetLimit(Parallel)
	return group, going
}

// mayGo waits for a message's turn, and stops a replay when its provider has
// failed meanwhile.
func (t *Task) mayGo(ctx context.Context, provider string, limiter *rate.Limiter) error {
	if err := limiter.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	if t.Action == ActReplay {
		if h, held := t.fleet.Hold(provider); held && h.Stops {
			return &HoldError{h}
		}
	}
	return nil
}

// counter counts fates.
type counter struct {
	mu    sync.Mutex
	fates map[Fate]int
}

func (c *counter) add(f Fate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fates[f]++
}
