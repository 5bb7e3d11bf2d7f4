package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"fetchworker"
	"fetchworker/internal/wire"
)

// promises measures what nobody publishes: whether a quota is kept and used by
// several workers, and what an outage costs those who wait and those who call
// somebody else.
func promises(ctx context.Context, dir, exe string, short bool) (string, error) {
	var report strings.Builder
	workers, watched, down := []int{1, 4, 16}, 5*quotaWindow, 20*time.Second
	if short {
		workers, watched, down = []int{1, 4}, 3*quotaWindow, 8*time.Second
	}
	fmt.Fprintf(&report, "## A quota of %d calls in %v\n\nAll workers have more work than they may call for. Counted where the calls arrive.\n\n", quotaCalls, quotaWindow)
	report.WriteString("| workers | most calls in any window | of the quota used |\n| --- | --- | --- |\n")
	for _, n := range workers {
		worst, used, err := quota(ctx, filepath.Join(dir, fmt.Sprint("quota-", n)), exe, n, watched)
		if err != nil {
			return report.String(), fmt.Errorf("quota, %d workers: %w", n, err)
		}
		fmt.Fprintln(os.Stderr, "quota:", n, "workers, at most", worst, "in a window,", used, "used")
		fmt.Fprintf(&report, "| %d | %d | %.0f %% |\n", n, worst, 100*used)
	}
	o, err := measureOutage(ctx, filepath.Join(dir, "outage"), exe, down)
	if err != nil {
		return report.String(), fmt.Errorf("outage: %w", err)
	}
	fmt.Fprintf(&report, "\n## An outage of %v\n\n%d requests came while the provider answered 503; probes each 2 s.\n\n", down, o.requests)
	report.WriteString("| calls while it was down | from its recovery to the last answer | p99 of another provider before | meanwhile |\n| --- | --- | --- | --- |\n")
	fmt.Fprintf(&report, "| %d | %.1f s | %s | %s |\n\n", o.calls, o.recovered.Seconds(), millis(quantile(o.before, 0.99)), millis(quantile(o.meanwhile, 0.99)))
	return report.String(), nil
}

const (
	quotaCalls  = 60
	quotaWindow = 6 * time.Second
)

// quota has some workers share a limit, and tells the most calls that came
// within one window, and how much of the limit they used once it was met.
func quota(ctx context.Context, dir, exe string, workers int, watched time.Duration) (worst int, used float64, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, 0, err
	}
	upstream, err := startRole(dir, "provider", "SIZE=1024", "TELL=1")
	if err != nil {
		return 0, 0, err
	}
	defer upstream.kill()
	s := setup{
		dir: dir, worker: exe, provider: upstream.address, concurrency: 16, agents: 16, sync: "lazy",
		limits: fmt.Sprintf("%d/%v", quotaCalls, quotaWindow),
	}
	o, err := startOurs(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	defer o.close()
	ours := o.(*overNATS) //nolint:errcheck,forcetypeassert // startOurs makes one
	for i := 1; i < workers; i++ {
		w, err := startWorker(ctx, s, fmt.Sprint("worker-", i), ours.server.address)
		if err != nil {
			return 0, 0, err
		}
		defer w.kill()
	}
	if err := o.publish(ctx, 0, quotaCalls*int(watched/quotaWindow+3)); err != nil {
		return 0, 0, err
	}
	pause(ctx, watched+2*quotaWindow)
	moments, err := momentsOf(upstream)
	if err != nil || len(moments) == 0 {
		return 0, 0, fmt.Errorf("%d calls were seen: %w", len(moments), err)
	}
	// The first window is the burst of an idle quota.
	began := moments[0].Add(quotaWindow)
	counted := 0
	for i, oldest := 0, 0; i < len(moments); i++ {
		for moments[i].Sub(moments[oldest]) >= quotaWindow {
			oldest++
		}
		worst = max(worst, i-oldest+1)
		if at := moments[i]; !at.Before(began) && at.Before(began.Add(watched)) {
			counted++
		}
	}
	return worst, float64(counted) / (quotaCalls * watched.Seconds() / quotaWindow.Seconds()), nil
}

