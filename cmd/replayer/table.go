package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// table writes aligned columns, a screenful at a time, so that any number of
// rows needs no more memory than one.
type table struct {
	w       *tabwriter.Writer
	columns []string
	rows    int
}

const rowsAligned = 200 // together

func newTable(w io.Writer, columns ...string) *table {
	return &table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), columns: columns}
}

func (t *table) row(cells ...string) error {
	if t.rows%rowsAligned == 0 {
		if err := t.flush(); err != nil {
			return err
		}
		if err := t.line(t.columns); err != nil {
			return err
		}
	}
	t.rows++
	return t.line(cells)
}

func (t *table) line(cells []string) error {
	if _, err := fmt.Fprintln(t.w, strings.Join(cells, "\t")); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

func (t *table) flush() error {
	if err := t.w.Flush(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
