//go:build !linux

package e2e

import "os/exec"

// endWithParent has no equivalent here: a test that ends cleans up, one that
// is killed does not.
func endWithParent(*exec.Cmd) {}
