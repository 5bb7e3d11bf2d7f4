// Package ledger counts the permits of one provider, so that in no window of
// length W do more than N calls arrive there. It is arithmetic and nothing
// else: it is told the time, looks at a register, and returns another. It
// knows no clock, no lock, no network, and nothing of who asks.
//
// Words: a limit is a Window, N calls in Per. Time is cut into ticks, which
// are as long as a permit is valid, and a Shape says how many ticks a window
// has. The Register is what a fleet shares: how many permits each tick holds,
// a 429's hold, and whose the one call after it is. A Claim books permits in
// it and returns them as Blocks; a Refund takes those back that were not used.
//
// Where what is: the limits as people write them (limits.go), moments and who
// is how urgent (instant.go, class.go), how a window becomes ticks (shape.go)
// and a tick is found free (window.go), claims (claim.go), the register, its
// lost and new windows and its counters of shards (register.go), 429s and a
// provider's own count (throttle.go), how full it is (usage.go), and its bytes
// (codec.go).
package ledger
