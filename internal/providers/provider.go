package providers

import (
	"fmt"
	"io"

	"fetchworker/internal/providers/call"
	"fetchworker/internal/providers/plan"
	"fetchworker/internal/providers/sheet"
)

// Provider is an upstream API with its key: it plans calls and makes them.
// It is safe for concurrent use.
type Provider struct {
	*plan.API // catalogue, environment and tier are applied
	*call.Caller
}

// newProvider checks a spec whole and makes it ready to call. The error names
// what is wrong, never a line or a variable: the caller knows those.
func newProvider(spec sheet.Spec, keys call.Keys, dial DialFunc) (*Provider, error) {
	api, err := plan.New(spec)
	if err != nil {
		return nil, err
	}
	return &Provider{api, call.New(api, keys, dial)}, nil
}

// Format prints the name, whatever the verb, of a copy too: below it are a
// key and the buffers of connections that have carried it.
func (p Provider) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.Name) }

// What callers of a provider hold, under one name of a package.
type (
	// Call is one request that has been checked.
	Call = plan.Call
	// Operation is one thing that can be asked of an API.
	Operation = sheet.Operation
	// Options are what a single call adds to its plan.
	Options = call.Options
	// Result is how a call ended.
	Result = call.Result
	// DialFunc opens a connection.
	DialFunc = call.DialFunc
)

// ErrUnknownOperation is what Plan wraps when the provider has no such
// operation. Nothing was spent.
var ErrUnknownOperation = plan.ErrUnknownOperation
