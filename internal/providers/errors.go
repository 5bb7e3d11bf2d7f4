package providers

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrUnknownOperation is what Plan wraps when the provider has no such
	// operation. Nothing was spent.
	ErrUnknownOperation = errors.New("unknown operation")

	// ErrTooLarge is in Result.Err when a body is longer than MaxBody.
	ErrTooLarge = errors.New("the body is longer than 64 MiB")

	// ErrRetried is in Result.Err when a reused connection broke after it had
	// taken the request. net/http would ask again; the provider might count a
	// second call on one permit, so the attempt ends as transient instead.
	ErrRetried = errors.New("the connection broke after it had taken the request")

	// errEncoding: the bytes all came, but are not what their
	// Content-Encoding says, or it is one that we did not ask for.
	errEncoding = errors.New("bad content encoding")
)

// ParamError is what Plan returns for parameters that cannot be right. Its
// text names the parameter and what was expected. Nothing was spent.
type ParamError struct {
	Param    string // "" when the parameters as a whole are at fault
	Expected string
	Got      string // shortened; "" when nothing was given
}

func (e *ParamError) Error() string {
	var b strings.Builder
	if e.Param == "" {
		b.WriteString("params: expected ")
	} else {
		fmt.Fprintf(&b, "parameter %q: expected ", e.Param)
	}
	b.WriteString(e.Expected)
	if e.Got != "" {
		b.WriteString(", got ")
		b.WriteString(shorten(e.Got, 80))
	}
	return b.String()
}

// RightsError is what Rights.Check returns. Nothing was spent.
type RightsError struct {
	Agent, Provider, Operation, Right string
	Tier                              string // the tier that forbids it to everyone; "" if the agent does not hold it
}

func (e *RightsError) Error() string {
	if e.Tier != "" {
		return fmt.Sprintf("%s forbids %q to everyone on the %s tier", e.Provider, e.Right, e.Tier)
	}
	return fmt.Sprintf("agent %q does not hold the right %q, needed for %s %s", e.Agent, e.Right, e.Provider, e.Operation)
}
