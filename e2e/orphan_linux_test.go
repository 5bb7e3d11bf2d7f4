package e2e

import (
	"os/exec"
	"syscall"
)

// endWithParent leaves no process behind even if the test binary itself dies,
// of its own time limit for one.
func endWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
