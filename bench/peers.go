package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// setup is what a contender is started with.
type setup struct {
	dir         string // its files
	worker      string // our binary
	provider    string // base URL
	concurrency int    // calls at once
	agents      int    // that ask
	sync        string // "lazy": the server's own interval; "always": every write
	limits      string // of the provider; "": unlimited
	env         []string
	more        string // of the catalogue
}

// running is a contender that is up.
type running interface {
	publish(ctx context.Context, from, n int) error
	answered(ctx context.Context) (int, error)
	latencies(ctx context.Context, from, n int, every time.Duration) ([]time.Duration, error)
	processes() (worker, server *process)
	close()
}

var errLeftOut = errors.New("left out")

type contender struct {
	name  string
	start func(context.Context, setup) (running, error)
}

// contenders in the order of the table. There is place for others.
var contenders = []contender{
	{"floor (sync)", startFloor("sync")},
	{"floor (async)", startFloor("async")},
	{"fetchworker", startOurs},
	{"watermill-nats", startWatermill},
	{"Asynq", startAsynq},
	{"River", startRiver},
}

const (
	floorSync = "floor (sync)"
	ours      = "fetchworker"
)

// peerCase is one way in which all contenders are measured.
type peerCase struct {
	name        string
	size        int // bytes of a body
	delay       time.Duration
	concurrency int
	agents      int
	sync        string
	requests    int
	things      int // 0: each request asks for another thing; else they go round so many
}

var peerCases = []peerCase{
	{"core", 1 << 10, 0, 64, 1, "lazy", 10_000, 0},
	{"16 at once", 1 << 10, 0, 16, 1, "lazy", 10_000, 0},
	{"16 agents", 1 << 10, 0, 64, 16, "lazy", 10_000, 0},
	{"1,000 agents", 1 << 10, 0, 64, 1000, "lazy", 10_000, 0},
	{"64 KiB", 64 << 10, 0, 64, 16, "lazy", 3_000, 0},
	{"1 MiB", 1 << 20, 0, 16, 16, "lazy", 200, 0},
	{"20 ms", 1 << 10, 20 * time.Millisecond, 32, 16, "lazy", 4_000, 0},
	{"sync always", 1 << 10, 0, 64, 16, "always", 2_000, 0},
	{"cache hits", 1 << 10, 0, 64, 16, "lazy", 10_000, 16},
}

// result is what one contender did in one round of one case.
type result struct {
	contender      string
	rate           float64 // answers a second
	worker, server usage   // for all requests
	busy           float64 // processors that were, of the whole machine
	requests       int
	latencies      []time.Duration
	directs        []time.Duration
}

