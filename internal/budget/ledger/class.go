package ledger

import "time"

// Class is how urgent a claim is. Those above may claim further ahead.
type Class int

// The classes, the most urgent first.
const (
	Light   Class = iota // an agent's only request, of an agent that had few lately
	Heavy                // every other interactive request
	Replay               // released by the replayer
	Batch                //
	Classes              // how many there are
)

// horizon is how far ahead a class may claim: whoever may claim further ahead
// goes first.
func (c Class) horizon() time.Duration {
	return [Classes]time.Duration{2 * time.Second, time.Second / 2, time.Second / 2, time.Second / 4}[c]
}

// Lead is how long before its slot a class may claim the first permit.
func (c Class) Lead() time.Duration {
	return [Classes]time.Duration{2 * time.Second, time.Second / 8, time.Second / 8, time.Second / 16}[c]
}

// reserve is how many of n permits a class leaves to those above it.
func (c Class) reserve(n int) int {
	return [Classes]int{0, n / 4, n / 4, n / 2}[c]
}
