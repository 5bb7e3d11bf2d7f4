package fetchworker

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"
)

// A watcher shows the answers of requests as they come, to whoever waits for
// them. It has the client's one subscription. A live message can be lost, in
// a reconnect, between two servers, or because the subscription is younger
// than the answer; what is stored cannot. So each request that is watched is
// looked up as well: soon at first, then ever more seldom, and again after a
// reconnect. Looks are bounded for the client as a whole.
type watcher struct {
	c       *Client
	looking context.Context // until close
	stop    context.CancelFunc
	work    sync.WaitGroup

	mu      sync.Mutex
	closed  error
	live    *nats.Subscription
	watches map[string]map[*watch]struct{} // by result subject
	// followers are told every answer of the agent.
	followers map[*follower]struct{}
	due       schedule
	running   bool
	wake      chan struct{}
}

// watch is one waiting for one request's answers.
type watch struct {
	subject string
	// got is called with each answer, newer ones only, or with what ends the
	// watch. It must not block.
	got func(Answer, error)

	newest  uint64 // sequence of the newest answer seen
	looks   int
	next    time.Time
	index   int // in the schedule; -1: not in it
	trouble error
}

const (
	// looksASecond bounds the looks of a client, whatever is outstanding.
	looksASecond = 500
	looksAtOnce  = 16
	// longestLook is between two looks at one request.
	longestLook = 10 * time.Second
	// firstLookLasts bounds the look that a wait begins with: live answers are
	// only taken after it, and a server that dies takes it with it.
	firstLookLasts = time.Second
)

// firstLooks are the waits before the first looks: 50, 200 and 800 ms after
// the receipt.
var firstLooks = [...]time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 600 * time.Millisecond}

func lookAfter(looks int) time.Duration {
	if looks < len(firstLooks) {
		return firstLooks[looks]
	}
	return min(time.Second<<min(looks-len(firstLooks), 10), longestLook)
}

func newWatcher(c *Client) *watcher {
	w := &watcher{c: c, watches: map[string]map[*watch]struct{}{}, followers: map[*follower]struct{}{}, wake: make(chan struct{}, 1)}
	w.looking, w.stop = context.WithCancel(context.Background())
	return w
}

func newWatch(id Identity, got func(Answer, error)) *watch {
	return &watch{subject: ResultSubject(id), got: got, index: -1}
}

// add begins to watch a request. Nothing is looked up before look or expect.
func (w *watcher) add(one *watch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed != nil {
		return w.closed
	}
	if err := w.subscribe(); err != nil {
		return err
	}
	all := w.watches[one.subject]
	if all == nil {
		all = make(map[*watch]struct{}, 1)
		w.watches[one.subject] = all
	}
	all[one] = struct{}{}
	return nil
}

// subscribe makes the one subscription, if it is not there yet.
func (w *watcher) subscribe() error {
	if w.live != nil && w.live.IsValid() {
		return nil
	}
	subject := w.c.everyAnswer()
	live, err := w.c.nc.Subscribe(subject, w.see)
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining) {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	if err == nil {
		// The default of 64 MiB is little where answers are large; what is
		// lost all the same is looked up.
		err = live.SetPendingLimits(-1, 256<<20)
	}
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	w.live = live
	return nil
}

// remove ends a watch.
func (w *watcher) remove(one *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(one)
}

func (w *watcher) drop(one *watch) {
	all := w.watches[one.subject]
	if _, still := all[one]; !still {
		return
	}
	delete(all, one)
	if len(all) == 0 {
		delete(w.watches, one.subject)
	}
	if one.index >= 0 {
		heap.Remove(&w.due, one.index)
	}
}

// see takes a live answer.
func (w *watcher) see(m *nats.Msg) {
	w.mu.Lock()
	wanted := len(w.watches[m.Subject]) > 0 || len(w.followers) > 0
	w.mu.Unlock()
	if !wanted {
		return // of another process that asks for the same agent
	}
	if a, err := decodeLive(m.Subject, m); err == nil {
		w.tell(m.Subject, a)
		w.tellAll(a)
	} // what cannot be read is looked up, and told then
}

// tell hands an answer to those who wait for it and have seen none so new.
func (w *watcher) tell(subject string, a Answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.watches[subject] {
		if a.Sequence > one.newest {
			one.newest, one.trouble = a.Sequence, nil
			one.got(a, nil)
		}
	}
}

