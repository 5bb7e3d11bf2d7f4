package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"fetchworker"
	"fetchworker/internal/wire"
)

// growthCase is one thing that there is more of than usual.
type growthCase struct {
	name      string
	waiting   int // requests, 0: no more than are measured
	agents    int
	providers int
	letters   int
	answers   int
}

// growthMeasured is how many requests the cost is taken of.
const growthMeasured = 4000

func growthCases(most int) []growthCase {
	cases := []growthCase{{name: "nothing else", agents: 100, providers: 1}}
	add := func(c growthCase, n int) {
		if n <= most {
			cases = append(cases, c)
		}
	}
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		add(growthCase{name: thousands(float64(n)) + " requests wait", waiting: n, agents: 100, providers: 1}, n)
	}
	for _, n := range []int{1, 10, 1000} {
		add(growthCase{name: fmt.Sprintf("of %s agents", thousands(float64(n))), agents: n, providers: 1}, n)
	}
	for _, n := range []int{20, 200} {
		add(growthCase{name: fmt.Sprint(n, " providers"), agents: 100, providers: n}, n)
	}
	for _, n := range []int{10_000, 100_000} {
		add(growthCase{name: thousands(float64(n)) + " letters", letters: n, agents: 100, providers: 1}, n)
	}
	for _, n := range []int{100_000, 1_000_000} {
		add(growthCase{name: thousands(float64(n)) + " answers kept", answers: n, agents: 100, providers: 1}, n)
	}
	// The machine may have become slower or faster meanwhile: the first again.
	return append(cases, growthCase{name: "nothing else, again", agents: 100, providers: 1})
}

// growth measures the cost of a request while there is more of something, up to
// so many, and until a time.
func growth(ctx context.Context, dir, exe string, most int, until time.Time) (string, error) {
	var report strings.Builder
	fmt.Fprintf(&report, "## Growth\n\nThe cost of a request of 1 KiB, of %s each time: what the worker and the server use up for it, and what the worker allocates.\n\n", thousands(growthMeasured))
	report.WriteString("| while there are | CPU a request: worker | server | both, of the first | allocations | memory, worker | server |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	base, failed := 0.0, []error(nil)
	cases := growthCases(most)
	for i, c := range cases {
		if i > 0 && i < len(cases)-1 && time.Now().After(until) {
			fmt.Fprintf(&report, "| %s | left out: there was no time | | | | | |\n", c.name)
			continue
		}
		place := filepath.Join(dir, fmt.Sprint("growth-", i))
		r, err := grown(ctx, place, exe, c)
		_ = os.RemoveAll(place)
		if err != nil {
			endAll()
			fmt.Fprintf(os.Stderr, "growth: %s: %v\n", c.name, err)
			fmt.Fprintf(&report, "| %s | left out: %v | | | | | |\n", c.name, err)
			failed = append(failed, fmt.Errorf("%s: %w", c.name, err))
			continue
		}
		worker, server := r.worker.cpu.Seconds()*1e6/growthMeasured, r.server.cpu.Seconds()*1e6/growthMeasured
		if base == 0 {
			base = worker + server
		}
		fmt.Fprintf(os.Stderr, "growth: %s: %.0f and %.0f µs\n", c.name, worker, server)
		fmt.Fprintf(&report, "| %s | %.0f µs | %.0f µs | %.2f | %.0f | %s | %s |\n", c.name, worker, server, (worker+server)/base,
			r.worker.mallocs/growthMeasured, mib(r.worker.peak), mib(r.server.peak))
	}
	report.WriteString("\n")
	return report.String(), errors.Join(failed...)
}

func grown(ctx context.Context, dir, exe string, c growthCase) (result, error) {
	var res result
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return res, err
	}
	upstream, err := startRole(dir, "provider", "SIZE=1024")
	if err != nil {
		return res, err
	}
	defer upstream.kill()
	var more strings.Builder
	for i := range c.providers - 1 {
		fmt.Fprintf(&more, "  rest%d: {base_url: '%s', auth: none, limits: 60/min, operations: {quote: {path: /quote}}}\n", i, upstream.address)
	}
	s := setup{
		dir: dir, worker: exe, provider: upstream.address, concurrency: 64, agents: c.agents, sync: "lazy", more: more.String(),
		env: []string{"FETCH_AGENT_BACKLOG=1000000"},
	}
	if c.letters > 0 {
		s.env = append(s.env, "FETCH_REPLAY=on") // whoever keeps them has a part in the cost
	}
	running, err := startOurs(ctx, s)
	if err != nil {
		return res, err
	}
	o := running.(*overNATS) //nolint:errcheck,forcetypeassert // startOurs makes one
	defer func() {
		o.worker.kill() // it has no need to finish a million requests
		o.close()
	}()
	const warm = 1000
	if err := o.publish(ctx, 0, warm); err != nil {
		return res, err
	}
	if _, err := waitFor(ctx, o, warm); err != nil {
		return res, err
	}
	if err := lay(ctx, o, c); err != nil {
		return res, err
	}
	before, err := o.answered(ctx)
	if err != nil {
		return res, err
	}
	o.worker.freeze()
	err = o.publish(ctx, warm, max(c.waiting, growthMeasured))
	w, server := cpuOf(o.worker.cmd.Process.Pid), o.server.usage()
	o.worker.thaw()
	if err != nil {
		return res, err
	}
	mallocs, bytes := allocations(o.worker.debug)
	if _, err := waitFor(ctx, o, before+growthMeasured); err != nil {
		return res, err
	}
	res.worker, res.server = o.worker.usage().minus(usage{w, mallocs, bytes, 0}), o.server.usage().minus(server)
	// Some more were answered until that was seen.
	after, err := o.answered(ctx)
	if err != nil {
		return res, err
	}
	share := growthMeasured / float64(max(after-before, growthMeasured))
	res.worker.cpu, res.server.cpu = time.Duration(float64(res.worker.cpu)*share), time.Duration(float64(res.server.cpu)*share)
	res.worker.mallocs *= share
	return res, nil
}

