package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/providers/providertest"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// aTwentiethFails is a provider of which five calls in a hundred come to
// nothing, each in another way.
func aTwentiethFails(*http.Request) *providertest.Step {
	step := providertest.JSON(http.StatusOK, aQuote)
	step.Latency = time.Duration(rand.IntN(40)) * time.Millisecond
	switch rand.IntN(100) {
	case 0:
		step.Status, step.Body = http.StatusInternalServerError, []byte("boom")
	case 1:
		step.Status, step.Body = http.StatusBadGateway, []byte("<html><body>bad gateway</body></html>")
	case 2:
		step.Body = []byte(aQuote[:10]) // broken off
	case 3:
		step.Status, step.Body = http.StatusNotFound, []byte(`{"message":"no such symbol"}`)
	case 4:
		step.Cut = -1
	}
	return &step
}

// soakSymbols are asked for in turn.
const soakSymbols = 2000

// levels are what a process holds, a sample a second.
type levels struct {
	name    string
	samples []int
}

// flat reports whether the last third is no more than the second, but for a
// share and some few.
func (l *levels) flat(share float64, few int) (from, to int, ok bool) {
	third := len(l.samples) / 3
	from, to = middle(l.samples[third:2*third]), middle(l.samples[2*third:])
	return from, to, to <= int(float64(from)*(1+share))+few
}

func middle(samples []int) int {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[len(sorted)/2]
}

// TestTheFleetSoaks asks at an even rate for minutes, with a provider that
// fails now and then, and looks at what the processes hold: memory, files,
// goroutines and subscriptions are flat, and every request has its one end.
func TestTheFleetSoaks(t *testing.T) {
	begin(t)
	lasts, rate := pick(18*time.Second, 10*time.Minute), pick(40, 300)
	if only, err := time.ParseDuration(os.Getenv("FETCH_SOAK")); err == nil {
		lasts = only
	}
	broker, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	broker.Start()
	defer broker.WaitForShutdown()
	defer broker.Shutdown()
	nc, err := nats.Connect(broker.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	f := withServer(t, aTwentiethFails, nc, nc, map[string]string{"NATS_URL": broker.ClientURL()})
	f.env["FETCH_HTTP_ADDR"], f.env["FETCH_CIRCUIT_OPEN_SECONDS"], f.env["FETCH_CONCURRENCY"] = "127.0.0.1:0", "0.5", "64"
	processes := map[string]*process{"worker 1": f.worker(), "worker 2": f.worker(), "replayer": f.replayer()}

	all := map[string]*levels{}
	note := func(name string, value int) {
		if all[name] == nil {
			all[name] = &levels{name: name}
		}
		all[name].samples = append(all[name].samples, value)
	}
	look := func() {
		for name, p := range processes {
			note(name+" files", files(t, p))
			note(name+" memory MiB", resident(t, p)>>10)
			if addr := p.log.find(`"http":"`); addr != "" {
				note(name+" goroutines", scraped(t, field(t, addr, "http"), "go_goroutines"))
			}
		}
		note("subscriptions", int(broker.NumSubscriptions()))
		note("connections", broker.NumClients())
	}

	var asking sync.WaitGroup
	places := make(chan struct{}, 256)
	start := time.Now()
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	asked, looked := 0, start
	for now := range ticker.C {
		if now.Sub(start) > lasts {
			break
		}
		places <- struct{}{}
		n := asked
		asked++
		asking.Go(func() {
			defer func() { <-places }()
			// Each is called for, and the workers' caches are soon as full as they get.
			r := fetchworker.Request{Provider: "fmp", Operation: "quote", Agent: fmt.Sprint("agent-", n%20), MaxAge: new(fetchworker.Duration)}
			r.ID, r.Params = fmt.Sprint("S", n), params("fmp", fmt.Sprint("S", n%soakSymbols))
			if err := f.submit(r); err != nil {
				t.Error(err)
			}
		})
		if now.Sub(looked) >= time.Second {
			looked = now
			look()
		}
	}
	asking.Wait()
	until(t, time.Minute, "all have their end", func() bool { return f.nothingWaits() })
	took := time.Since(start)
	dlqtest.Check{Accepted: f.accepted, Retries: 3, Empty: true}.Run(t, f.js)
	t.Logf("%d requests in %v: %v", asked, took.Round(time.Second), f.statuses())
	for _, l := range all {
		share, few := 0.1, 6
		switch {
		case strings.HasSuffix(l.name, "MiB"):
			share, few = 0.2, 12
			if lasts < 5*time.Minute {
				few = 24 // the caches fill
			}
		case strings.HasSuffix(l.name, "goroutines"), strings.HasSuffix(l.name, "files"):
			few = 16 // of calls and connections that come and go
		}
		from, to, ok := l.flat(share, few)
		t.Logf("%-24s %4d, then %4d, at most %4d", l.name, from, to, slices.Max(l.samples))
		if !ok {
			t.Errorf("%s grew from %d to %d", l.name, from, to)
		}
	}
}

// files is how many a process has open.
func files(t *testing.T, p *process) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if os.IsNotExist(err) {
		t.Skip("this system does not tell a process's files")
	}
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// scraped is a gauge of a process's metrics.
func scraped(t *testing.T, addr, name string) int {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second}
	res, err := client.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		var value float64
		if rest, is := strings.CutPrefix(line, name+" "); is {
			if _, err := fmt.Sscan(rest, &value); err != nil {
				t.Fatal(err)
			}
			return int(value)
		}
	}
	t.Fatalf("no %s", name)
	return 0
}
