package operate

import (
	"context"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/terminal"
)

// Words are a hold as a person reads it.
func (h Hold) Words(now time.Time) string {
	until := terminal.Clock(h.Until, now) + " (" + terminal.Ago(h.Until, now) + ")"
	switch {
	case h.BytesUsed:
		return "the month's bytes of " + h.Provider + " are used up: what is not answered from the cache comes back to review"
	case h.Retired:
		return h.Provider + " is retired: what is sent there comes back to review"
	}
	switch h.Reason { //nolint:exhaustive // the others are no holds
	case fetchworker.ReasonPaused:
		return h.Provider + " is paused by " + h.By + " until " + until +
			": its letters go by themselves within 10 s of the pause's end, or of replayer resume " + h.Provider
	case fetchworker.ReasonCircuitOpen:
		when := "is due now"
		if h.Until.After(now) {
			when = "is due at " + until
		}
		return "the circuit of " + h.Provider + " is open, its next probe " + when + ": its letters go by themselves within 10 s of its closing"
	case fetchworker.ReasonNoWorker:
		return "no live worker serves " + h.Provider + ": its letters stay due until one does"
	case fetchworker.ReasonThrottled:
		return h.Provider + " asked for a hold until " + until
	default:
		if h.Limits != "" {
			return "the limit " + h.Limits + " that " + h.By + " has set for " + h.Provider + " is used up until " + until
		}
		return "the quota of " + h.Provider + " is used up until " + until
	}
}

// LookUp finds the requests that a filter selects, with their records. A
// request that has only an answer is found too, without records.
func (d *Desk) LookUp(ctx context.Context, f browse.Filter, streams []string) (map[fetchworker.Identity][]browse.Found, error) {
	found := map[fetchworker.Identity][]browse.Found{}
	for _, stream := range streams {
		edge, err := d.Edge(ctx, stream)
		if err != nil {
			return nil, err
		}
		for record, err := range d.Walk(ctx, stream, f, edge) {
			if err != nil {
				return nil, err
			}
			if stream == fetchworker.StreamResults {
				found[record.Identity] = append([]browse.Found{}, found[record.Identity]...)
				continue
			}
			found[record.Identity] = append(found[record.Identity], record)
		}
	}
	return found, nil
}