// lay stores letters and answers, as workers would have.
func lay(ctx context.Context, o *overNATS, c growthCase) error {
	if c.letters == 0 && c.answers == 0 {
		return nil
	}
	now := time.Now().UTC()
	stored, due := now.Format(time.RFC3339Nano), now.Add(24*time.Hour).Format(time.RFC3339Nano)
	err := o.send(ctx, c.letters, func(i int) *nats.Msg {
		id := identityOf("letter", i)
		m := nats.NewMsg(wire.DLQSubject(fetchworker.LaneInteractive, id))
		m.Data = requestBody(i)
		for name, value := range map[string]string{
			wire.HeaderRequestID: id.ID, wire.HeaderGeneration: "1", wire.HeaderCalls: "1", wire.HeaderFailures: "1",
			wire.HeaderErrorClass: string(wire.ClassTransient), wire.HeaderRequestedAt: stored,
			wire.HeaderFailedAt: stored, wire.HeaderNotBefore: due,
		} {
			m.Header.Set(name, value)
		}
		return m
	})
	if err != nil {
		return err
	}
	err = o.send(ctx, c.answers, func(i int) *nats.Msg {
		return fetchworker.Answer{
			Identity: identityOf("kept", i), Status: fetchworker.StatusOK, Final: true, Generation: 1, Calls: 1, Source: fetchworker.SourceOrigin,
			FetchedAt: now, HTTPStatus: 200, ContentType: "application/json", Body: []byte(`{"price":187.25}`),
		}.Encode()
	})
	pause(ctx, 5*time.Second) // what is done with them when they come
	return err
}

func identityOf(what string, i int) fetchworker.Identity {
	return fetchworker.Identity{Provider: "bench", Operation: "quote", Agent: agentOf(i, 100), ID: fmt.Sprint(what, "-", i)}
}
