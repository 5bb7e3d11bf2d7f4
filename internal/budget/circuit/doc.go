// Package circuit decides when what fails at a provider is left alone, and
// when it is tried again. All of it is pure: it is told the time, and what it
// returns is stored and acted on elsewhere.
//
// The Record is what the fleet shares of one provider: the evidence (which
// calls of which operations failed in a row) and the circuits that it opened.
// A circuit is open for what its failures have in common: an operation, an
// agent's calls of it, the provider as a whole. What it is not open for goes
// on, and a failure there widens it. A probe is the one call that an open
// circuit lets through, to find out whether what failed is back. A Breaker is
// one worker's view of the circuits, and an Outcome how a call ended.
//
// record.go has the data, evidence.go what opens and closes a circuit,
// look.go what a circuit means for one call, probe.go whose turn it is to
// probe, and retry.go who is to blame when a request runs out of retries.
package circuit
