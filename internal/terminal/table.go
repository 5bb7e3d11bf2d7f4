package terminal

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// Table writes aligned columns, a screenful at a time, so that any number of
// rows needs no more memory than one.
type Table struct {
	w       *tabwriter.Writer
	columns []string
	rows    int
	fit     *fitting
}

const rowsAligned = 200 // together

// NewTable begins a table.
func NewTable(w io.Writer, columns ...string) *Table {
	fit := &fitting{out: w}
	return &Table{w: tabwriter.NewWriter(fit, 0, 0, 2, ' ', 0), columns: columns, fit: fit}
}

// Fit cuts lines to so many characters; 0: not at all.
func (t *Table) Fit(width int) *Table {
	t.fit.width = width
	return t
}

// fitting cuts each line that is longer than a terminal is wide.
type fitting struct {
	out   io.Writer
	width int
	line  []byte
}

func (f *fitting) Write(p []byte) (int, error) {
	if f.width <= 0 {
		return f.out.Write(p)
	}
	f.line = append(f.line, p...)
	for {
		i := bytes.IndexByte(f.line, '\n')
		if i < 0 {
			return len(p), nil
		}
		text := f.line[:i]
		if utf8.RuneCount(text) > f.width {
			text = []byte(string([]rune(string(text))[:f.width-1]) + "…")
		}
		if _, err := f.out.Write(append(slices.Clone(text), '\n')); err != nil {
			return 0, err
		}
		f.line = f.line[i+1:]
	}
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