// decodeLive reads an answer with its sequence in the stream, which a live
// message has as well as a stored one.
func decodeLive(subject string, m *nats.Msg) (Answer, error) {
	sequence, err := strconv.ParseUint(own(m, jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return Answer{}, fmt.Errorf("answer %s: sequence: %w", subject, err)
	}
	a, err := DecodeAnswer(subject, m.Header, m.Data)
	a.Sequence = sequence
	if err != nil {
		return a, err
	}
	if a.garbled(m.Data) {
		return Answer{Sequence: sequence}, fmt.Errorf("answer %s: %w", subject, ErrBodyCorrupt)
	}
	return a, nil
}

// expect has a request looked up from soon on.
func (w *watcher) expect(one *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, still := w.watches[one.subject][one]; !still || one.index >= 0 {
		return
	}
	one.next = time.Now().Add(lookAfter(one.looks))
	heap.Push(&w.due, one)
	if !w.running && w.closed == nil {
		w.running = true
		w.work.Go(w.run)
	} else if one.index == 0 {
		w.nudge()
	}
}

func (w *watcher) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// look looks a request up now. Only an answer that cannot be read, and what
// no later look can mend, is an error.
func (w *watcher) look(ctx context.Context, one *watch) error {
	a, err := w.c.stored(ctx, one.subject)
	switch {
	case err == nil:
		w.tell(one.subject, a)
	case errors.Is(err, ErrNotPermitted), errors.Is(err, ErrClosed):
		return err
	case errors.Is(err, ErrNoAnswer):
		err = nil
	}
	w.mu.Lock()
	one.trouble = err
	w.mu.Unlock()
	return nil
}

// troubleOf is what last went wrong in looking a request up.
func (w *watcher) troubleOf(one *watch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return one.trouble
}

// run looks up what is due, until nothing is watched any more.
func (w *watcher) run() {
	status := w.c.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer w.c.nc.RemoveStatusListener(status)
	pace := rate.NewLimiter(looksASecond, looksAtOnce)
	turns := make(chan struct{}, looksAtOnce)
	lost := w.lost()
	for {
		select {
		case s := <-status:
			if s == nats.CONNECTED {
				w.afresh()
			}
		default:
		}
		if n := w.lost(); n > lost {
			lost = n
			w.afresh()
		}
		if w.c.nc.IsClosed() {
			w.end(fmt.Errorf("%w: %w", ErrClosed, nats.ErrConnectionClosed))
		}
		one, wait := w.nextDue()
		switch {
		case one != nil:
			if pace.Wait(w.looking) != nil {
				return // closed
			}
			turns <- struct{}{}
			w.work.Go(func() {
				defer func() { <-turns }()
				if err := w.look(w.looking, one); err != nil {
					w.fail(one, err)
				}
			})
			continue
		case wait == 0:
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-w.wake:
		case s := <-status:
			if s == nats.CONNECTED {
				w.afresh()
			}
		}
		timer.Stop()
	}
}

// lost is how many live answers came faster than they could be taken.
func (w *watcher) lost() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.live == nil {
		return 0
	}
	n, _ := w.live.Dropped() // of a subscription that has ended: none
	return n
}

// nextDue is the request to look up now, or how long there is none; neither:
// nothing is watched, and the looker ends.
func (w *watcher) nextDue() (*watch, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.due) == 0 {
		w.running = false
		return nil, 0
	}
	one, now := w.due[0], time.Now()
	if wait := one.next.Sub(now); wait > 0 {
		return nil, wait
	}
	one.looks++
	one.next = now.Add(lookAfter(one.looks))
	heap.Fix(&w.due, 0)
	if !w.c.nc.IsConnected() {
		return nil, firstLooks[0] // a look would only time out
	}
	return one, 0
}

// afresh has everything looked up soon again: live answers may be lost.
func (w *watcher) afresh() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, one := range w.due {
		one.looks, one.next = 0, now
	}
	heap.Init(&w.due)
}

// fail ends one watch.
func (w *watcher) fail(one *watch, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, still := w.watches[one.subject][one]; still {
		w.drop(one)
		one.got(Answer{}, err)
	}
}

// end ends every watch.
func (w *watcher) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, all := range w.watches {
		for one := range all {
			w.drop(one)
			one.got(Answer{}, err)
		}
	}
}

func (w *watcher) close() {
	w.mu.Lock()
	if w.closed == nil {
		w.closed = ErrClosed
	}
	live := w.live
	w.live = nil
	w.mu.Unlock()
	if live != nil {
		_ = live.Unsubscribe() // the connection is gone then
	}
	w.end(ErrClosed)
	w.stop()
	w.nudge()
	w.work.Wait()
}

// schedule is a heap of watches by their next look.
type schedule []*watch //nolint:recvcheck // only Push and Pop change its length

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].next.Before(s[j].next) }
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].index, s[j].index = i, j
}

// Push implements heap.Interface.
func (s *schedule) Push(one any) {
	w, _ := one.(*watch)
	w.index = len(*s)
	*s = append(*s, w)
}

// Pop implements heap.Interface.
func (s *schedule) Pop() any {
	last := (*s)[len(*s)-1]
	(*s)[len(*s)-1] = nil
	*s = (*s)[:len(*s)-1]
	last.index = -1
	return last
}
