package intake

import (
	"context"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/wire"
)

// Shard is one consumer that this worker takes messages from: of a provider,
// a lane and a shard of agents, or of a provider's replayed letters.
//
// It is asked while something waits in it or may come, and for a while longer.
// Otherwise it rests, and the server takes its consumer away after a time.
type Shard struct {
	Consumer string
	Lane     fetchworker.Lane // empty for replay
	Index    int              // -1 for replay
	// Make makes sure that the consumer exists, and tells since when it does and
	// whether it was made just now; nil: it exists, and the shard never rests.
	Make func(context.Context) (since time.Time, made bool, err error)
	// Shut reports that nothing may be taken now, since it could not be stored;
	// nil: never.
	Shut func() bool

	provider, stream string

	least  int               // look-ahead
	rate   func() float64    // calls a second that the limits allow
	ask    func(n int) error // asks the server for n more messages
	rise   func()            // has the consumer made
	mayEnd func() bool       // it would be heard if something came
	rest   time.Duration     // when nothing has come for so long

	mu      sync.Mutex
	open    bool      // the intake runs
	state   state     // whether messages may be asked for
	stirred time.Time // when something last came, or was known to wait
	since   time.Time // since when the consumer exists, or a time after that; zero: not known
	last    uint64    // the last of its deliveries
	again   bool      // it may be gone or another: it must be looked for
	lost    bool      // that is why it is being made
	making  bool      // it is being made or looked for
	asks    []ask     // what the server has not sent yet, the oldest first
	asked   int       // the sum of asks
	waiting int       // messages that came and have not started
	holding int       // messages that came and have not ended
	ahead   int       // the look-ahead of the moment
	pace    pace
	trip    time.Duration // that a message takes to come once it is asked for, while some wait

	heard    time.Time // from the server, about this shard
	retry    time.Time // after a failure, not before; zero: nothing is to be tried again
	pause    time.Duration
	fails    int       // that came in a row
	failedAt time.Time // the last of them
	failure  error
}

// state is where a shard is between rest and work.
type state int

const (
	resting state = iota // nothing is asked for
	rising               // its consumer is being made
	awake                // messages may be asked for
)

// RestAfter is how long nothing has come, and nothing has been known to wait,
// before a shard rests. An open pull request ends by itself.
const RestAfter = time.Minute

// ask is an open pull request. The server forgets it when it ends.
type ask struct {
	left int
	made time.Time
	met  bool // a message has come on it
}

// Requests is a provider's consumer for a lane and a shard of agents. rate is how
// many calls a second the provider's limits allow.
func Requests(provider, consumer string, lane fetchworker.Lane, index int, rate func() float64) *Shard {
	return &Shard{
		Consumer: consumer, Lane: lane, Index: index, provider: provider,
		stream: fetchworker.StreamRequests, least: lookAhead, ahead: lookAhead, rate: rate, pause: shortestPause, trip: paceOver,
	}
}

// Replays is a provider's consumer for letters that were sent back to work.
func Replays(provider, consumer string, rate func() float64) *Shard {
	return &Shard{
		Consumer: consumer, Index: -1, provider: provider,
		stream: wire.StreamReplay, least: lookAheadReplay, ahead: lookAheadReplay, rate: rate, pause: shortestPause, trip: paceOver,
	}
}

// Start says that a message waits no longer.
func (s *Shard) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting--
	s.quicken(time.Now())
	s.topUp()
}

// topUp asks for as many messages as there is room for, if it is worth a
// message: all of a short look-ahead, half of a long one.
func (s *Shard) topUp() {
	room := s.ahead - s.asked - s.waiting
	if !s.open || s.state != awake || s.Shut != nil && s.Shut() || room < (s.ahead+1)/2 || !s.retry.IsZero() || s.idle(time.Now()) {
		return
	}
	if err := s.ask(room); err != nil {
		s.failed(err)
		return
	}
	now := time.Now()
	if s.asked == 0 {
		s.heard = now // from now on there is something to be heard
	}
	s.asks = append(s.asks, ask{left: room, made: now})
	s.asked += room
}

// came notes a message that the server sent, the consumer's nth delivery.
func (s *Shard) came(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.word()
	if n <= s.last { // it counts anew: this is another consumer
		s.since = s.heard.Add(unsure)
	}
	s.last = n
	if len(s.asks) > 0 && !s.asks[0].met {
		s.asks[0].met = true
		s.took(s.heard.Sub(s.asks[0].made))
	}
	s.answered(1)
	s.waiting++
	s.holding++
	s.stirred, s.state = s.heard, awake // perhaps on a request that was still open
}

// over notes that the server has ended a pull request, and what it had not
// sent of it.
func (s *Shard) over(left int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.word()
	s.answered(left)
	s.topUp()
}

// beats notes that the server still knows of our requests.
func (s *Shard) beats() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.word()
}

func (s *Shard) word() {
	s.heard = time.Now()
	s.fails, s.pause = 0, shortestPause
}

func (s *Shard) answered(n int) {
	for n > 0 && len(s.asks) > 0 {
		took := min(n, s.asks[0].left)
		n, s.asked, s.asks[0].left = n-took, s.asked-took, s.asks[0].left-took
		if s.asks[0].left == 0 {
			s.asks = append(s.asks[:0], s.asks[1:]...)
		}
	}
}

