package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
)

// providersAtRest is a catalogue of so many providers that nobody asks, and one
// to begin with.
func providersAtRest(t *testing.T, upstream string, n int) (file string) {
	t.Helper()
	var catalogue strings.Builder
	catalogue.WriteString("providers:\n")
	for i := range n {
		fmt.Fprintf(&catalogue, "  %s: {base_url: '%s', auth: none, limits: 600/min, operations: {quote: {path: '/quote/{symbol}', params: {symbol: {required: true}}}}}\n", atRest(i), upstream)
	}
	file = filepath.Join(t.TempDir(), "catalogue.yaml")
	if err := os.WriteFile(file, []byte(catalogue.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func atRest(n int) string { return fmt.Sprint("rest", n) }

// soonAtRest is a worker whose shards rest after a second without a message, and
// whose consumers go as soon after.
func soonAtRest(t *testing.T) (path string) {
	t.Helper()
	path = program("worker-soon-at-rest")
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X main.shortRest=1s", "-o", path, "fetchworker/cmd/worker").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, output)
	}
	return path
}

// cable carries what a process and a server say to each other, until it is cut
// or held.
type cable struct {
	net.Listener
	to string

	mu    sync.Mutex
	away  bool          // cut: nobody gets through
	held  chan struct{} // closed when it carries on; nil: it does
	conns []net.Conn
}

func lay(t *testing.T, to string) *cable {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: ln, to: to}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := new(net.Dialer).DialContext(t.Context(), "tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			if !c.add(near, far) {
				continue
			}
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				all.Go(func() { c.carry(way[0], way[1]) })
			}
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		c.cut()
		c.join()
		all.Wait()
	})
	return c
}

func (c *cable) add(ends ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		for _, end := range ends {
			_ = end.Close()
		}
		return false
	}
	c.conns = append(c.conns, ends...)
	return true
}

func (c *cable) carry(from, to net.Conn) {
	defer func() { _, _ = from.Close(), to.Close() }()
	piece := make([]byte, 32<<10)
	for {
		n, err := from.Read(piece)
		if err != nil {
			return
		}
		c.mu.Lock()
		held := c.held
		c.mu.Unlock()
		if held != nil {
			<-held
		}
		if _, err := to.Write(piece[:n]); err != nil {
			return
		}
	}
}

// cut breaks all connections, and lets none be made.
func (c *cable) cut() {
	c.mu.Lock()
	conns := c.conns
	c.away, c.conns = true, nil
	c.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// hold carries nothing, and tells neither end: what is said comes later.
func (c *cable) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = make(chan struct{})
}

// join ends both.
func (c *cable) join() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != nil {
		close(c.held)
	}
	c.away, c.held = false, nil
}

// disturbed is who could not go on with what it had begun, and for how long.
type disturbed struct {
	what     string
	from, to time.Time
}

