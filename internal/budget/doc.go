// Package budget answers one question for the whole fleet: may this provider
// be called now, and if not, when? Permits (rate limits and holds), the
// circuit, an operator's pause and the month's bytes stand behind one Gate a
// provider, because their order matters.
//
// What it promises: in no window of length W do more than N calls of all
// workers together arrive at the provider, whoever joins, dies or freezes.
// The state that this needs is shared through one key-value bucket and one
// counter stream; a worker keeps only copies, so any may be killed at any
// instant. It knows nothing of HTTP or of what a request asks for.
//
// The ledger (ledger/), the circuit (circuit/), the waiting lanes (lanes.go)
// and the desk that joins them (desk.go) are pure: they are told the time and return decisions. The
// Gate, its clerk and its circuit sync act on them.
package budget
