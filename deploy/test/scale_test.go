package deploy_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The figures that docs/scaling.md stands on:
//
//	cd deploy/test && go test -run '^$' -bench . -benchtime 1x

// BenchmarkAnswers is how many requests a second get their stored answer, with
// no limit of the provider's in the way: the queue, the call, the answer's
// compare-and-set and the acknowledgement.
func BenchmarkAnswers(b *testing.B) {
	for _, sync := range []string{"always", "interval"} {
		for _, workers := range []int{1, 2} {
			b.Run(fmt.Sprintf("sync=%s/workers=%d", sync, workers), func(b *testing.B) {
				for b.Loop() {
					took, _, rss := through(b, 2000, workers, "FETCH_SYNC="+sync, "FMP_REQUESTS_PER_MINUTE=0")
					b.ReportMetric(2000/took.Seconds(), "answers/s")
					b.ReportMetric(rss, "worker-MB")
				}
			})
		}
	}
}

// BenchmarkRegister is how often a provider's register is written for each
// call, by workers that share its limit and all have a backlog.
func BenchmarkRegister(b *testing.B) {
	for _, workers := range []int{1, 3} {
		b.Run(fmt.Sprintf("600 a minute/workers=%d", workers), func(b *testing.B) {
			for b.Loop() {
				const calls = 900
				took, writes, _ := through(b, calls, workers, "FETCH_SYNC=always", "FMP_REQUESTS_PER_MINUTE=600")
				b.ReportMetric(writes/calls, "writes/call")
				b.ReportMetric(writes/took.Seconds(), "writes/s")
			}
		})
	}
}

// through puts requests of 16 agents through a fleet, and tells how long it
// took, how often the register was written, and what the last worker holds.
func through(b *testing.B, requests, workers int, env ...string) (took time.Duration, writes, rss float64) {
	b.Helper()
	upstream, err := providertest.Listen()
	if err != nil {
		b.Fatal(err)
	}
	defer upstream.Close()
	body := `[{"symbol":"X","price":1,"note":"` + strings.Repeat("x", 950) + `"}]`
	upstream.Fallback = func(*http.Request) *providertest.Step {
		step := providertest.JSON(200, body)
		return &step
	}
	dir, err := built()
	if err != nil {
		b.Fatal(err)
	}
	host := freeAddr(b)
	env = append(env, "FMP_API_KEY=fmp-key-0123456789", "FMP_BASE_URL="+upstream.URL()+"/api/v3", "FETCH_LOG_LEVEL=error",
		"FETCH_CONCURRENCY=64", "FETCH_GATEWAY=off", "FETCH_DATA_DIR="+b.TempDir(), "FETCH_NATS_ADDR="+host)
	var fleet []*exec.Cmd
	for i := range workers {
		w := exec.Command(filepath.Join(dir, "worker"))
		listen := freeAddr(b)
		w.Env = append(append(os.Environ(), env...), "FETCH_HTTP_ADDR="+listen)
		if i > 0 { // the first one embeds the server
			w.Env = append(w.Env, "NATS_URL=nats://"+host)
		}
		w.Stderr = os.Stderr
		if err := w.Start(); err != nil {
			b.Fatal(err)
		}
		fleet = append(fleet, w)
		awaitReady(b, listen)
	}
	defer func() {
		for i := len(fleet) - 1; i >= 0; i-- {
			_ = fleet[i].Process.Signal(syscall.SIGTERM)
			_ = fleet[i].Wait()
		}
	}()
	nc, err := nats.Connect("nats://" + host)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256))
	if err != nil {
		b.Fatal(err)
	}
	answered := make(chan struct{})
	var mu sync.Mutex
	final := 0
	if _, err := nc.Subscribe("fetch.result.>", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if m.Header.Get("Fetch-Final") == "true" {
			if final++; final == requests {
				close(answered)
			}
		}
	}); err != nil {
		b.Fatal(err)
	}
	started := time.Now()
	for i := range requests {
		subject := fmt.Sprintf("fetch.request.fmp.batch.quote.agent-%d", i%16)
		if _, err := js.PublishAsync(subject, fmt.Appendf(nil, `{"params":{"symbol":"S%d"}}`, i), jetstream.WithStallWait(10*time.Second)); err != nil {
			b.Fatal(err)
		}
	}
	select {
	case <-answered:
	case <-time.After(5 * time.Minute):
		b.Fatalf("%d of %d answered", final, requests)
	}
	took = time.Since(started)
	kv, err := js.KeyValue(b.Context(), wire.BucketProviders)
	if err != nil {
		b.Fatal(err)
	}
	if history, err := kv.Get(b.Context(), "permits.fmp"); err == nil {
		writes = float64(history.Revision()) // of the bucket: presence and circuit are a few
	}
	return took, writes, resident(fleet[len(fleet)-1].Process.Pid)
}

