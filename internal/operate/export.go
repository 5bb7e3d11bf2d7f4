package operate

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"fetchworker/internal/browse"
	"fetchworker/internal/terminal"
)

// ExportColumns are the columns of a table of letters or items.
var ExportColumns = []string{
	"provider", "operation", "agent", "id", "lane", "generation", "calls", "failures", "class", "code", "http_status", "error",
	"requested_at", "first_failed_at", "failed_at", "trace_id", "request",
}

// ExportCells are the cells of one. A sheet takes none of them for a formula, and
// a terminal obeys none.
func ExportCells(f browse.Found) []string {
	moment := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	cells := []string{
		f.Provider, f.Operation, f.Agent, f.ID, string(f.Lane), strconv.Itoa(f.Generation), strconv.Itoa(f.Calls), strconv.Itoa(f.Failures),
		string(f.Class), string(f.Code), strconv.Itoa(f.HTTPStatus), f.Error,
		moment(f.RequestedAt), moment(f.FirstFailedAt), moment(f.FailedAt), TraceID(f.Traceparent),
	}
	for i := range cells {
		cells[i] = Harmless(terminal.Visible(cells[i]))
	}
	var line bytes.Buffer
	_ = json.Compact(&line, RequestJSON(f.Body)) // it is JSON: cannot fail
	return append(cells, Harmless(string(terminal.JSON(line.Bytes()))))
}

// RequestJSON is the request as JSON: itself, or, if it is none, the text of
// it, since somebody has to see what a broken producer sends.
func RequestJSON(body []byte) json.RawMessage {
	if json.Valid(body) && utf8.Valid(body) {
		return body
	}
	text, _ := json.Marshal(strings.ToValidUTF8(string(body), "\uFFFD")) // a string: cannot fail
	return text
}

// TraceID is the trace of a traceparent, empty if it is none.
func TraceID(traceparent string) string {
	if parts := strings.Split(traceparent, "-"); len(parts) == 4 {
		return parts[1]
	}
	return ""
}

// formula is what a sheet would calculate: at the beginning of a cell, or
// after what a sheet of another country takes for the end of one.
var formula = regexp.MustCompile(`(^|[;\t\r\n|])([ \t]*)([=+\-@])`)

// Harmless keeps a sheet from running as a formula what an agent or a
// provider wrote.
func Harmless(s string) string { return formula.ReplaceAllString(s, "$1$2'$3") }
