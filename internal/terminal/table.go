package terminal

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Table writes aligned columns, a screenful at a time, so that any number of
// rows needs no more memory than one.
type Table struct {
	w       *tabwriter.Writer
	columns []string
	rows    int
}

const rowsAligned = 200 // together

// NewTable begins a table.
func NewTable(w io.Writer, columns ...string) *Table {
	return &Table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), columns: columns}
}

// Row writes a row. Its cells are made visible.
func (t *Table) Row(cells ...string) error {
	if t.rows%rowsAligned == 0 {
		if err := t.Flush(); err != nil {
			return err
		}
		if err := t.line(t.columns); err != nil {
			return err
		}
	}
	t.rows++
	return t.line(cells)
}

func (t *Table) line(cells []string) error {
	shown := make([]string, len(cells))
	for i, cell := range cells {
		shown[i] = Visible(cell)
	}
	if _, err := fmt.Fprintln(t.w, strings.Join(shown, "\t")); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// Flush writes what is aligned so far.
func (t *Table) Flush() error {
	if err := t.w.Flush(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
