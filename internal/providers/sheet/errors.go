package sheet

import (
	"fmt"
	"strings"

	"fetchworker/internal/providers/redact"
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