// resident is a process' memory in MB.
func resident(pid int) float64 {
	content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	fields := strings.Fields(string(content))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(fields[1])
	return float64(pages*os.Getpagesize()) / (1 << 20)
}

// BenchmarkProviders is what each provider costs the server, or three, while all
// of its shards are in use: 33 consumers.
func BenchmarkProviders(b *testing.B) {
	for _, copies := range []int{1, 3} {
		b.Run(fmt.Sprintf("R%d", copies), func(b *testing.B) {
			const providers = 10
			js := servers(b, copies)
			if err := broker.Apply(b.Context(), js, broker.Options{Replicas: copies, ResultAge: 168 * time.Hour}, nil); err != nil {
				b.Fatal(err)
			}
			idle := cpu(5 * time.Second)
			for b.Loop() {
				before, started := heap(), time.Now()
				for i := range providers {
					if err := broker.ServeProvider(b.Context(), js, fmt.Sprintf("p%d", i), broker.Held(120)); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(time.Since(started).Milliseconds())/providers, "ms/provider")
				b.ReportMetric((heap()-before)/providers/1024, "KB/provider")
				b.ReportMetric(100*(cpu(5*time.Second)-idle)/providers, "%core/provider")
			}
		})
	}
}

// cpu is how many cores this process, the servers in it, keeps busy.
func cpu(d time.Duration) float64 {
	used := func() time.Duration {
		var r syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	before := used()
	time.Sleep(d)
	return float64(used()-before) / float64(d)
}

// BenchmarkSubjects is what the server remembers of each stored answer, which
// has a subject of its own, and how long it takes to start with them.
func BenchmarkSubjects(b *testing.B) {
	const answers = 200_000
	dir := b.TempDir()
	open := func() (*broker.Embedded, jetstream.JetStream) {
		e, err := broker.Embed(broker.EmbedOptions{DataDir: dir, Sync: time.Minute})
		if err != nil {
			b.Fatal(err)
		}
		nc, err := e.Connect()
		if err != nil {
			b.Fatal(err)
		}
		js, err := jetstream.New(nc)
		if err != nil {
			b.Fatal(err)
		}
		return e, js
	}
	for b.Loop() {
		e, js := open()
		if err := broker.Apply(b.Context(), js, broker.Options{ResultAge: 168 * time.Hour}, nil); err != nil {
			b.Fatal(err)
		}
		before, body := heap(), make([]byte, 1024)
		for i := range answers {
			subject := fmt.Sprintf("fetch.put.fmp.quote.agent-%d.%s", i%16, fetchworker.NewID())
			if _, err := js.PublishAsync(subject, body, jetstream.WithStallWait(10*time.Second)); err != nil {
				b.Fatal(err)
			}
		}
		<-js.PublishAsyncComplete()
		b.ReportMetric((heap()-before)/answers, "B/answer")
		e.Shutdown()
		started := time.Now()
		e, _ = open()
		b.ReportMetric(time.Since(started).Seconds(), "s-start")
		e.Shutdown()
	}
}

func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// BenchmarkReplicas is what a stored message costs with one copy and with
// three, every write on the disk before it is acknowledged.
func BenchmarkReplicas(b *testing.B) {
	for _, copies := range []int{1, 3} {
		b.Run(fmt.Sprintf("R%d", copies), func(b *testing.B) {
			js := servers(b, copies)
			if _, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Replicas: copies}); err != nil {
				b.Fatal(err)
			}
			kv, err := js.CreateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: "registers", Replicas: copies})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				const messages, publishers = 2000, 16
				started := time.Now()
				var group sync.WaitGroup
				for p := range publishers {
					group.Go(func() {
						for range messages / publishers {
							if _, err := js.Publish(b.Context(), fmt.Sprintf("s.%d", p), make([]byte, 1024)); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				group.Wait()
				b.ReportMetric(messages/time.Since(started).Seconds(), "stored/s")

				revision, started := uint64(0), time.Now()
				const updates = 300
				for range updates {
					if revision, err = kv.Update(b.Context(), "permits.fmp", make([]byte, 200), revision); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(updates/time.Since(started).Seconds(), "register-writes/s")
			}
		})
	}
}

// servers are as many as there are copies, as nats/cluster configures them.
func servers(b *testing.B, n int) jetstream.JetStream {
	b.Helper()
	var routes []string
	ports := make([]int, n)
	for i := range ports {
		_, port, _ := strings.Cut(freeAddr(b), ":")
		ports[i], _ = strconv.Atoi(port)
		routes = append(routes, "nats://127.0.0.1:"+port)
	}
	var first *server.Server
	for i := range n {
		o := &server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: b.TempDir(),
			SyncAlways: true, NoSigs: true, NoLog: true,
		}
		if n > 1 {
			o.Cluster = server.ClusterOpts{Name: "fetch", Host: "127.0.0.1", Port: ports[i]}
			o.Routes = server.RoutesFromStr(strings.Join(routes, ","))
		}
		s, err := server.NewServer(o)
		if err != nil {
			b.Fatal(err)
		}
		s.Start()
		b.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		if first == nil {
			first = s
		}
		if !s.ReadyForConnections(10 * time.Second) {
			b.Fatal("a server does not start")
		}
	}
	nc, err := nats.Connect(first.ClientURL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(10*time.Second))
	if err != nil {
		b.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "READY", Subjects: []string{"ready"}, Replicas: n})
		cancel()
		if err == nil {
			return js
		}
		if time.Now().After(deadline) {
			b.Fatal(err)
		}
	}
}

