package sheet

import (
	"fmt"
	"strconv"
	"strings"
)

// Mistake is one thing about a sheet that cannot be right.
type Mistake struct {
	Path string // where, as a catalogue writes it: operations.quote.params.symbol.max
	Text string // what was found there and what was expected
}

// Mistakes are all that are wrong with a sheet.
type Mistakes []Mistake //nolint:errname // a list that is an error, too

func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, one := range m {
		lines[i] = strings.TrimPrefix(one.Path+": "+one.Text, ": ")
	}
	return strings.Join(lines, "\n")
}

// check walks a sheet: it is at one place of it, and notes what is wrong there.
type check struct {
	path  string
	found *Mistakes
}

// at is the place below this one.
func (c check) at(name string) check {
	if c.path != "" {
		name = c.path + "." + name
	}
	return check{name, c.found}
}

// item is the place of a list's item.
func (c check) item(i int) check { return c.at(strconv.Itoa(i)) }

func (c check) wrong(format string, args ...any) {
	*c.found = append(*c.found, Mistake{c.path, fmt.Sprintf(format, args...)})
}

// only notes that a field is given which is ignored.
func (c check) only(field string, given bool, with string) {
	if given {
		c.at(field).wrong("expected only with %s", with)
	}
}
