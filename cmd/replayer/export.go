package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"time"

	"fetchworker/internal/browse"
)

// exportJSON writes whole records, one JSON object a line.
func exportJSON(out io.Writer) sink {
	return jsonSink(out, func(l letterLine, f browse.Found) any { return l.whole(f) })
}

var exportColumns = []string{
	"provider", "operation", "agent", "id", "lane", "generation", "calls", "failures", "class", "code", "http_status", "error",
	"requested_at", "first_failed_at", "failed_at", "trace_id", "request",
}

// exportCSV writes the same fields as far as a sheet can hold them.
func exportCSV(out io.Writer) sink {
	w := csv.NewWriter(out)
	headed := false
	write := func(l letterLine, f browse.Found, _ time.Time) error {
		if !headed {
			headed = true
			if err := w.Write(exportColumns); err != nil {
				return fmt.Errorf("write: %w", err)
			}
		}
		cells := []string{
			l.Provider, l.Operation, l.Agent, l.ID, string(l.Lane), strconv.Itoa(l.Generation), strconv.Itoa(l.Calls), strconv.Itoa(l.Failures),
			l.Class, l.Code, strconv.Itoa(l.HTTPStatus), l.Error,
			moments(l.RequestedAt), moments(l.FirstFailedAt), moments(l.FailedAt), l.TraceID, string(requestJSON(f.Body)),
		}
		for i := range cells {
			cells[i] = harmless(cells[i])
		}
		if err := w.Write(cells); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		return nil
	}
	return sink{write, func() error { w.Flush(); return w.Error() }}
}

func moments(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// formula is what a sheet would calculate: at the beginning of a cell, or
// after what a sheet of another country takes for the end of one.
var formula = regexp.MustCompile(`(^|[;\t\r\n|])([ \t]*)([=+\-@])`)

// harmless keeps a sheet from running as a formula what an agent or a
// provider wrote.
func harmless(s string) string { return formula.ReplaceAllString(s, "$1$2'$3") }
