package app

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"fetchworker/internal/memory"
)

const (
	// memoryLimit is where the garbage collector begins to work harder, which it
	// would do at twice the memory in use: many large answers at once are then
	// held with little beside them. Below it nothing changes.
	memoryLimit = 768 << 20
	// bodyShare of the limit is for large bodies. The rest is for all else, and
	// for what is garbage and not yet collected.
	bodyShare = 3
)

// LimitMemory sets the garbage collector's limit where GOMEMLIMIT does not: four
// fifths of what the process's cgroup allows, and 768 MiB at most.
func LimitMemory() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := int64(memoryLimit)
	if allowed := cgroupLimit("/"); allowed > 0 {
		limit = min(limit, allowed/5*4)
	}
	debug.SetMemoryLimit(limit)
}

// bodyMemory is what large bodies may take where nothing else is said.
func bodyMemory() int64 {
	limit := debug.SetMemoryLimit(-1) // only reads it
	if limit == math.MaxInt64 {
		limit = memoryLimit
	}
	return max(limit/bodyShare, memory.MaxBody)
}

// cgroupLimit is the memory that the process's cgroup allows, in bytes; 0 is no
// limit, or none that can be read. root is where the files are.
func cgroupLimit(root string) int64 {
	groups, _ := os.ReadFile(filepath.Join(root, "proc/self/cgroup")) //nolint:gosec // the kernel's; none: another system
	least := int64(0)
	for line := range strings.Lines(string(groups)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		folder, file := filepath.Join(root, "sys/fs/cgroup"), "memory.max"
		if controllers != "" {
			if controllers != "memory" {
				continue
			}
			folder, file = filepath.Join(folder, "memory"), "memory.limit_in_bytes"
		}
		// A group above may allow less; in a container its own is the root.
		for ; ; path = filepath.Dir(path) {
			text, _ := os.ReadFile(filepath.Join(folder, path, file)) //nolint:gosec // the kernel's
			n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			if err == nil && n > 0 && n < 1<<50 && (least == 0 || n < least) {
				least = n
			}
			if path == "/" || path == "." || path == "" {
				break
			}
		}
	}
	return least
}
