package providers

import "time"

const (
	gb  = 1 << 30 // bytes; the GB of every limit and variable
	day = 24 * time.Hour
)

// builtins are the data sheets that come with the program. Each is a function
// of the base URL in force, since that selects the generation of an API.
var builtins = map[string]func(baseURL string) Spec{
	"fmp":     fmp,
	"polygon": polygon,
	"fred":    fred,
	"newsapi": newsapi,
}

// Parameters and rights that several sheets share.
var (
	fundamentals = []string{"fundamentals"}

	symbol = Param{
		Name: "symbol", Type: TypeString, Required: true, Pattern: `[\^A-Za-z0-9][A-Za-z0-9.\-=^]{0,29}`,
		Expected: "a symbol such as AAPL, BRK-B or ^GSPC",
	}
	from = Param{Name: "from", Type: TypeDate}
	to   = Param{Name: "to", Type: TypeDate}
)

// named keys operations by their names.
func named(operations ...Operation) map[string]*Operation {
	byName := make(map[string]*Operation, len(operations))
	for i := range operations {
		byName[operations[i].Name] = &operations[i]
	}
	return byName
}
