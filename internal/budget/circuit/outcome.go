package circuit

import "errors"

// Outcome is how a call ended, as far as the gate cares.
type Outcome int

// The outcomes. The zero value is the safe one on a path that forgot.
const (
	Unused    Outcome = iota // no call was made: the permit goes back
	Success                  // the provider answered, be it "no such symbol"
	Failure                  // transient or unauthorized: the provider's fault
	Throttled                // 429 and its likes
	Neutral                  // says nothing about the provider: cancelled, too large
)

var (
	errCallFailed = errors.New("call failed")
	errNoVerdict  = errors.New("says nothing about the provider")
)

// Verdict is an outcome in gobreaker's words.
func Verdict(o Outcome) error {
	switch o {
	case Success:
		return nil
	case Failure:
		return errCallFailed
	case Unused, Throttled, Neutral:
	}
	return errNoVerdict
}
