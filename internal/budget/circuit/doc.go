// Package circuit decides when a provider that fails is left alone, and when
// it is tried again. All of it is pure: it is told the time, and what it
// returns is stored and acted on elsewhere.
//
// The Record is what the fleet shares. A Breaker is one worker's view of it,
// and an Outcome how a call ended. A probe is the one call that an open
// circuit lets through, to find out whether the provider is back.
package circuit
