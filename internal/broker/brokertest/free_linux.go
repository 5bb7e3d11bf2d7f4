package brokertest

import "syscall"

// free is how many bytes may be written under a folder.
func free(dir string) uint64 {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return 0
	}
	return s.Bavail * uint64(s.Bsize) //nolint:gosec // a block's size is positive
}
