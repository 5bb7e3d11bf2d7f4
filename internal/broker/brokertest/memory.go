package brokertest

import (
	"os"
)

// inMemory has what tests store lie in memory, where the machine has a file
// system for that with room enough: a seventh of their time was the server's
// files. Tests are of processes that die, not of machines.
func inMemory() {
	const dir = "/dev/shm"
	if os.Getenv("TMPDIR") != "" || free(dir) < 4<<30 {
		return
	}
	_ = os.Setenv("TMPDIR", dir)
}