// End says that a message is out of this worker's hands.
func (s *Shard) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding--
}

// Held is how many messages are in this worker's hands.
func (s *Shard) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holding
}

// fail notes that the server refused a request, or that none reached it. All
// that was asked for is void, and asked for anew after a pause.
func (s *Shard) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed(err)
}

func (s *Shard) failed(err error) {
	s.forget()
	s.again = s.Make != nil
	if !s.retry.IsZero() {
		return // of the same failure
	}
	now := time.Now()
	s.fails++
	s.failedAt, s.failure = now, err
	s.retry = now.Add(s.pause)
	s.pause = min(2*s.pause, longestPause)
}

func (s *Shard) forget() { s.asks, s.asked = s.asks[:0], 0 }

// begin asks for messages, for the first time or because the server has
// forgotten what was asked for.
func (s *Shard) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	s.open, s.retry = true, time.Time{}
	switch {
	case s.Make == nil:
		s.state = awake
		s.topUp()
	case s.state == awake:
		// It is asked at once and looked for besides: while the server answers no
		// look, it may give work all the same. Until it has been seen it may be
		// another consumer than before.
		s.since = time.Now().Add(unsure)
		s.topUp()
		s.raise(true)
	}
}

// close asks for nothing more.
func (s *Shard) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = false
}

// Stir says that something waits in the shard, or is about to come.
func (s *Shard) Stir() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stirred = time.Now(); !s.open {
		return
	}
	if s.state == resting {
		s.wake(false)
	} else {
		s.topUp() // it may have been about to rest
	}
}

func (s *Shard) wake(lost bool) {
	s.state = rising
	s.raise(lost)
}

// raise has the consumer looked for, and made if it is missing.
func (s *Shard) raise(lost bool) {
	s.again, s.lost = false, lost
	if !s.making {
		s.making = true
		s.rise()
	}
}

// risen notes that the consumer exists, or why it could not be made. Then it is
// asked all the same: it may be only an answer that was lost. It reports whether
// the consumer was gone while it was asked, and whether to try again.
func (s *Shard) risen(since time.Time, made bool, err error) (lost, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if again = err != nil && s.open && !s.answers(); !again {
		s.making = false
	}
	s.state, s.since = awake, since
	if err == nil {
		s.retry = time.Time{} // whatever was wrong with what was asked before
	} else {
		s.since = now.Add(unsure)
		s.fails++
		s.failedAt, s.failure = now, err
	}
	if made {
		s.last = 0
	}
	// What was asked before there was anybody to ask is void.
	if made || err == nil && s.asked > 0 && !s.answers() && since.After(s.asks[0].made.Add(-unsure)) {
		s.forget()
	}
	s.topUp()
	return made && s.lost, again
}

// answers reports whether the server has said anything about what is asked for.
func (s *Shard) answers() bool {
	return s.asked > 0 && s.heard.After(s.asks[0].made)
}

// unsure is how far the clocks of servers and workers may be apart.
const unsure = 5 * time.Second

// Older reports whether a message is, or may be, older than the shard's
// consumer: then that it is delivered for the first time says nothing of what
// an earlier consumer made of it.
func (s *Shard) Older(stored time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Make != nil && stored.Before(s.since.Add(unsure))
}

// idle reports whether the shard may rest: nothing has come for a while, this
// worker holds nothing of it, and would hear if anything came.
func (s *Shard) idle(now time.Time) bool {
	return s.Make != nil && s.holding == 0 && now.Sub(s.stirred) >= s.rest && s.mayEnd()
}

// tires reports whether the shard rests, or will when it is sure to be heard.
func (s *Shard) tires(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == resting || s.Make != nil && s.holding == 0 && now.Sub(s.stirred) >= s.rest
}

// look does what time alone brings: it drops requests that the server must
// have ended, tries again after a failure, finds that the server is silent, and
// lets the shard rest. It tells when to look again at the latest; zero: not
// until it is stirred.
func (s *Shard) look(now time.Time) (next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next = now.Add(time.Second)
	if !s.open || s.state == resting {
		return time.Time{}
	}
	for len(s.asks) > 0 && now.After(s.asks[0].made.Add(pullLasts+pullBeats)) {
		s.answered(s.asks[0].left)
	}
	if s.asked > 0 && now.Sub(s.heard) > 2*pullBeats {
		s.failed(errSilent)
	}
	switch {
	case s.state == rising:
		return next
	case s.retry.IsZero():
		if s.asked == 0 && s.idle(now) {
			s.state = resting
			return time.Time{}
		}
	case now.Before(s.retry):
		return s.retry
	default:
		s.retry = time.Time{}
		if s.again {
			s.wake(true)
			return next
		}
	}
	s.topUp()
	return next
}

const (
	// failsUntilDown failures in a row make a shard count as cut off: one alone
	// is what a moved leader looks like.
	failsUntilDown = 3
	// downFor after the last of them: a request that was taken says so only
	// with its first heartbeat.
	downFor = 15 * time.Second

	shortestPause = 100 * time.Millisecond
	longestPause  = 2 * time.Second
)

// Down is why the shard gives no work, nil if it does.
func (s *Shard) Down() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails < failsUntilDown || time.Since(s.failedAt) > downFor {
		return nil
	}
	return s.failure
}
