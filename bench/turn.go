package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

const (
	// turnLasts is the most that a contender gets for one round of one case. Whoever
	// cannot go on is left out, and nobody waits for it.
	turnLasts = 90 * time.Second
	// probesLast is how long its latency is looked at, however few probes that are.
	probesLast = 15 * time.Second
	// peersShare of the time for all is for the peers.
	peersShare = 0.6
	// growthLast is how long the last of growth takes, and what comes after it.
	growthLast = 3 * time.Minute
)

// turn is one round of a contender in one case. What it has started is ended
// after it, come what may.
func turn(ctx context.Context, dir, exe string, c peerCase, of contender, probes int, profile string) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, turnLasts)
	defer cancel()
	defer endAll()
	type outcome struct {
		result
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		r, err := measure(ctx, dir, exe, c, of.start, probes, profile)
		done <- outcome{r, err}
	}()
	select {
	case o := <-done:
		return o.result, o.err
	case <-ctx.Done():
	}
	// It ends by itself, or because all that it has started does.
	select {
	case o := <-done:
		if o.err == nil {
			return o.result, nil
		}
	case <-time.After(time.Second):
	}
	return result{}, fmt.Errorf("%w: more than %v", errTimeout, turnLasts)
}

// measure runs one contender through one case.
func measure(ctx context.Context, dir, exe string, c peerCase, begin func(context.Context, setup) (running, error), probes int, profile string) (result, error) {
	res := result{requests: c.requests}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return res, err
	}
	standIn, err := startRole(dir, "provider", fmt.Sprint("SIZE=", c.size), "DELAY="+c.delay.String())
	if err != nil {
		return res, err
	}
	defer standIn.kill()
	r, err := begin(ctx, setup{dir: dir, worker: exe, provider: standIn.address, concurrency: c.concurrency, agents: c.agents, sync: c.sync})
	if err != nil {
		return res, err
	}
	defer r.close()
	if o, ok := r.(*overNATS); ok && c.things > 0 {
		o.body = func(i int) []byte { return fmt.Appendf(nil, `{"id":"q-%d","params":{"n":"%d"}}`, i, i%c.things) }
	}
	// Everything is warm first: connections, caches, the runtime's heap.
	next := min(c.requests/5, 1000)
	if err := r.publish(ctx, 0, next); err != nil {
		return res, err
	}
	if _, err := waitFor(ctx, r, next); err != nil {
		return res, err
	}
	if res.latencies, err = r.latencies(ctx, next, probes, 5*time.Millisecond); err != nil {
		return res, err
	}
	next += len(res.latencies) // whoever is slow has fewer
	if res.directs, err = direct(ctx, standIn.address, probes); err != nil {
		return res, err
	}
	// The work is laid out while nobody can take it.
	worker, server := r.processes()
	mallocs, bytes := allocations(worker.debug) // now: asked later, it would answer while it works
	worker.freeze()
	err = r.publish(ctx, next, c.requests)
	w, s := cpuOf(worker.cmd.Process.Pid), server.usage()
	start, idle, waited := time.Now(), idleSoFar(), worker.waited()+server.waited()
	worker.thaw()
	if err != nil {
		return res, err
	}
	who := ""
	if _, ours := worker.address, strings.HasSuffix(worker.log, "worker.log"); !ours {
		who = "floor-"
	}
	profiled, served := profileOf(profile, worker, who+c.name), profileOf(profile, server, who+"server-"+c.name)
	took, err := waitFor(ctx, r, next+c.requests)
	res.busy = float64(runtime.NumCPU()) - (idleSoFar()-idle).Seconds()/time.Since(start).Seconds()
	res.waited = worker.waited() + server.waited() - waited
	profiled()
	served()
	if err != nil {
		return res, err
	}
	res.rate = float64(c.requests) / took.Sub(start).Seconds()
	res.worker = worker.usage().minus(usage{w, mallocs, bytes, 0})
	res.server = server.usage().minus(s)
	return res, nil
}

func waitFor(ctx context.Context, r running, n int) (time.Time, error) {
	last, since := 0, time.Now()
	for {
		got, err := r.answered(ctx)
		switch {
		case err != nil:
			return time.Time{}, err
		case got >= n:
			return time.Now(), nil
		case got > last:
			last, since = got, time.Now()
		case time.Since(since) > time.Minute:
			return time.Time{}, fmt.Errorf("%w: %d of %d answers", errTimeout, got, n)
		}
		pause(ctx, 5*time.Millisecond)
		if ctx.Err() != nil {
			return time.Time{}, ctx.Err()
		}
	}
}

// direct is what a GET takes without anything between.
func direct(ctx context.Context, provider string, n int) ([]time.Duration, error) {
	c := client(1)
	defer c.CloseIdleConnections()
	var all []time.Duration
	for i := range n {
		start := time.Now()
		if _, err := get(ctx, c, fmt.Sprint(provider, "/quote?n=", i)); err != nil {
			return nil, err
		}
		all = append(all, time.Since(start))
		pause(ctx, 5*time.Millisecond)
	}
	return all, nil
}
