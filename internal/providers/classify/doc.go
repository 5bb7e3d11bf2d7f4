// Package classify says what an answer is. It is decided in one place, by
// status and body together: APIs report errors with status 200, and a missing
// key with status 400. What differs between APIs is rules in their data
// sheets. It is pure: no connection, no clock, no key.
package classify