// momentsOf are the moments of all calls that a stand-in has had.
func momentsOf(upstream *process) ([]time.Time, error) {
	res, err := http.Get(controlOf(upstream) + "/calls") //nolint:noctx // our own
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var all []time.Time
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		at, err := strconv.ParseInt(lines.Text(), 10, 64)
		if err != nil {
			return nil, err
		}
		all = append(all, time.UnixMicro(at))
	}
	return all, lines.Err()
}

// outage is what an outage was like.
type outage struct {
	requests          int
	calls             int // made while the provider was down
	recovered         time.Duration
	before, meanwhile []time.Duration // of another provider's answers
}

func measureOutage(ctx context.Context, dir, exe string, down time.Duration) (outage, error) {
	const requests, probes = 300, 100
	res := outage{requests: requests}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return res, err
	}
	var upstreams [2]*process
	for i := range upstreams {
		place := filepath.Join(dir, fmt.Sprint("provider-", i))
		if err := os.MkdirAll(place, 0o700); err != nil {
			return res, err
		}
		var err error
		if upstreams[i], err = startRole(place, "provider", "SIZE=1024", "TELL=1"); err != nil {
			return res, err
		}
		defer upstreams[i].kill()
	}
	running, err := startOurs(ctx, setup{
		dir: dir, worker: exe, provider: upstreams[0].address, concurrency: 16, agents: 16, sync: "lazy",
		env:  []string{"FETCH_REPLAY=on", "FETCH_CIRCUIT_OPEN_SECONDS=2"},
		more: fmt.Sprintf("  other: {base_url: '%s', auth: none, limits: unlimited, operations: {quote: {path: /quote, params: {n: {required: true}}}}}\n", upstreams[1].address),
	})
	if err != nil {
		return res, err
	}
	defer running.close()
	o := running.(*overNATS) //nolint:errcheck,forcetypeassert // startOurs makes one
	other := *o
	other.live = "fetch.result.other.>"
	other.subject = func(i int) string {
		return fetchworker.RequestSubject("other", fetchworker.LaneInteractive, "quote", agentOf(i, 16))
	}
	if res.before, err = other.latencies(ctx, 0, probes, 10*time.Millisecond); err != nil {
		return res, err
	}
	ends, err := finals(o.nc, "fetch.result.bench.>")
	if err != nil {
		return res, err
	}
	if err := order(upstreams[0], "/down?on=1"); err != nil {
		return res, err
	}
	began := time.Now()
	if err := o.publish(ctx, 0, requests); err != nil {
		return res, err
	}
	for next := probes; time.Since(began) < down; next += probes {
		some, err := other.latencies(ctx, next, probes, 10*time.Millisecond)
		if err != nil {
			return res, err
		}
		res.meanwhile = append(res.meanwhile, some...)
	}
	calls, err := momentsOf(upstreams[0])
	if err != nil {
		return res, err
	}
	res.calls = len(calls)
	if err := order(upstreams[0], "/down?on=0"); err != nil {
		return res, err
	}
	recovered := time.Now()
	if err := eventually(2*time.Minute, func() bool { return ends() >= requests }); err != nil {
		return res, fmt.Errorf("%d of %d answers: %w", ends(), requests, err)
	}
	res.recovered = time.Since(recovered)
	return res, nil
}

// order gives a stand-in an order.
func order(upstream *process, path string) error {
	res, err := http.Get(controlOf(upstream) + path) //nolint:noctx // our own
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, res.Body)
	return res.Body.Close()
}

// finals counts the requests under a subject that have their final answer.
func finals(nc *nats.Conn, subject string) (count func() int, err error) {
	var mu sync.Mutex
	seen := map[string]struct{}{}
	_, err = nc.Subscribe(subject, func(m *nats.Msg) {
		if m.Header.Get(wire.HeaderFinal) == "true" {
			mu.Lock()
			defer mu.Unlock()
			seen[m.Subject] = struct{}{}
		}
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}, err
}
