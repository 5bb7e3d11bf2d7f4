// Package call makes one planned call: one request on the wire at most, its
// body read within bounds, what it is told by classify, and the key in
// nothing that comes back. Record keeps such a call as a file.
//
// It refuses to wait, to retry, to cache or to count calls; whoever holds the
// permit decides that.
package call
