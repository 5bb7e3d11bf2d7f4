//go:build unix

package call

import (
	"errors"
	"syscall"
)

// quiet reports whether a read of a socket would find nothing, neither bytes nor
// an end.
func quiet(fd uintptr) bool {
	var one [1]byte
	_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR)
}
