package sheet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"fetchworker/internal/providers/scan"
)

const (
	maxParamLen = 512 // characters of a string parameter that gives no Max
	maxItems    = 100 // items of a csv parameter that gives no Max
)

var numberPattern = regexp.MustCompile(`^-?\d{1,15}(\.\d{1,12})?$`)

// Value turns the JSON value of a parameter into its one text on the wire.
func (p *Param) Value(raw json.RawMessage, pattern *regexp.Regexp) (string, error) {
	if p.isText() && isBare(raw) {
		// A number has lost the zeros of 005930 already, and what it is sent as
		// would be a guess.
		quoted, _ := json.Marshal(string(raw)) // a string always marshals
		return "", &ParamError{Param: p.Name, Expected: p.Expects() + ", as a text: write " + string(quoted), Got: string(raw)}
	}
	text, ok := p.text(raw)
	if ok {
		text, ok = p.canonical(text, pattern)
	}
	if !ok {
		return "", &ParamError{Param: p.Name, Expected: p.Expects(), Got: string(raw)}
	}
	return text, nil
}

// isText reports whether a value is a text, and no number or truth written as
// one.
func (p *Param) isText() bool { return p.Type == TypeString || p.Type == TypeCSV }

// isBare reports whether a JSON value is a number or a boolean: its first byte
// tells.
func isBare(raw json.RawMessage) bool {
	if len(raw) == 0 {
		return false
	}
	switch c := raw[0]; c {
	case '-', 't', 'f':
		return true
	default:
		return c >= '0' && c <= '9'
	}
}

// text is the value as it was written, without JSON's quotes; a list is
// joined by commas.
func (p *Param) text(raw json.RawMessage) (string, bool) {
	if n := len(raw); n > 1 && raw[0] == '"' && scan.IsPlain(raw[1:n-1]) {
		return string(raw[1 : n-1]), true // nearly always, and a decoder costs twelve allocations
	}
	var value any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if dec.Decode(&value) != nil {
		return "", false
	}
	if list, ok := value.([]any); ok && p.Type == TypeCSV {
		items := make([]string, len(list))
		for i, item := range list {
			text, ok := item.(string)
			if !ok || strings.Contains(text, ",") {
				return "", false
			}
			items[i] = text
		}
		return strings.Join(items, ","), true
	}
	return Scalar(value)
}

// Scalar is the text of a JSON string, number or boolean.
func Scalar(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// canonical checks the text against the type and gives the one form that
// equal values share, which is what makes cache keys equal.
func (p *Param) canonical(text string, pattern *regexp.Regexp) (string, bool) {
	if text == "" || strings.ContainsFunc(text, unicode.IsControl) {
		return "", false
	}
	switch p.Type {
	case TypeInt:
		n, err := strconv.ParseInt(text, 10, 64)
		least := p.Min
		if p.Low != "" {
			least = int64(decimal(p.Low))
		}
		return strconv.FormatInt(n, 10), err == nil && n >= least && (p.Max == 0 || n <= p.Max) && (p.High == "" || float64(n) <= decimal(p.High))
	case TypeNumber:
		inside := (p.Low == "" || decimal(text) >= decimal(p.Low)) && (p.High == "" || decimal(text) <= decimal(p.High))
		return text, numberPattern.MatchString(text) && inside
	case TypeBool:
		return text, text == "true" || text == "false"
	case TypeEnum:
		return text, slices.Contains(p.Enum, text)
	case TypeDate:
		return text, isTime(text, time.DateOnly)
	case TypeDateOrMS:
		ms, err := strconv.ParseInt(text, 10, 64)
		return text, isTime(text, time.DateOnly) || err == nil && ms >= 1e11 && ms < 1e14
	case TypeTime:
		return text, isTime(text, time.DateOnly, "2006-01-02T15:04:05", time.RFC3339)
	case TypeCSV:
		items := strings.Split(text, ",")
		for i, item := range items {
			items[i] = strings.TrimSpace(item)
			if items[i] == "" || !p.matches(items[i], pattern) {
				return "", false
			}
		}
		return strings.Join(items, ","), int64(len(items)) <= orDefault(p.Max, maxItems)
	case TypeString:
	}
	return text, int64(len([]rune(text))) <= orDefault(p.Max, maxParamLen) && p.matches(text, pattern)
}

// decimal is the number a text is; it has been found to be one.
func decimal(text string) float64 {
	n, _ := strconv.ParseFloat(text, 64)
	return n
}

func (p *Param) matches(text string, pattern *regexp.Regexp) bool {
	return (len(p.Enum) == 0 || slices.Contains(p.Enum, text)) && (pattern == nil || pattern.MatchString(text))
}

func isTime(text string, layouts ...string) bool {
	return slices.ContainsFunc(layouts, func(layout string) bool {
		_, err := time.Parse(layout, text)
		return err == nil
	})
}

func orDefault(n, otherwise int64) int64 {
	if n == 0 {
		return otherwise
	}
	return n
}

// Expects says in words what values the parameter takes.
func (p *Param) Expects() string {
	if p.Expected != "" {
		return p.Expected
	}
	switch p.Type {
	case TypeInt:
		if p.Max == 0 && p.High == "" {
			return fmt.Sprintf("a whole number from %d", p.Min)
		}
		return fmt.Sprintf("a whole number from %d to %d", p.Min, p.Max)
	case TypeNumber:
		switch {
		case p.Low != "" && p.High != "":
			return "a decimal number from " + p.Low + " to " + p.High
		case p.Low != "":
			return "a decimal number from " + p.Low
		case p.High != "":
			return "a decimal number up to " + p.High
		}
		return "a decimal number"
	case TypeBool:
		return "true or false"
	case TypeEnum:
		return "one of " + strings.Join(p.Enum, ", ")
	case TypeDate:
		return "a date YYYY-MM-DD"
	case TypeDateOrMS:
		return "a date YYYY-MM-DD or Unix milliseconds (13 digits)"
	case TypeTime:
		return "a time YYYY-MM-DD, YYYY-MM-DDTHH:MM:SS or RFC 3339"
	case TypeCSV:
		return fmt.Sprintf("1 to %d texts, as a list or joined by commas%s", orDefault(p.Max, maxItems), p.items())
	case TypeString:
	}
	return fmt.Sprintf("a text of 1 to %d characters%s", orDefault(p.Max, maxParamLen), p.items())
}

func (p *Param) items() string {
	if len(p.Enum) > 0 {
		return " from " + strings.Join(p.Enum, ", ")
	}
	if p.Pattern != "" {
		return " that match " + p.Pattern
	}
	return ""
}

// WireName is the name under which a parameter is sent.
func (p *Param) WireName() string {
	if p.Wire != "" {
		return p.Wire
	}
	return p.Name
}