// TestNothingIsLostWhileConsumersComeAndGo has agents ask a few of many
// providers and shards at a time, whose consumers go seconds later, while
// processes are killed and frozen and their cables cut and held. Each request is
// answered once, and called once, but where whoever called was disturbed just
// then. (Its short form is in internal/fetch.)
func TestNothingIsLostWhileConsumersComeAndGo(t *testing.T) {
	begin(t)
	if !full {
		t.Skip("minutes: with FETCH_CHAOS=full")
	}
	lasts := 4 * time.Minute
	if only, err := time.ParseDuration(os.Getenv("FETCH_SOAK")); err == nil {
		lasts = only
	}
	const providers, agents, latency = 4, 80, 30 * time.Millisecond
	f := newFleet(t, well(latency))
	f.workerPath = soonAtRest(t)
	f.env["FETCH_CATALOG"] = providersAtRest(t, f.upstream.URL(), providers)
	f.env["FETCH_RETRY_BASE_SECONDS"], f.env["FETCH_CIRCUIT_FAILURES"] = "0.2", "0"
	server := strings.TrimPrefix(f.env["NATS_URL"], "nats://")
	type member struct {
		*process
		*cable
		name string
	}
	start := func(name string, c *cable) member {
		return member{f.spawn(name, "NATS_URL", "nats://"+c.Addr().String()), c, name}
	}
	var members []member
	for _, name := range []string{"worker", "worker", "worker", "replayer"} {
		members = append(members, start(name, lay(t, server)))
	}
	var made, gone atomic.Int64
	count := func(what string, n *atomic.Int64) *nats.Subscription {
		sub, err := f.js.Conn().Subscribe("$JS.EVENT.ADVISORY.CONSUMER."+what+"."+fetchworker.StreamRequests+".>", func(*nats.Msg) { n.Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
	creations, deletions := count("CREATED", &made), count("DELETED", &gone)
	defer func() { _, _ = creations.Unsubscribe(), deletions.Unsubscribe() }()
	began := time.Now()
	var publishing errgroup.Group
	publishing.Go(func() error {
		for n := 0; time.Since(began) < lasts; n++ {
			// Every ten seconds others ask.
			turn := int(time.Since(began) / (10 * time.Second))
			r := fetchworker.Request{
				Provider: atRest((turn + rand.IntN(2)) % providers), Operation: "quote", Agent: fmt.Sprint("agent-", (turn*7+rand.IntN(4))%agents),
				Lane: []fetchworker.Lane{fetchworker.LaneInteractive, fetchworker.LaneBatch}[rand.IntN(2)],
			}
			if err := f.ask(r, fmt.Sprint("S", n)); err != nil {
				return err
			}
			time.Sleep(rand.N(150 * time.Millisecond))
		}
		return nil
	})
	var all []disturbed
	for time.Since(began) < lasts {
		time.Sleep(rand.N(2 * time.Second))
		i := rand.IntN(len(members))
		m, at, long := members[i], time.Now(), 500*time.Millisecond+rand.N(7*time.Second)
		if rand.IntN(4) == 0 {
			long += broker.AckWait // somebody else is given what it holds
		}
		what := []string{"kill", "freeze", "cut", "hold"}[rand.IntN(4)]
		switch what {
		case "kill":
			m.kill()
			members[i] = start(m.name, m.cable)
		case "freeze":
			m.signal(t, syscall.SIGSTOP)
			time.Sleep(long)
			m.signal(t, syscall.SIGCONT)
		case "cut":
			m.cut()
			time.Sleep(long)
			m.join()
		case "hold":
			m.hold()
			time.Sleep(long)
			m.join()
		}
		all = append(all, disturbed{what, at, time.Now()})
	}
	if err := publishing.Wait(); err != nil {
		t.Fatal(err)
	}
	f.settled(90 * time.Second)
	counted, again := map[string]int{}, 0
	for _, d := range all {
		counted[d.what]++
	}
	for i, id := range f.accepted {
		calls := f.calls(id.ID)
		if again += len(calls) - 1; len(calls) == 1 {
			continue
		}
		for _, c := range calls[:max(0, len(calls)-1)] {
			if !slices.ContainsFunc(all, func(d disturbed) bool {
				return c.At.After(d.from.Add(-time.Second)) && c.At.Before(d.to.Add(time.Second))
			}) {
				t.Errorf("%s was called %v after the start and again, and nobody was disturbed then", id, c.At.Sub(began))
			}
		}
		if len(calls) == 0 {
			t.Errorf("request %d, %s, was not called", i, id)
		}
	}
	statuses := map[string]int{} // to ask for each takes a minute
	for _, id := range f.accepted {
		if all := f.answers.Answers(id); len(all) > 0 {
			statuses[string(all[len(all)-1].Status)]++
		}
	}
	t.Logf("%d requests, %v: %v; %d consumers were made and %d went; %d calls more than requests", len(f.accepted), counted, statuses, made.Load(), gone.Load(), again)
	if again > len(all) {
		t.Errorf("%d calls more than requests, %d times somebody was disturbed", again, len(all))
	}
	if statuses[string(fetchworker.StatusOK)] != len(f.accepted) {
		t.Errorf("%d requests ended as %v", len(f.accepted), statuses)
	}
	if gone.Load() < 10 {
		t.Error("consumers did not come and go")
	}
}

// TestAThousandAgentsLeaveNothing asks one provider for a thousand agents in
// turn, on three servers: when the time of rest is over, all processes hold and
// do what they did before. (An hour of it is in internal/fetch.)
func TestAThousandAgentsLeaveNothing(t *testing.T) {
	begin(t)
	if !full {
		t.Skip("three servers and two minutes: with FETCH_CHAOS=full")
	}
	const agents = 1000
	servers := threePlainServers(t)
	var addresses []string
	for _, s := range servers {
		addresses = append(addresses, "nats://127.0.0.1:"+strconv.Itoa(s.port))
	}
	address := strings.Join(addresses, ",")
	env := map[string]string{"NATS_URL": address, "FETCH_REPLICAS": "3"}
	until(t, time.Minute, "the streams are there", func() bool {
		return launch(t, "worker apply", program("worker"), env, "apply").ended(t, time.Minute) == 0
	})
	nc, err := nats.Connect(address, nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	f := withServer(t, well(0), nc, nc, env)
	f.workerPath = soonAtRest(t)
	f.env["FETCH_CATALOG"], f.env["FETCH_HTTP_ADDR"] = providersAtRest(t, f.upstream.URL(), 1), "127.0.0.1:0"
	f.env["REST0_REQUESTS_PER_MINUTE"] = "0"
	worker := f.worker()
	http := field(t, worker.says(t, `"serving"`), "http")
	ask := func(agent string) time.Duration {
		c, err := fetchworker.NewClient(nc, agent)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		asked := time.Now()
		if _, err := c.Fetch(t.Context(), fetchworker.Request{Provider: atRest(0), Operation: "quote", Params: params("fmp", "A"), MaxAge: new(fetchworker.Duration)}); err != nil {
			t.Fatal(err)
		}
		return time.Since(asked)
	}
	consumers := func() int {
		s, err := f.js.Stream(t.Context(), fetchworker.StreamRequests)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Consumers
	}
	processes := map[string]*process{"worker": worker}
	for _, s := range servers {
		processes[s.name] = s.process
	}
	type level struct {
		memory int           // KiB
		cpu    time.Duration // of ten seconds
	}
	watch := func() (consumed map[string]level, goroutines int) {
		until(t, 2*time.Minute, "no consumer is left", func() bool { return consumers() == 0 })
		time.Sleep(10 * time.Second) // what that leaves to do
		consumed = map[string]level{}
		for name, p := range processes {
			consumed[name] = level{0, -used(t, p)}
		}
		time.Sleep(10 * time.Second)
		for name, p := range processes {
			consumed[name] = level{resident(t, p), consumed[name].cpu + used(t, p)}
		}
		return consumed, scraped(t, http, "go_goroutines")
	}
	ask("first")
	before, goroutinesBefore := watch()
	var took []time.Duration
	most := 0
	for n := range agents {
		took = append(took, ask(fmt.Sprint("agent-", n)))
		most = max(most, n%50/49*consumers())
	}
	slices.Sort(took)
	asked := time.Now()
	after, goroutinesAfter := watch()
	t.Logf("%d agents: p50 %v, p99 %v, at most %d consumers; none %v later; goroutines %d, then %d", agents, took[agents/2], took[agents*99/100], most, time.Since(asked)-20*time.Second, goroutinesBefore, goroutinesAfter)
	for name := range processes {
		t.Logf("%s: before %d KiB and %v in ten seconds, after %d KiB and %v", name, before[name].memory, before[name].cpu, after[name].memory, after[name].cpu)
		if after[name].memory > before[name].memory+24<<10 || after[name].cpu > 2*before[name].cpu+200*time.Millisecond {
			t.Errorf("%s is not back to rest", name)
		}
	}
	if most == 0 || goroutinesAfter > goroutinesBefore+5 {
		t.Errorf("at most %d consumers; %d goroutines, %d before", most, goroutinesAfter, goroutinesBefore)
	}
}

// used is the processor's time that a process has used up.
func used(t *testing.T, p *process) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	var ticks int
	for _, one := range fields[11:13] { // in itself and in the system
		n, err := strconv.Atoi(one)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100)
}

// threePlainServers starts a cluster without accounts.
func threePlainServers(t *testing.T) []*natsServer {
	t.Helper()
	var ports []int
	var routes []string
	for range 3 {
		ports = append(ports, brokertest.FreePort(t))
		routes = append(routes, "nats://127.0.0.1:"+strconv.Itoa(ports[len(ports)-1]))
	}
	dir := t.TempDir()
	var all []*natsServer
	for i, port := range ports {
		s := &natsServer{name: fmt.Sprint("p", i+1), port: brokertest.FreePort(t)}
		config := filepath.Join(dir, s.name+".conf")
		if err := os.WriteFile(config, fmt.Appendf(nil, "server_name: %s\nlisten: 127.0.0.1:0\njetstream {}\ncluster {name: plain, listen: 127.0.0.1:0}\n", s.name), 0o600); err != nil {
			t.Fatal(err)
		}
		s.args = []string{serverRole, config, strconv.Itoa(s.port), strconv.Itoa(port), strings.Join(routes, ","), dir}
		s.start(t)
		all = append(all, s)
	}
	return all
}
