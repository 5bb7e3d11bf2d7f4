package dlq_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

var errCrash = errors.New("crash")

// crash is a hook that lets its process die at one point: before a step is
// made, or after it, when nobody has learnt of it. What dies says no more: its
// connection is gone.
type crash struct {
	point     string // none: it only lists the points
	persisted bool

	mu     sync.Mutex
	passed []string
	died   chan struct{}
}

func newCrash(point string, persisted bool) *crash {
	return &crash{point: point, persisted: persisted, died: make(chan struct{})}
}

func (c *crash) hook(nc *nats.Conn) record.Hook {
	return func(point string, persisted bool) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		select {
		case <-c.died:
			return errCrash
		default:
		}
		if persisted {
			c.passed = append(c.passed, point)
		}
		if point == c.point && persisted == c.persisted {
			close(c.died)
			nc.Close()
			return errCrash
		}
		return nil
	}
}

func (c *crash) points() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.passed)
}

// story is one kind of work that a replayer or a sweeper does, its durable
// steps in order, and how the request ends whatever happens on the way.
type story struct {
	name   string
	points string // of an undisturbed run
	put    func(f *dlqtest.Fleet)
	sweeps bool // it is the sweeper's work
	status fetchworker.Status
	code   fetchworker.Code
	review bool
}

func stories() []story {
	answerOf := func(l dlq.Letter, code fetchworker.Code, review bool) fetchworker.Answer {
		p := fetchworker.Failure(l.Identity, code, "no such symbol")
		return fetchworker.Answer{Identity: l.Identity, Status: fetchworker.StatusFailed, Final: true, Review: review, Generation: l.Generation, Problem: &p}
	}
	store := func(f *dlqtest.Fleet, a fetchworker.Answer) {
		if _, _, err := answer.New(f.Log).Put(f.Ctx, a, ""); err != nil {
			f.T.Fatal(err)
		}
	}
	rejected := func() dlq.Letter {
		l := dlqtest.Fresh(1, wire.ClassPermanent)
		l.Calls, l.Code, l.HTTPStatus = 1, fetchworker.CodeRejected, 400
		return l
	}
	spent := func() dlq.Letter {
		l := dlqtest.FailedOnce(1)
		l.Calls, l.Failures, l.NotBefore = 4, 4, l.FailedAt
		return l
	}
	return []story{
		{name: "a due retry", points: "replay ack", status: fetchworker.StatusOK, put: func(f *dlqtest.Fleet) {
			f.Put(dlqtest.FailedOnce(1))
		}},
		{name: "a parked request", points: "answer replay ack", status: fetchworker.StatusOK, put: func(f *dlqtest.Fleet) {
			f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: time.Now().Add(time.Hour)}})
			f.Put(dlqtest.Fresh(1, wire.ClassCircuitOpen))
			f.Running.Go(func() {
				time.Sleep(20 * time.Second)
				if f.Ctx.Err() == nil {
					f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}})
				}
			})
		}},
		{name: "a probe", points: "answer replay ack", status: fetchworker.StatusOK, put: func(f *dlqtest.Fleet) {
			f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: time.Now().Add(5 * time.Second)}})
			f.Put(dlqtest.Fresh(1, wire.ClassCircuitOpen))
		}},
		{name: "a deadline", points: "answer ack", status: fetchworker.StatusFailed, code: fetchworker.CodeDeadlineExceeded, put: func(f *dlqtest.Fleet) {
			l := dlqtest.FailedOnce(1)
			l.NotBefore, l.Deadline = l.FailedAt.Add(time.Minute), l.FailedAt.Add(time.Second)
			f.Put(l)
		}},
		{name: "a spent letter", points: "review answer event ack", status: fetchworker.StatusFailed, code: fetchworker.CodeRetriesExhausted, review: true, put: func(f *dlqtest.Fleet) {
			f.Put(spent())
		}},
		{name: "a refused request that its worker has answered", points: "review event ack", status: fetchworker.StatusFailed, code: fetchworker.CodeRejected, review: true, put: func(f *dlqtest.Fleet) {
			f.Put(rejected())
			store(f, answerOf(rejected(), fetchworker.CodeRejected, true))
		}},
		{name: "a refused request whose worker died", points: "review answer event ack", status: fetchworker.StatusFailed, code: fetchworker.CodeRejected, review: true, put: func(f *dlqtest.Fleet) {
			f.Put(rejected())
		}},
		{name: "a poisoned request", points: "review answer event ack", status: fetchworker.StatusFailed, code: fetchworker.CodePoison, review: true, put: func(f *dlqtest.Fleet) {
			f.Put(dlqtest.Fresh(1, wire.ClassPoison))
		}},
		{name: "past the maximum life", points: "answer review answer event ack", status: fetchworker.StatusFailed, code: fetchworker.CodeRetriesExhausted, review: true, put: func(f *dlqtest.Fleet) {
			l := dlqtest.Fresh(1, wire.ClassPaused)
			l.RequestedAt = l.RequestedAt.Add(5*time.Second - f.MaxLife)
			l.NotBefore = l.NotBefore.Add(time.Hour)
			if err := fleet.Pause(f.Ctx, f.KV, "fmp", time.Now().Add(time.Minute), "ann", "maintenance"); err != nil {
				f.T.Fatal(err)
			}
			f.Put(l)
		}},
		{name: "a spent letter that was answered", points: "ack", status: fetchworker.StatusFailed, code: fetchworker.CodeNotFound, put: func(f *dlqtest.Fleet) {
			store(f, answerOf(spent(), fetchworker.CodeNotFound, false))
			f.Put(spent())
		}},
		{name: "a spent letter that was answered after its item was made", points: "withdraw ack", status: fetchworker.StatusFailed, code: fetchworker.CodeNotFound, put: func(f *dlqtest.Fleet) {
			store(f, answerOf(spent(), fetchworker.CodeNotFound, false))
			if _, err := f.JS.PublishMsg(f.Ctx, spent().ReviewItem()); err != nil {
				f.T.Fatal(err)
			}
			f.Put(spent())
		}},
		{name: "a letter that cannot be read", points: "review answer event ack", status: fetchworker.StatusFailed, code: fetchworker.CodeRetriesExhausted, review: true, put: func(f *dlqtest.Fleet) {
			l := dlqtest.FailedOnce(1)
			m := l.DeadLetter()
			m.Header.Set(wire.HeaderNotBefore, "tomorrow")
			m.Header.Set(wire.HeaderHistory, "none")
			if _, err := f.JS.PublishMsg(f.Ctx, m); err != nil {
				f.T.Fatal(err)
			}
			f.Accepted = append(f.Accepted, l.Identity)
		}},
		{name: "a request that nobody serves", sweeps: true, points: "answer ack", status: fetchworker.StatusFailed, code: fetchworker.CodeUnknownProvider, put: func(f *dlqtest.Fleet) {
			f.Request("nobody", fetchworker.LaneBatch, `{"id":"q-1"}`)
		}},
		{name: "a request past its maximum life", sweeps: true, points: "letter ack", status: fetchworker.StatusFailed, code: fetchworker.CodeRetriesExhausted, review: true, put: func(f *dlqtest.Fleet) {
			f.Request("fmp", fetchworker.LaneBatch, `{"id":"q-1"}`)
			time.Sleep(f.MaxLife)
		}},
		{name: "a released letter past its maximum life", sweeps: true, points: "letter ack", status: fetchworker.StatusFailed, code: fetchworker.CodeRetriesExhausted, review: true, put: func(f *dlqtest.Fleet) {
			l := dlqtest.FailedOnce(1)
			l.RequestedAt = l.RequestedAt.Add(2*time.Second - f.MaxLife)
			if _, err := f.JS.PublishMsg(f.Ctx, l.Replayed()); err != nil {
				f.T.Fatal(err)
			}
			f.Accepted = append(f.Accepted, l.Identity)
		}},
	}
}

