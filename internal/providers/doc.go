// Package providers holds every upstream API as data: base URL, auth, limits,
// ages, operations with typed parameters, and the rules that tell an answer
// from an error. One function does HTTP (Provider.Do) and one classifies
// (classify); an API contributes a data sheet, in Go for the built-in four
// or in YAML for any other, and no code.
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
//
// It refuses to wait, to retry, to cache or to count calls; whoever holds the
// permit decides that.
package providers
