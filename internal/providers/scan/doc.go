// Package scan finds values in JSON bodies without decoding them: bodies can
// have 64 MiB and millions of keys, so nothing is copied, and nothing is
// decoded but the keys on the way. It is pure.
package scan