// tell runs a story to its end with a process that may crash, and then
// another that does not.
func (s story) tell(t *testing.T, c *crash) {
	t.Helper()
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.MaxLife = 5 * time.Minute
		f.Serve("fmp")
		if !s.sweeps { // else the letter would be taken before its life ends
			f.Worker("fmp", f.Succeed)
		}
		start := f.Replayer
		if s.sweeps {
			f.Replayer(nil)
			start = f.Sweeper
		}
		s.put(f)
		stop := start(c.hook)
		if c.point != "" {
			f.Eventually(time.Minute, "the crash", func() bool {
				select {
				case <-c.died:
					return true
				default:
					return false
				}
			})
			stop()
			start(nil)
		}
		id := f.Accepted[0]
		f.Eventually(2*time.Minute, "the request has its end, and nothing waits", func() bool {
			a, _ := f.Answer(id)
			return a.Final && f.Count(wire.StreamDLQ, ">")+f.Count(wire.StreamReplay, ">")+f.Count(fetchworker.StreamRequests, ">") == 0
		})
		a, _ := f.Answer(id)
		if a.Status != s.status || a.Review != s.review || a.Problem != nil && a.Problem.Code() != s.code {
			t.Errorf("it ended as %s", dlqtest.Describe(a))
		}
		events, items := 0, 0
		if s.review {
			events, items = 1, 1
		}
		if n := f.Count(fetchworker.StreamEvents, ">"); n != events {
			t.Errorf("%d events", n)
		}
		if n := f.Count(wire.StreamReview, ">"); n != items {
			t.Errorf("%d review items", n)
		}
		f.Check(dlqtest.Check{Empty: true})
	})
}

// Whatever the point at which a replayer or a sweeper dies, each request has
// its one end.
func TestCrashes(t *testing.T) {
	for _, s := range stories() {
		t.Run(s.name, func(t *testing.T) {
			calm := newCrash("", false)
			s.tell(t, calm)
			if got := strings.Join(calm.points(), " "); got != s.points {
				t.Fatalf("the steps are %q, want %q", got, s.points)
			}
			points := slices.Compact(slices.Sorted(slices.Values(calm.points())))
			for _, point := range points {
				if brokertest.Sampled(6) {
					t.Run("before "+point, func(t *testing.T) { s.tell(t, newCrash(point, false)) })
				}
				if brokertest.Sampled(6) {
					t.Run("after "+point, func(t *testing.T) { s.tell(t, newCrash(point, true)) })
				}
			}
		})
	}
}