func peers(ctx context.Context) error {
	flags := flag.NewFlagSet("peers", flag.ExitOnError)
	rounds := flags.Int("rounds", 3, "rounds; what is told is the median")
	only := flags.String("only", "", "contenders whose name contains this, the floor always")
	which := flags.String("cases", "", "cases, by name, with commas between them; all if empty")
	out := flags.String("out", "", "folder for peers.md and peers.svg; none: only to the terminal")
	probes := flags.Int("probes", 200, "requests at low load, for the latency")
	requests := flags.Int("requests", 0, "requests a case and round, if others than the case's own")
	profile := flags.String("profile", "", "folder for CPU and allocation profiles of our worker under load")
	keep := flags.Bool("keep", false, "keep the working folder")
	parts := flags.String("parts", "peers,promises,growth,start", "what is measured")
	most := flags.Int("most", 1_000_000, "the most that there is of anything in the part growth")
	short := flags.Bool("short", false, "a few cases, one round, little growth: about three minutes")
	within := flags.Duration("within", 28*time.Minute, "time for all: with less of it left there are fewer rounds, and less growth")
	beside := flags.String("beside", "", "other builds of our worker that take part, as name=path, with commas between them")
	_ = flags.Parse(os.Args[2:])
	for build := range strings.SplitSeq(*beside, ",") {
		if name, path, ok := strings.Cut(build, "="); ok {
			contenders = append(contenders, contender{ours + " " + name, func(ctx context.Context, s setup) (running, error) {
				s.worker = path
				return startOurs(ctx, s)
			}})
		}
	}
	if *short {
		*rounds, *probes, *which, *most = 1, 100, "core,16 agents,20 ms,cache hits", 10_000
	}

	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	if !*keep {
		defer os.RemoveAll(dir)
	}
	exe, err := build(dir)
	if err != nil {
		return err
	}
	load, began := loadAverage(), time.Now()
	var report strings.Builder
	var plot []series
	var failed []error // of what must not be left out
	cases := slices.DeleteFunc(slices.Clone(peerCases), func(c peerCase) bool {
		return !strings.Contains(*parts, "peers") || *which != "" && !slices.Contains(strings.Split(*which, ","), c.name)
	})
	for i, c := range cases {
		if *requests > 0 {
			c.requests = *requests
		}
		out := map[string]error{} // why who is left out
		share := time.Duration(float64(*within) * peersShare * float64(i+1) / float64(len(cases)))
		all := map[string][]result{}
		for round := range *rounds {
			if round > 0 && time.Since(began) > share {
				fmt.Fprintf(os.Stderr, "%s: %d rounds, there is no time for more\n", c.name, round)
				break
			}
			for _, contender := range contenders {
				if *only != "" && contender.name != floorSync && !strings.Contains(contender.name, *only) {
					continue
				}
				if c.things > 0 && !strings.HasPrefix(contender.name, ours) {
					continue // none of the others has a cache
				}
				if out[contender.name] != nil {
					continue
				}
				place := filepath.Join(dir, fmt.Sprintf("%s-%d-%s", slug(c.name), round, slug(contender.name)))
				r, err := turn(ctx, place, exe, c, contender, *probes, *profile)
				switch {
				case ctx.Err() != nil:
					return ctx.Err()
				case err != nil:
					fmt.Fprintf(os.Stderr, "%s, round %d: %s: %v\n", c.name, round+1, contender.name, err)
					out[contender.name] = err
					if contender.name == floorSync || contender.name == ours {
						failed = append(failed, fmt.Errorf("%s, %s: %w", c.name, contender.name, err))
					}
				default:
					r.contender = contender.name
					all[contender.name] = append(all[contender.name], r)
					fmt.Fprintf(os.Stderr, "%s, round %d: %s %.0f/s, CPU %.0f and %.0f µs, %.2f processors busy\n", c.name, round+1, contender.name, r.rate,
						r.worker.cpu.Seconds()*1e6/float64(c.requests), r.server.cpu.Seconds()*1e6/float64(c.requests), r.busy)
				}
				if !*keep {
					_ = os.RemoveAll(place)
				}
			}
		}
		rows := medians(all)
		writeTable(&report, c, rows, out)
		plot = append(plot, series{c.name, rows})
	}
	if strings.Contains(*parts, "promises") {
		text, err := promises(ctx, dir, exe, *short)
		if err != nil {
			return err
		}
		report.WriteString(text)
	}
	if strings.Contains(*parts, "growth") {
		text, err := growth(ctx, dir, exe, *most, began.Add(*within-growthLast))
		if err != nil {
			return err
		}
		report.WriteString(text)
	}
	if strings.Contains(*parts, "start") {
		text, err := cold(ctx, filepath.Join(dir, "cold"), exe, 20*time.Second)
		if err != nil {
			return err
		}
		report.WriteString(text)
	}
	fmt.Print(report.String())
	if *out == "" {
		return errors.Join(failed...)
	}
	command := "peers"
	flags.Visit(func(f *flag.Flag) {
		if f.Name != "out" && f.Name != "profile" { // folders of whoever ran it
			command += " -" + f.Name + "=" + f.Value.String()
		}
	})
	head := fmt.Sprintf("Measured with `bench %s` on %d processors (%s, %s), medians of %d interleaved rounds. The machine's load average was %s before and %s after.\n\n",
		command, runtime.NumCPU(), cpuModel(), runtime.Version(), *rounds, load, loadAverage())
	return errors.Join(errors.Join(failed...),
		os.WriteFile(filepath.Join(*out, "peers.md"), []byte(head+report.String()), 0o600),
		os.WriteFile(filepath.Join(*out, "peers.svg"), []byte(bars(plot)), 0o600))
}

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
	next += probes
	if res.directs, err = direct(ctx, standIn.address, probes); err != nil {
		return res, err
	}
	// The work is laid out while nobody can take it.
	worker, server := r.processes()
	mallocs, bytes := allocations(worker.debug) // now: asked later, it would answer while it works
	worker.freeze()
	err = r.publish(ctx, next, c.requests)
	w, s := cpuOf(worker.cmd.Process.Pid), server.usage()
	start, idle := time.Now(), idleSoFar()
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

// medians are the rows of a case: of each contender the round in the middle.
func medians(all map[string][]result) []result {
	var rows []result
	for _, contender := range contenders {
		if rs := all[contender.name]; len(rs) > 0 {
			slices.SortFunc(rs, func(a, b result) int { return cmp.Compare(a.rate, b.rate) })
			rows = append(rows, rs[len(rs)/2])
		}
	}
	return rows
}

func inParallel(from, n int, do func(i int) error) error {
	const hands = 16
	errs := make([]error, hands)
	var group sync.WaitGroup
	for hand := range hands {
		group.Go(func() {
			for i := from + hand; i < from+n && errs[hand] == nil; i += hands {
				errs[hand] = do(i)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func slug(s string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(s)), "-")
}
