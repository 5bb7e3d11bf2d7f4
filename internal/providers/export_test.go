package providers

import (
	"testing"

	"fetchworker/internal/providers/call"
	"fetchworker/internal/providers/plan"
)

// CallOf makes one call of an API over a dialer, with any keys.
func CallOf(t *testing.T, api *plan.API, dial DialFunc, planned *Call) *Result {
	t.Helper()
	c := call.New(api, func(string) string { return "fuzz-key-0123" }, dial)
	defer c.Close()
	return c.Do(t.Context(), planned, Options{})
}
