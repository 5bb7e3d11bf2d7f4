package operate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"fetchworker/internal/browse"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// Task is one act on everything that a filter selects: planned, paced,
// watched. It walks the streams twice, once to plan and once to act, so its
// memory does not grow with what it matches.
type Task struct {
	Action string // ActReplay, ActCancel, ActRequeue or ActDiscard
	Filter browse.Filter
	Limit  int // at most so many; 0: all
	Signed Signature

	PerSecond  float64 // 0: as fast as the server can
	Canary     int     // do so many first and watch their answers; 0: none
	MinSuccess float64 // the share of the canary that must succeed
	CanaryWait time.Duration

	Queued       bool   // of a cancel: also what waits for its turn, or is at work
	KeepDeadline bool   // of a requeue
	Body         []byte // of a requeue of Only: its edited request

	// Only is the one message that the task is about, where a person has looked
	// at it: nothing else is acted on, whatever matches by then.
	Only *browse.Found

	desk     *Desk
	fleet    *Fleet
	operator *Operator
	reader   *browse.Browser
	parts    []part
	at       time.Time // when it began, by the server's clock
}

// Plan is what a task would touch.
type Plan struct {
	Histogram
	Due          int       // letters that are due already, and go by themselves
	ByThemselves Histogram // of those
	More         bool      // the limit leaves some out
	Covered      int       // of Count, those that a circuit is open for: they go when it closes, whatever is done to them
	In           string    // the stream of the last message that is part of it
	Last         uint64    // and its sequence
	PastEnding   int       // those whose deadline, which is to be kept, has passed
}

// Watch is told of a task's progress. Its functions may be called by several
// at once.
type Watch struct {
	Did  func()
	Note func(string)
}

// Result is what a task did.
type Result struct {
	Fates    map[Fate]int
	Failures []error // the first few of FateFailed
	Took     time.Duration
}

// HoldError says that a task was refused or stopped because of a hold.
type HoldError struct{ Hold Hold }

func (e *HoldError) Error() string {
	return fmt.Sprintf("%s is held: %s", e.Hold.Provider, e.Hold.Reason)
}

// Parallel is how many acts are under way; more only wait for each other's
// fsync.
const Parallel = 16

// Begin opens a task at the present end of its streams.
func (t *Task) Begin(ctx context.Context, d *Desk, f *Fleet) error {
	t.desk, t.fleet = d, f
	t.operator = NewOperator(d.JS, d.Log, t.Signed)
	t.operator.Now = d.Now
	t.reader = d.Trying(t.operator.patiently)
	for _, stream := range t.streams() {
		edge, err := d.Edge(ctx, stream)
		if err != nil {
			return err
		}
		t.parts = append(t.parts, part{stream, edge})
	}
	t.at = t.parts[0].edge.At
	return nil
}

// Sign says who acts and why, where that is known only after the plan.
func (t *Task) Sign(s Signature) {
	t.Signed = s
	t.operator.signed = s
}

// Works reports whether the task sends messages to the workers: then permits,
// circuits and answers matter.
func (t *Task) Works() bool { return t.Action != ActDiscard && t.Action != ActCancel }

// Plan walks everything once and changes nothing.
func (t *Task) Plan(ctx context.Context, w Watch) (Plan, error) {
	var plan Plan
	covered := t.fleet.covered()
	t.told(w)
	for found, err := range t.matching(ctx) {
		if err != nil {
			return plan, err
		}
		w.Did()
		switch {
		case t.isDue(found):
			plan.Due++
			plan.ByThemselves.Add(found)
		case t.Limit > 0 && plan.Count == t.Limit:
			plan.More = true
			return plan, nil
		default:
			plan.Add(found)
			plan.In, plan.Last = found.Stream, found.Sequence
			if t.Works() && found.Fault == nil && covered(found.Letter) {
				plan.Covered++
			}
			if t.KeepDeadline && found.Fault == nil && !found.Deadline.IsZero() && found.Deadline.Before(t.at) {
				plan.PastEnding++
			}
		}
	}
	return plan, nil
}

