// Package providers holds every upstream API as data: the four built-in data
// sheets, with the operator's catalogue and environment over them, and one
// Provider for each that plans calls and makes them. An API contributes a
// data sheet, in Go or in YAML, and no code.
//
// What a provider is made of has rooms of its own, each of which can be read
// and tested without the others: sheet (the data sheet), plan (what it makes of a request), call (one request on the wire), classify (what an answer is),
// catalogue (YAML), and at the bottom scan (values in JSON bodies) and redact
// (the key out of every text).
//
// What the package guarantees:
//
//   - Nothing is spent on a request that cannot be right: Plan checks
//     operation and parameters before anything else happens.
//   - One Do is at most one request on the wire. Redirects are not followed,
//     and a retry by net/http after bytes were written is stopped, so that
//     calls can be counted against a rate limit.
//   - The key appears in no error, no detail, no header handed on and no
//     body: it is redacted in one place, before anything is shortened.
package providers
