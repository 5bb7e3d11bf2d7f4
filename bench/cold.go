package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fetchworker"
)

// cold measures a worker that has its server in itself, as one begins with: how
// long it takes from nothing to the first answer, and what it uses up at rest.
func cold(ctx context.Context, dir, exe string, rest time.Duration) (string, error) {
	const starts = 5
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	upstream, err := startRole(dir, "provider", "SIZE=1024")
	if err != nil {
		return "", err
	}
	defer upstream.kill()
	file := filepath.Join(dir, "catalogue.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, catalogue, upstream.address, "unlimited"), 0o600); err != nil {
		return "", err
	}
	var took, cpu []time.Duration
	var used time.Duration
	var bytes int64
	for i := range starts {
		port, err := freePort()
		if err != nil {
			return "", err
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		began := time.Now()
		p, err := start(dir, fmt.Sprint("worker-", i), []string{
			"FETCH_CATALOG=" + file, "BENCH_API_KEY=a-key-that-is-long-enough", "FETCH_DATA_DIR=" + filepath.Join(dir, fmt.Sprint("data-", i)),
			"FETCH_NATS_ADDR=" + address, "FETCH_HTTP_ADDR=off", "FETCH_GATEWAY=off",
		}, exe)
		if err != nil {
			return "", err
		}
		err = firstAnswer(ctx, "nats://"+address)
		took, cpu = append(took, time.Since(began)), append(cpu, cpuOf(p.cmd.Process.Pid))
		if err == nil && i == starts-1 {
			pause(ctx, 3*time.Second) // what a start leaves to do
			before := ranFor(p.cmd.Process.Pid)
			pause(ctx, rest)
			used, bytes = ranFor(p.cmd.Process.Pid)-before, memory(p.cmd.Process.Pid, "VmRSS:")
		}
		p.stop()
		if err != nil {
			return "", err
		}
	}
	var report strings.Builder
	fmt.Fprintf(&report, "## A worker with its server in itself\n\n%d starts with an empty folder, each write synced; then %v in which nothing happens.\n\n", starts, rest)
	report.WriteString("| from the start to the first answer: median | worst | CPU of it | at rest |\n| --- | --- | --- | --- |\n")
	fmt.Fprintf(&report, "| %s | %s | %s | %.1f %% of a core, %s |\n\n", millis(quantile(took, 0.5)), millis(slices.Max(took)), millis(quantile(cpu, 0.5)),
		100*used.Seconds()/rest.Seconds(), mib(bytes))
	return report.String(), nil
}

// firstAnswer asks as soon as a server takes the question.
func firstAnswer(ctx context.Context, address string) error {
	return eventually(30*time.Second, func() bool {
		c, err := fetchworker.Connect(address, "alice")
		if err != nil {
			return false
		}
		defer c.Close()
		asking, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		a, err := c.Fetch(asking, fetchworker.Request{Provider: "bench", Operation: "quote", Params: json.RawMessage(`{"n":"1"}`)})
		return err == nil && a.Status == fetchworker.StatusOK
	})
}
