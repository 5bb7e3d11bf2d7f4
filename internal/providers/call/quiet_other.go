//go:build !unix

package call

// quiet is not known here: one that has ended is found when it is written to.
func quiet(uintptr) bool { return true }
