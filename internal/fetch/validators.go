package fetch

import (
	"context"

	"fetchworker/internal/providers"
	"fetchworker/internal/providers/classify"
	"fetchworker/internal/wire"
)

// unchanged gives a call its body that the provider has not sent again.
func (w *Worker) unchanged(ctx context.Context, r *request, result *providers.Result) {
	if whole := w.cache.Unchanged(ctx, r.call.Key, r.cache, w.asideOf(r)); whole != nil {
		whole.Revive(result)
		return
	}
	// It was given up meanwhile: the next try asks for all of it.
	result.NotModified, result.Class, result.ErrorType = false, wire.ClassTransient, classify.Odd
	result.Detail = "the provider says that the body has not changed, and it is not kept any more"
}

// whole brings back the body that may be shown in an answer's place.
func (w *Worker) whole(ctx context.Context, r *request) {
	r.cache = w.cache.Whole(ctx, r.call.Key, r.cache, w.asideOf(r))
}

// failedConditional reports whether a call may have failed because it asked
// whether the body at hand is still right.
func failedConditional(result *providers.Result) bool {
	return result.Conditional && (result.Class == wire.ClassTransient || result.Class == wire.ClassPermanent)
}

// mayAskWhetherChanged reports whether the call may carry the validators of
// the body at hand. They are a courtesy: where a call with them has failed, in
// whatever way, the next goes without.
func (r *request) mayAskWhetherChanged() bool {
	if r.cache == nil || r.cache.Refused() {
		return false
	}
	tries := r.History
	return len(tries) == 0 || !tries[len(tries)-1].Conditional
}
