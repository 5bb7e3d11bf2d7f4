// Package turns plans one worker's share of a provider's permits: who waits,
// whose turn it is, and when to claim more. It is a state machine that is told
// the time and what became of what it asked for; others write and call. It
// knows no clock, no lock and no network.
//
// Requests wait in lanes, and within a lane in the line of their agent's shard
// (lanes.go); those whose calls count in other windows, or for more, in a line
// of their own (line.go). The Planner hands permits in hand to those who wait
// (serve.go), as far as their agents may have a place (guests.go), and keeps what
// is on its way into the register (planner.go). It says what to write
// next (claims.go), and when: claimers that contend spread over a width that
// the register carries, each by its own share of it (spread.go).
package turns
