package fetch

import (
	"context"
	"sync"
	"time"

	"fetchworker/internal/budget"
	"fetchworker/internal/wait"

	"github.com/nats-io/nats.go"
)

// restarts knows when the server was last another than before. One that is killed
// has forgotten what it gave out just then, and one whose disk was full all that
// it gave out since: it gives it out again, as if for the first time, while who
// has it in hand is calling, or waits with its answer until the server is back.
//
// So what lay there before a restart is not called for at once: whoever has an
// answer gets the time to store it, which then is looked for, and of all who have
// the request one calls. The servers of a cluster remember for each other.
type restarts struct {
	nc *nats.Conn

	mu   sync.Mutex
	home string    // the server's id: one that is started again has another
	last time.Time // when it was first seen to be another; zero: never
}

const (
	// settlesIn is how long after a restart whoever has an answer has stored it: a
	// write is sent again each second.
	settlesIn = 2 * time.Second
	// forgottenFor is how long after a restart what was forgotten comes again: it
	// was in somebody's hands, and all ask for as much as they have room for.
	forgottenFor = 10 * time.Second
	// claimsWithin is how long after a restart a claim that cannot be had is asked
	// for again: the server may stand still, for all who have the request.
	claimsWithin = time.Minute
)

func newRestarts(nc *nats.Conn) *restarts {
	r := &restarts{nc: nc}
	r.at()
	return r
}

// run notices restarts as they come, until ctx ends.
func (s *restarts) run(ctx context.Context) {
	connected := s.nc.StatusChanged(nats.CONNECTED)
	defer s.nc.RemoveStatusListener(connected)
	for {
		s.at()
		select {
		case <-connected:
		case <-ctx.Done():
			return
		}
	}
}

// at is when the last restart was noticed; zero: there was none.
func (s *restarts) at() time.Time {
	home := s.nc.ConnectedServerId()
	s.mu.Lock()
	defer s.mu.Unlock()
	if home != s.home {
		s.move(home, s.nc.ConnectedClusterName() != "")
	}
	return s.last
}

// move takes note of another server; none: there is no connection.
func (s *restarts) move(home string, clustered bool) {
	if home == "" || home == s.home {
		return
	}
	if s.home != "" && !clustered {
		s.last = time.Now()
	}
	s.home = home
}

// longAgo reports whether the last restart is so.
func (s *restarts) longAgo() bool { return time.Since(s.at()) >= claimsWithin }

// outlived reports whether a message lay there before the last restart, by the
// server's clock, and when that was.
func (s *restarts) outlived(r *request) (at time.Time, is bool) {
	at = s.at() // which for nearly all there was none of: what time it is need not be known
	return at, !at.IsZero() && r.stored.Before(at.Add(time.Until(r.now())))
}

// disputed reports whether another, too, may have a request in hand, and how
// long those who have it are to be waited for.
func (s *restarts) disputed(r *request) (is bool, settles time.Duration) {
	at, outlived := s.outlived(r)
	if !outlived || r.came.Sub(at) >= forgottenFor {
		return false, 0
	}
	return true, time.Until(at.Add(settlesIn))
}

// settled waits until whoever else may have a request in hand has stored its
// answer.
func (w *Worker) settled(ctx context.Context, r *request) error {
	for {
		disputed, settles := w.restarts.disputed(r)
		if !disputed || settles <= 0 {
			return nil
		}
		if err := wait.For(ctx, settles); err != nil {
			return err
		}
	}
}

// unsettled is why a request may not be called for now, nil if it may.
func (w *Worker) unsettled(r *request) error {
	if disputed, settles := w.restarts.disputed(r); disputed && settles > 0 {
		return budget.ErrLapsed
	}
	return nil
}
