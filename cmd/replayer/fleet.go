package main

import (
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"
)

// held says what holds a provider's letters up and until when; empty if
// nothing does.
func held(f *operate.Fleet, provider string, now time.Time) string {
	if h, is := f.Hold(provider); is {
		return wordsOf(h, now)
	}
	return ""
}

// wordsOf is a hold as a person reads it.
func wordsOf(h operate.Hold, now time.Time) string {
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
		return "the quota of " + h.Provider + " is used up until " + until
	}
}

func workerNames(workers []fleet.Worker) string {
	names := make([]string, len(workers))
	for i, w := range workers {
		names[i] = w.Name
	}
	return strings.Join(names, ", ")
}
