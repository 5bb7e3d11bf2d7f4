package providers

import (
	"time"

	"fetchworker/internal/providers/sheet"
)

const (
	gb  = 1 << 30 // bytes; the GB of every limit and variable
	day = 24 * time.Hour
)

// builtins are the data sheets that come with the program. Each is a function
// of the base URL in force, since that selects the generation of an API.
var builtins = map[string]func(baseURL string) sheet.Spec{
	"fmp":     fmp,
	"polygon": polygon,
	"fred":    fred,
	"newsapi": newsapi,
}

// Parameters and rights that several sheets share.
var (
	fundamentals = []string{"fundamentals"}

	symbol = sheet.Param{
		Name: "symbol", Type: sheet.TypeString, Required: true, Pattern: `[\^A-Za-z0-9][A-Za-z0-9.\-=^&]{0,29}`,
		Expected: "a symbol such as AAPL, BRK-B or ^GSPC",
	}
	from = sheet.Param{Name: "from", Type: sheet.TypeDate}
	to   = sheet.Param{Name: "to", Type: sheet.TypeDate}
)

// named keys operations by their names.
func named(operations ...Operation) map[string]*sheet.Operation {
	byName := make(map[string]*sheet.Operation, len(operations))
	for i := range operations {
		byName[operations[i].Name] = &operations[i]
	}
	return byName
}
