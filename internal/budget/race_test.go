//go:build race

package budget

// underRace is whether the race detector looks on. A simulation runs in one
// goroutine: it is ten times as slow then, and there is nothing to find.
const underRace = true
