package main

import (
	"strings"
	"testing"

	"fetchworker"
)

// TestHostileTables: a table that is none says on which line, and what is read
// before it is asked.
func TestHostileTables(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		asked int
		line  int // of the error; 0: there is none
	}{
		"nothing":              {"", 0, 1},
		"names only":           {"symbol\n", 0, 0},
		"good":                 {"symbol\nAAPL\nMSFT\n", 2, 0},
		"a byte order mark":    {"\ufeffsymbol\nAAPL\n", 1, 0},
		"a mark and quotes":    {"\ufeff\"symbol\"\n\"AAPL\"\n", 1, 0},
		"an open quote":        {"symbol\nAAPL\n\"bad\nMSFT\n", 1, 3},
		"a quote in the field": {"symbol\nA\"B\n", 0, 2},
		"a quote that goes on": {"symbol\n\"A\"B\n", 0, 2},
		"an open quote alone":  {"symbol\n\"", 0, 2},
		"too many fields":      {"symbol\nA,B\nC\n", 1, 2},
		"zero bytes":           {"symbol\n\x00\n", 1, 0},
		"names with a quote":   {"sym\"bol\nA\n", 0, 1},
		"carriage returns":     {"symbol\r\nAAPL\r\n", 1, 0},
	} {
		asks, line := 0, 0
		table(strings.NewReader(c.text), fetchworker.Request{}, func(a asked) bool {
			switch {
			case a.err != nil:
				line = a.line
			case !strings.HasPrefix(string(a.r.Params), `{"symbol":`):
				t.Errorf("%s: %s", name, a.r.Params)
			default:
				asks++
			}
			return true
		})
		if asks != c.asked || line != c.line {
			t.Errorf("%s: %d asked, an error on line %d; want %d and %d", name, asks, line, c.asked, c.line)
		}
	}
}
