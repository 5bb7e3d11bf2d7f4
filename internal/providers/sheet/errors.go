package sheet

import (
	"fmt"
	"slices"
	"strings"

	"fetchworker/internal/providers/redact"
	"fetchworker/internal/wire"
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
		b.WriteString(redact.Shorten(e.Got, 80))
	}
	return b.String()
}

// ToldUnderSuccess reports whether a rule tells an error from an answer where
// the status is 2xx. Without one an error that comes so is kept as an answer.
func (s *Spec) ToldUnderSuccess() bool {
	return slices.ContainsFunc(s.ErrorRules, func(r Rule) bool {
		success := func(status int) bool { return status == 2 || status/100 == 2 }
		return r.Class != wire.ClassOK && (len(r.Status) == 0 || slices.ContainsFunc(r.Status, success))
	})
}
