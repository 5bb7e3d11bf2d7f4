package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"time"

	"fetchworker/internal/browse"
	"fetchworker/internal/operate"
)

// exportJSON writes whole records, one JSON object a line.
func exportJSON(out io.Writer) sink {
	return jsonSink(out, func(l letterLine, f browse.Found) any { return l.whole(f) })
}

// exportCSV writes the same fields as far as a sheet can hold them.
func exportCSV(out io.Writer) sink {
	w := csv.NewWriter(out)
	headed := false
	write := func(_ letterLine, f browse.Found, _ time.Time) error {
		if !headed {
			headed = true
			if err := w.Write(operate.ExportColumns); err != nil {
				return fmt.Errorf("write: %w", err)
			}
		}
		if err := w.Write(operate.ExportCells(f)); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		return nil
	}
	return sink{write, func() error { w.Flush(); return w.Error() }}
}
