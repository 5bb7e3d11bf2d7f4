package fetch

import (
	"strconv"
	"strings"

	"fetchworker"
	"fetchworker/internal/providers"
	"fetchworker/internal/usage"
	"fetchworker/internal/wire"
)

// spent counts a call for the agent that it was made for.
func (w *Worker) spent(r *request, result *providers.Result) {
	if result.Sent {
		w.usage.Add(r.Provider, r.Agent, usage.Calls, 1, r.now())
		w.usage.Add(r.Provider, r.Agent, usage.Bytes, result.WireBytes, r.now())
	}
	if result.Class != wire.ClassOK {
		w.usage.Cause(r.Provider, r.call.Operation.Name, causeOf(result), r.now())
	}
}

// causeOf is what a failure has in common with others of its kind: the class,
// the HTTP status, and what was wrong where that does not say it.
func causeOf(result *providers.Result) string {
	parts := []string{string(result.Class)}
	if result.HTTPStatus != 0 {
		parts = append(parts, strconv.Itoa(result.HTTPStatus))
	}
	if result.HTTPStatus < 400 && result.ErrorType != string(result.Class) {
		parts = append(parts, result.ErrorType)
	}
	return strings.Join(parts, "-")
}

// had counts a final answer for the agent that asked.
func (w *Worker) had(r *request, a fetchworker.Answer) {
	if !a.Final {
		return
	}
	what := usage.Failed
	switch {
	case a.Status == fetchworker.StatusStale:
		what = usage.Stale
	case a.Status == fetchworker.StatusOK && a.Source == fetchworker.SourceCache:
		what = usage.Cached
	case a.Status == fetchworker.StatusOK:
		what = usage.OK
	}
	w.usage.Add(r.Provider, r.Agent, what, 1, r.now())
}
