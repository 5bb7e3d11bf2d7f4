package main

import (
	"strings"
	"time"

	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/operate"
)

// held says what holds a provider's letters up and until when; empty if
// nothing does.
func held(f *operate.Fleet, provider string, now time.Time) string {
	if h, is := f.Hold(provider); is {
		return h.Words(now)
	}
	return ""
}

func workerNames(workers []fleet.Worker) string {
	names := make([]string, len(workers))
	for i, w := range workers {
		names[i] = w.Name
	}
	return strings.Join(names, ", ")
}
