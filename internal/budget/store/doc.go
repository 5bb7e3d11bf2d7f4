// Package store is how a fleet shares small values: one bucket, in which a
// value is a Cell that is replaced only by compare-and-set, a Watch over keys,
// and the Clock of the server that stores them. It does not know what the
// values mean.
package store
