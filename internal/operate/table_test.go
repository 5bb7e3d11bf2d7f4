package operate_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"fetchworker/internal/browse"
	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"
)

// No cell of a table is a formula, whoever wrote what is in it.
func TestNoCellIsAFormula(t *testing.T) {
	l := letter("q-1")
	l.Error, l.Body, l.Traceparent = "=1+1", []byte("@SUM(1)"), "00-=x-y-01"
	for i, cell := range operate.ExportCells(browse.Found{Letter: l}) {
		if cell != "" && strings.ContainsAny(cell[:1], "=+-@") {
			t.Errorf("%s: %s", operate.ExportColumns[i], cell)
		}
	}
}

// No cell of a table is obeyed by a terminal, and a request in it is the JSON
// that it was.
func TestNoCellIsObeyedByATerminal(t *testing.T) {
	l := letter("q-1")
	body := "{\"params\":{\"symbol\":\"A\u202eB\u009bC\u2028D\u200b\"}}"
	for _, bytes := range []string{body, "\x1b[2J\x9b\xff", "\"\u202e\"", "a\r\nb\x00\x7f", "{\"params\":\r\n\t{}}"} {
		l.Error, l.Body, l.Agent, l.Operation = "\x1b]52;c;eA==\x07\u009b2J\u2066\r\n\xff", []byte(bytes), "al\x1bice", "quo\u202ete"
		cells := operate.ExportCells(browse.Found{Letter: l})
		for i, cell := range cells {
			if cell != terminal.Visible(cell) {
				t.Errorf("%s: %q", operate.ExportColumns[i], cell)
			}
		}
		var before, after any
		if err := json.Unmarshal(operate.RequestJSON(l.Body), &before); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(cells[len(cells)-1]), &after); err != nil || !reflect.DeepEqual(before, after) {
			t.Errorf("%q became %q: %v", bytes, cells[len(cells)-1], err)
		}
	}
}
