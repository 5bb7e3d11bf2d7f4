// Package redact makes what came from outside fit to be shown: without the
// key, in whatever form it was echoed, and then as one printable line of
// bounded length. It is pure.
package redact
