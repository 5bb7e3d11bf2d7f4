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
// What it decides with is pure, and has rooms of its own: how permits are
// counted (ledger), who waits and when to claim (turns), when a provider that
// fails is left alone (circuit), and how a month's bytes add up (meter). What
// is shared is kept by store, and orders come from fleet. Here is what joins
// them: the Gate and its Permits, the probe of an open circuit, and who
// writes registers (registerwriter.go) and circuits (circuitsync.go).
package budget