// BenchmarkPermits is how many permits a second one gate hands out to a
// backlog where the limit, 10,000 a second, allows them all.
func BenchmarkPermits(b *testing.B) {
	for _, concurrency := range []int{16, 64, 256} {
		b.Run(fmt.Sprintf("concurrency=%d", concurrency), func(b *testing.B) { permits(b, concurrency) })
	}
}

func permits(b *testing.B, concurrency int) {
	e, err := broker.Embed(broker.EmbedOptions{DataDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Shutdown()
	nc, err := e.Connect()
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	js, err := broker.JetStream(nc)
	if err != nil {
		b.Fatal(err)
	}
	if err := broker.Apply(b.Context(), js, broker.Options{ResultAge: 168 * time.Hour}, nil); err != nil {
		b.Fatal(err)
	}
	kv, err := js.KeyValue(b.Context(), wire.BucketProviders)
	if err != nil {
		b.Fatal(err)
	}
	if err := budget.CreateRegister(b.Context(), kv, "fmp"); err != nil {
		b.Fatal(err)
	}
	gate, err := budget.Open(b.Context(), js, kv, budget.Settings{
		Provider: "fmp", Worker: "w", Limits: ledger.Limits{{N: 600_000, Per: time.Minute}}, Concurrency: concurrency,
	}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer gate.Close()
	for b.Loop() {
		permits, callers := 40*concurrency, concurrency
		started := time.Now()
		var group sync.WaitGroup
		for c := range callers {
			group.Go(func() {
				for range permits / callers {
					p, err := gate.Acquire(b.Context(), turns.Ask{Lane: turns.Batch, Shard: c})
					if err != nil {
						b.Error(err)
						return
					}
					_ = p.Start()
					p.Done(budget.Report{Outcome: budget.Success, Remaining: -1})
				}
			})
		}
		group.Wait()
		b.ReportMetric(float64(permits)/time.Since(started).Seconds(), "permits/s")
	}
}
