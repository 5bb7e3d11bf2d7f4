package circuit

import "errors"

// Outcome is how a call ended, as far as permits and circuits care.
type Outcome int

// The outcomes. The zero value is the safe one on a path that forgot.
const (
	Unused       Outcome = iota // no call was made: the permit goes back
	Success                     // the provider answered, be it "no such symbol"
	Failure                     // a 5xx, a time-out, something in between that answered: evidence
	Unreached                   // no connection: evidence, and against the whole provider
	Unauthorized                // the key was refused: evidence, and against the whole provider
	Odd                         // an answer, but not to what was asked: no evidence
	Throttled                   // 429 and its likes
	Neutral                     // says nothing about the provider: cancelled, too large
)

// Failed reports whether nothing that was asked for came back.
func (o Outcome) Failed() bool { return o.hard() || o == Odd }

// hard reports whether it is evidence.
func (o Outcome) hard() bool { return o == Failure || o == Unreached || o == Unauthorized }

var (
	errCallFailed = errors.New("call failed")
	errNoVerdict  = errors.New("says nothing about the provider")
)

// verdict is an outcome in gobreaker's words.
func (o Outcome) verdict() error {
	switch {
	case o == Success:
		return nil
	case o.Failed():
		return errCallFailed
	}
	return errNoVerdict
}
