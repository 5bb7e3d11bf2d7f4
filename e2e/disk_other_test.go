//go:build !linux

package e2e

import (
	"errors"
	"testing"
)

func mountDisk(t *testing.T, _ string) (string, error) {
	t.Helper()
	return t.TempDir(), errors.New("disks are made on Linux only")
}

func (h *shift) theDiskFills() { h.t.Log("the disk is not filled: ", h.noDisk) }
