package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"fetchworker"
)

// build makes the worker that is measured: the one that users run.
func build(dir string) (string, error) {
	exe := filepath.Join(dir, "worker")
	cmd := exec.Command("go", "build", "-trimpath", "-o", exe, "./cmd/worker")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the worker: %w: %s", err, out)
	}
	return exe, nil
}

const catalogue = `providers:
  bench:
    base_url: %s
    auth: {header: X-Token}
    limits: %s
    fresh: 1h
    stale: 1d
    operations:
      quote:
        path: /quote
        params:
          n: {required: true}
`

// startOurs starts the real worker with everything on.
func startOurs(ctx context.Context, s setup) (running, error) {
	o, err := startNATS(s)
	if err != nil {
		return nil, err
	}
	o.results, o.live = fetchworker.StreamResults, "fetch.result.>"
	o.subject = func(i int) string {
		return fetchworker.RequestSubject("bench", fetchworker.LaneInteractive, "quote", agentOf(i, s.agents))
	}
	o.worker, err = startWorker(ctx, s, "worker", o.server.address)
	return o, err
}

func startWorker(ctx context.Context, s setup, name, natsURL string) (*process, error) {
	limits := s.limits
	if limits == "" {
		limits = "unlimited"
	}
	file := filepath.Join(s.dir, name+".yaml")
	if err := os.WriteFile(file, append(fmt.Appendf(nil, catalogue, s.provider, limits), s.more...), 0o600); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	p, err := start(s.dir, name, append([]string{
		"NATS_URL=" + natsURL, "FETCH_CATALOG=" + file, "BENCH_API_KEY=a-key-that-is-long-enough",
		"FETCH_HTTP_ADDR=" + address, "FETCH_CONCURRENCY=" + strconv.Itoa(s.concurrency), "FETCH_PPROF=on", "FETCH_LOG_LEVEL=info",
	}, s.env...), s.worker)
	if err != nil {
		return nil, err
	}
	p.address, p.debug = "http://"+address, "http://"+address+"/metrics"
	err = eventually(3*time.Minute, func() bool {
		res, err := http.Get(p.address + "/readyz") //nolint:noctx // bounded by eventually
		if err != nil {
			return ctx.Err() != nil
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	if err != nil {
		said, _ := os.ReadFile(p.log)
		return nil, fmt.Errorf("the worker is not ready: %s", said)
	}
	return p, nil
}
