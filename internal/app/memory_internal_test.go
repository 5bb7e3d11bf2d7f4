package app

import (
	"os"
	"path/filepath"
	"testing"
)

// The least of what the groups of a process allow counts, in either version of
// cgroups, in a container and outside of one; without any there is no limit.
func TestTheLimitOfACgroup(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"none":        {nil, 0},
		"no limit":    {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 0},
		"a container": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 512 << 20},
		"a unit": {map[string]string{
			"proc/self/cgroup":                                        "0::/system.slice/worker.service\n",
			"sys/fs/cgroup/system.slice/memory.max":                   "max\n",
			"sys/fs/cgroup/system.slice/worker.service/memory.max":    "1073741824\n",
			"sys/fs/cgroup/system.slice/worker.service/memory.high":   "1\n",
			"sys/fs/cgroup/system.slice/neighbour.service/memory.max": "4096\n",
		}, 1 << 30},
		"a unit in a slice of less": {map[string]string{
			"proc/self/cgroup":                           "0::/a.slice/b.service",
			"sys/fs/cgroup/a.slice/memory.max":           "100000000",
			"sys/fs/cgroup/a.slice/b.service/memory.max": "200000000",
		}, 100000000},
		"version 1": {map[string]string{
			"proc/self/cgroup":                           "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
		}, 512 << 20},
		"version 1 without": {map[string]string{
			"proc/self/cgroup":                           "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 0},
	} {
		root := t.TempDir()
		for file, content := range c.files {
			path := filepath.Join(root, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := cgroupLimit(root); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
