package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// providersAtRest measures what providers cost that nobody asks: how long a
// worker takes to start with them, what it and the servers use up while there
// is nothing to do, and how long the first request to one of them takes.
func providersAtRest(ctx context.Context) error {
	flags := flag.NewFlagSet("providers", flag.ExitOnError)
	cases := flags.String("cases", "20x1,200x1,4x3,20x3,60x3", "providers x servers, with commas between them")
	rest := flags.Duration("rest", 10*time.Second, "how long rest is watched")
	_ = flags.Parse(os.Args[2:])
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	exe, err := build(dir)
	if err != nil {
		return err
	}
	fmt.Println("| providers | servers | first start | second start | servers at rest | worker at rest | first request | one of the next | three asked |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for name := range strings.SplitSeq(*cases, ",") {
		var providers, servers int
		if _, err := fmt.Sscanf(name, "%dx%d", &providers, &servers); err != nil {
			return fmt.Errorf("case %q: %w", name, err)
		}
		place := filepath.Join(dir, name)
		if err := os.Mkdir(place, 0o700); err != nil {
			return err
		}
		if err := atRest(ctx, place, exe, providers, servers, *rest); err != nil {
			return fmt.Errorf("case %s: %w", name, err)
		}
	}
	return nil
}

func atRest(ctx context.Context, dir, exe string, providers, servers int, rest time.Duration) error {
	all, err := startServers(dir, servers)
	defer func() {
		for _, p := range all {
			p.kill()
		}
	}()
	if err != nil {
		return err
	}
	upstream, err := startRole(dir, "provider", "SIZE=200")
	if err != nil {
		return err
	}
	defer upstream.kill()
	var catalogue strings.Builder
	env := []string{fmt.Sprint("FETCH_REPLICAS=", servers), "BENCH_API_KEY=x"}
	for i := range providers - 1 {
		limits := "60/min"
		if i < asked {
			limits = "unlimited"
		}
		fmt.Fprintf(&catalogue, "  rest%d: {base_url: '%s', auth: none, limits: %s, operations: {quote: {path: /quote, params: {n: {required: false}}}}}\n", i, upstream.address, limits)
	}
	s := setup{dir: dir, worker: exe, provider: upstream.address, concurrency: 16, env: env, more: catalogue.String()}
	var starts [2]time.Duration
	var w *process
	for i := range starts {
		began := time.Now()
		if w, err = startWorker(ctx, s, fmt.Sprint("worker-", i), all[0].address); err != nil {
			return err
		}
		starts[i] = time.Since(began)
		if i == 0 {
			w.stop()
		}
	}
	defer w.stop()
	pause(ctx, 5*time.Second) // what a start leaves to do
	used := func(ps ...*process) (cpu time.Duration, bytes int64) {
		for _, p := range ps {
			cpu += cpuOf(p.cmd.Process.Pid)
			bytes += memory(p.cmd.Process.Pid, "VmRSS:")
		}
		return cpu, bytes
	}
	serversBefore, _ := used(all...)
	workerBefore, _ := used(w)
	pause(ctx, rest)
	serversAfter, serversBytes := used(all...)
	workerAfter, workerBytes := used(w)
	share := func(d time.Duration) float64 { return 100 * d.Seconds() / rest.Seconds() }
	first, next, err := latencies(ctx, all[0].address, min(providers-1, 12))
	if err != nil {
		return err
	}
	rate, err := busy(ctx, all[0].address)
	if err != nil {
		return err
	}
	fmt.Printf("| %d | %d | %.1f s | %.1f s | %.1f %% of a core, %s | %.1f %%, %s | %s | %s | %.0f/s |\n", providers, servers,
		starts[0].Seconds(), starts[1].Seconds(), share(serversAfter-serversBefore), mib(serversBytes), share(workerAfter-workerBefore), mib(workerBytes),
		first, next, rate)
	return nil
}

// asked are the providers that are asked for all that they can do, each by an
// agent of its own; requestsEach is how often.
const (
	asked        = 3
	requestsEach = 8000
)

// busy is how many requests a second the three that are asked have answered.
func busy(ctx context.Context, natsURL string) (float64, error) {
	nc, err := nats.Connect(natsURL)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256))
	if err != nil {
		return 0, err
	}
	stream, err := js.Stream(ctx, fetchworker.StreamRequests)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for n := range asked * requestsEach {
		subject := fetchworker.RequestSubject(fmt.Sprint("rest", n%asked), fetchworker.LaneInteractive, "quote", fmt.Sprint("agent", n%asked))
		if _, err := js.PublishAsync(subject, fmt.Appendf(nil, `{"params":{"n":"%d"}}`, n), jetstream.WithStallWait(10*time.Second)); err != nil {
			return 0, err
		}
	}
	<-js.PublishAsyncComplete()
	err = eventually(time.Minute, func() bool {
		pause(ctx, 20*time.Millisecond)
		info, err := stream.Info(ctx)
		return err == nil && info.State.Msgs == 0
	})
	return asked * requestsEach / time.Since(began).Seconds(), err
}

// latencies asks some providers at rest for the first time, and then each once
// more: the median and the worst of both.
func latencies(ctx context.Context, natsURL string, n int) (first, next string, err error) {
	c, err := fetchworker.Connect(natsURL, "bench")
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	round := func() (string, error) {
		var took []time.Duration
		for i := range n {
			began := time.Now()
			r := fetchworker.Request{Provider: fmt.Sprint("rest", i), Operation: "quote", MaxAge: new(fetchworker.Duration)}
			if a, err := c.Fetch(ctx, r); err != nil {
				return "", err
			} else if a.Status != fetchworker.StatusOK {
				return "", fmt.Errorf("%s: %s %v", r.Provider, a.Status, a.Problem)
			}
			took = append(took, time.Since(began))
			pause(ctx, 100*time.Millisecond)
		}
		slices.Sort(took)
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		return fmt.Sprintf("%.1f ms (at most %.1f)", ms(took[n/2]), ms(took[n-1])), nil
	}
	if first, err = round(); err != nil {
		return "", "", err
	}
	next, err = round()
	return first, next, err
}

// startServers starts one server, or a cluster of several.
func startServers(dir string, n int) ([]*process, error) {
	var routes []string
	for range n {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		routes = append(routes, net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
	}
	var all []*process
	for i := range n {
		place := filepath.Join(dir, fmt.Sprint("server-", i))
		if err := os.Mkdir(place, 0o700); err != nil {
			return all, err
		}
		env := []string{"STORE=" + place + "/jetstream", "SYNC=lazy", fmt.Sprint("SERVER=", i)}
		if n > 1 {
			env = append(env, "ROUTES="+strings.Join(routes, ","))
		}
		p, err := startRole(place, "nats", env...)
		if err != nil {
			return all, err
		}
		all = append(all, p)
	}
	return all, settled(all[0].address)
}

// settled waits until servers have found each other: what that takes, up to
// ten seconds, is theirs.
func settled(natsURL string) error {
	nc, err := nats.Connect(natsURL)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(200*time.Millisecond))
	if err != nil {
		return err
	}
	return eventually(time.Minute, func() bool {
		_, err := js.Stream(context.Background(), fetchworker.StreamRequests)
		return errors.Is(err, jetstream.ErrStreamNotFound)
	})
}
