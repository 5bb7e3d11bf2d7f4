package plan

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"fetchworker/internal/providers/sheet"
)

// inOrder refuses a span whose end lies before its start: an API answers it
// with an error, or with nothing. Spans are known by their names: from and to,
// since and until, start_… and end_…, …_start and …_end, …_gte and …_lte.
func inOrder(op *sheet.Operation, values map[string]string) error {
	for i := range op.Params {
		first := &op.Params[i]
		second := op.Param(endOf(first.Name))
		if second == nil || values[first.Name] == "" || values[second.Name] == "" {
			continue
		}
		if after(first, values[first.Name], second, values[second.Name]) {
			return &sheet.ParamError{
				Param: first.Name, Expected: fmt.Sprintf("nothing after %s, which is %s", second.Name, values[second.Name]),
				Got: values[first.Name],
			}
		}
	}
	return nil
}

// endOf is the name of the end of a span that begins with a parameter of that
// name, "" if it begins none.
func endOf(name string) string {
	switch name {
	case "from":
		return "to"
	case "since":
		return "until"
	}
	for _, pair := range [][2]string{{"_start", "_end"}, {"_gte", "_lte"}, {"_from", "_to"}} {
		if stem, ok := strings.CutSuffix(name, pair[0]); ok {
			return stem + pair[1]
		}
	}
	if rest, ok := strings.CutPrefix(name, "start_"); ok {
		return "end_" + rest
	}
	return ""
}

// zones is how far two texts can lie apart that mean the same moment, where
// one of them does not say its zone.
const zones = 14 * time.Hour

// after reports whether a value surely lies after another.
func after(p *sheet.Param, value string, other *sheet.Param, end string) bool {
	if p.Type == sheet.TypeNumber || p.Type == sheet.TypeInt {
		a, errA := strconv.ParseFloat(value, 64)
		b, errB := strconv.ParseFloat(end, 64)
		return errA == nil && errB == nil && a > b
	}
	from, fromExact, ok := moment(p, value)
	to, toExact, known := moment(other, end)
	if !ok || !known {
		return false
	}
	if fromExact == toExact {
		return from.After(to)
	}
	if !toExact { // the whole of its day
		to = to.Add(24 * time.Hour)
	}
	return from.After(to.Add(zones))
}

// moment is the time a value means; exact is false for a day, or a time
// without a zone.
func moment(p *sheet.Param, text string) (at time.Time, exact, ok bool) {
	switch p.Type {
	case sheet.TypeDate, sheet.TypeDateOrMS, sheet.TypeTime:
	case sheet.TypeString, sheet.TypeInt, sheet.TypeNumber, sheet.TypeBool, sheet.TypeEnum, sheet.TypeCSV:
		return at, false, false
	}
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.UnixMilli(ms), true, true
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, true, true
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02T15:04:05"} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, false, true
		}
	}
	return at, false, false
}
