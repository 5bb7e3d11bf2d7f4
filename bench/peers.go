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
	rate           float64       // answers a second
	worker, server usage         // for all requests
	busy           float64       // processors that were, of the whole machine
	waited         time.Duration // for a processor, worker and server together
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
measuring:
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
					failed = append(failed, ctx.Err())
					break measuring
				case err != nil:
					fmt.Fprintf(os.Stderr, "%s, round %d: %s: %v\n", c.name, round+1, contender.name, err)
					out[contender.name] = err
					if contender.name == floorSync || contender.name == ours {
						failed = append(failed, fmt.Errorf("%s, %s: %w", c.name, contender.name, err))
					}
				default:
					r.contender = contender.name
					all[contender.name] = append(all[contender.name], r)
					fmt.Fprintf(os.Stderr, "%s, round %d: %s %.0f/s, CPU %.0f and %.0f µs, %.2f processors busy, waited for them %.0f µs\n", c.name, round+1, contender.name, r.rate,
						r.worker.cpu.Seconds()*1e6/float64(c.requests), r.server.cpu.Seconds()*1e6/float64(c.requests), r.busy, r.waited.Seconds()*1e6/float64(c.requests))
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
	// What has been measured is told, whatever becomes of the rest.
	part := func(name string, measure func() (string, error)) {
		if !strings.Contains(*parts, name) || ctx.Err() != nil {
			return
		}
		text, err := measure()
		report.WriteString(text)
		if err != nil {
			fmt.Fprintf(&report, "\nLeft out: %s: %s\n\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
			endAll()
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
	}
	part("promises", func() (string, error) { return promises(ctx, dir, exe, *short) })
	part("growth", func() (string, error) { return growth(ctx, dir, exe, *most, began.Add(*within-growthLast)) })
	part("start", func() (string, error) { return cold(ctx, filepath.Join(dir, "cold"), exe, 20*time.Second) })
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
	head := fmt.Sprintf("Measured with `bench %s` on %d processors (%s, %s), medians of at most %d interleaved rounds. The machine's load average was %s before and %s after.\n\n",
		command, runtime.NumCPU(), cpuModel(), runtime.Version(), *rounds, load, loadAverage())
	return errors.Join(errors.Join(failed...), os.MkdirAll(*out, 0o700),
		os.WriteFile(filepath.Join(*out, "peers.md"), []byte(head+report.String()), 0o600),
		os.WriteFile(filepath.Join(*out, "peers.svg"), []byte(bars(plot)), 0o600))
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
