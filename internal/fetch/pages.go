package fetch

import (
	"encoding/json"

	"fetchworker/internal/providers"
)

// pagesFollowed is how many pages at hand are followed from one to the next.
const pagesFollowed = 16

// endLoop takes the next page away from one that begins the round again: by
// the pages that this worker has met lately, the next one leads back to it.
// A chain is cut where it closes, so that no page of it is missed, and what is
// kept of the page says so.
func (w *Worker) endLoop(r *request, result *providers.Result) {
	if len(result.Next) > 0 && w.leadsBack(r, result.Next) {
		result.Next, result.NextLoop = nil, true
	}
}

func (w *Worker) leadsBack(r *request, next json.RawMessage) bool {
	for range pagesFollowed {
		call, err := r.served.Provider.Plan(r.Operation, next)
		if err != nil {
			return false
		}
		if call.Key == r.call.Key {
			return true
		}
		page := w.cache.AtHand(call.Key)
		if page == nil || len(page.Next) == 0 {
			return false
		}
		next = page.Next
	}
	return false
}
