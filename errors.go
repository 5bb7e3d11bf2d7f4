package fetchworker

import (
	"errors"
	"fmt"
)

// What the client's methods return, for errors.Is. Beside these there are
// *RequestError (the request breaks a rule and was not published),
// *PendingError (no final answer was seen before the context ended) and,
// from Answer.Err and Answer.Decode, *Problem (the final answer is a failure).
var (
	// ErrNoAnswer says that nothing is stored under an identity: never asked,
	// or not answered yet, or aged out.
	ErrNoAnswer = errors.New("no answer is stored")

	// ErrBodyCorrupt says that a stored body is not what its answer promises.
	ErrBodyCorrupt = errors.New("the stored body does not match its claim check")

	// ErrQueueFull says that the queue takes no more requests now: of this
	// agent, or at all. Nothing was stored; ask again later.
	ErrQueueFull = errors.New("the queue of requests is full")

	// ErrNotPermitted says that the server lets this connection's user not do
	// what was asked, such as publish or read in another agent's name.
	ErrNotPermitted = errors.New("the server does not permit it")

	// ErrIDReused says that the id was used before for something else: what is
	// stored under it answers another operation's or other parameters' request.
	ErrIDReused = errors.New("the id was used before for another request")

	// ErrNobodyServes says that no worker is there to take an order such as a
	// cancellation, which needs one at once.
	ErrNobodyServes = errors.New("no worker answers")

	// ErrClosed says that the client or its connection was closed.
	ErrClosed = errors.New("the client is closed")
)

// PendingError says that no final answer was seen before the context ended.
// The request goes on: Result or Wait finds its answer later. It wraps the
// context's error and, if the request is known to wait, the *Problem that
// says why and until when.
type PendingError struct {
	Identity Identity
	Last     *Answer // the newest that was seen, waiting or provisional; nil: none
	Cause    error   // the context's error
	Trouble  error   // what last went wrong in looking for it, nil if nothing did
}

func (e *PendingError) Error() string {
	text := fmt.Sprintf("await %s: %v", e.Identity, e.Cause)
	switch {
	case e.Last != nil && e.Last.Problem != nil:
		text += " (" + string(e.Last.Status) + ", " + e.Last.Problem.Error() + ")"
	case e.Last != nil:
		text += " (last: " + string(e.Last.Status) + ")"
	case e.Trouble != nil:
		text += " (last: " + e.Trouble.Error() + ")"
	}
	return text
}

// Unwrap is what the error is made of.
func (e *PendingError) Unwrap() []error {
	all := []error{e.Cause}
	if e.Last != nil && e.Last.Problem != nil {
		all = append(all, e.Last.Problem)
	}
	if e.Trouble != nil {
		all = append(all, e.Trouble)
	}
	return all
}