// told tells w when the server does not answer.
func (t *Task) told(w Watch) {
	t.operator.Waits = func(d time.Duration) {
		if d == 0 {
			w.Note("")
			return
		}
		w.Note(fmt.Sprintf("the server does not answer: waiting for %v", d.Round(time.Second)))
	}
}

// One is the message of a plan that is about a single one. The task is about
// no other from now on.
func (t *Task) One(ctx context.Context, plan Plan) (browse.Found, error) {
	for found, err := range t.matching(ctx) {
		if err != nil {
			return browse.Found{}, err
		}
		if found.Fault == nil && found.Stream == plan.In && found.Sequence == plan.Last {
			t.Only = &found
			return found, nil
		}
	}
	return browse.Found{}, ErrGone
}

// ErrGone says that a message is no longer where the plan saw it.
var ErrGone = errors.New("it is gone")

// Holds are what holds the plan's providers up.
func (t *Task) Holds(ctx context.Context, plan Plan) ([]Hold, error) {
	var holds []Hold
	for _, provider := range slices.Sorted(maps.Keys(plan.Providers)) {
		if h, held := t.fleet.Hold(provider); held {
			holds = append(holds, h)
		}
		s := Status{Provider: provider}
		if err := t.fleet.bytes(ctx, &s, t.desk.Now()); err != nil {
			return nil, err
		}
		if s.BytesLimit > 0 && s.BytesUsed >= s.BytesLimit {
			holds = append(holds, Hold{Provider: provider, BytesUsed: true})
		}
	}
	return holds, nil
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

// isDue reports whether there is nothing to do for a letter.
func (t *Task) isDue(f browse.Found) bool {
	return t.Action == ActReplay && f.Fault == nil && !f.NotBefore.After(t.at)
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
	counts := counter{fates: make(map[Fate]int), first: t.Canary}
	t.told(w)
	group, going := newGroup(ctx)
	var stopped error
	started := 0
	for found, err := range t.planned(ctx, plan) {
		if err != nil {
			stopped = err
			break
		}
		if found.Fault != nil {
			continue
		}
		if t.isDue(found) {
			counts.add(found, FateDue)
			continue
		}
		if started == t.canaries(plan) {
			if stopped = group.Wait(); stopped == nil {
				stopped = t.watchCanary(ctx, counts.canary, w)
			}
			if stopped != nil {
				break
			}
			group, going = newGroup(ctx)
		}
		if stopped = t.mayGo(going, found.Provider, limiter); stopped != nil {
			break
		}
		started++
		group.Go(func() error {
			fate, err := t.act(acting, found)
			if record.Refused(err) && !errors.Is(err, nats.ErrConnectionClosed) { // its own fault: the others go on
				counts.fail(err)
				fate, err = FateFailed, nil
			}
			if err != nil {
				return err
			}
			counts.add(found, fate)
			w.Did()
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		stopped = err
	}
	return Result{Fates: counts.fates, Failures: counts.failures, Took: time.Since(began)}, stopped
}

func (t *Task) act(ctx context.Context, f browse.Found) (Fate, error) {
	switch t.Action {
	case ActReplay:
		return t.operator.ReplayNow(ctx, f, t.at)
	case ActCancel:
		return t.operator.Cancel(ctx, f, t.at)
	case ActRequeue:
		return t.operator.Requeue(ctx, f, RequeueOptions{KeepDeadline: t.KeepDeadline, Body: t.Body})
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
	first int // how many of those done are kept as the canary

	mu       sync.Mutex
	fates    map[Fate]int
	canary   []browse.Found
	failures []error
}

func (c *counter) add(f browse.Found, fate Fate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fates[fate]++
	if fate == FateDone && len(c.canary) < c.first {
		c.canary = append(c.canary, f)
	}
}

// failuresKept is how many failures are told in words.
const failuresKept = 5

func (c *counter) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failures) < failuresKept {
		c.failures = append(c.failures, err)
	}
}
