package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// aKey is every provider's key.
const aKey = "key-of-the-test-0123456789"

// fleet is a NATS server, a played provider, and the processes in between.
type fleet struct {
	t         *testing.T
	js        jetstream.JetStream
	nc        *nats.Conn        // of the agents
	answers   *dlqtest.Recorder // all that was stored, as a live subscriber sees it
	upstream  *providertest.Server
	env       map[string]string // of workers and replayers
	cgroup    string            // whose memory the programs have; empty: the test's own
	replayEnv map[string]string // of replayers, over it

	workerPath string // of another worker than is shipped; empty: that one

	mu       sync.Mutex
	agents   map[string]*fetchworker.Client
	accepted []fetchworker.Identity
	started  int
}

// newFleet starts a provider that answers so, and a server inside the test,
// which survives whatever is killed.
func newFleet(t *testing.T, answer func(*http.Request) *providertest.Step) *fleet {
	t.Helper()
	f, _ := newFleetIn(t, t.TempDir(), answer)
	return f
}

// newFleetIn is newFleet with the folder of its server's store.
func newFleetIn(t *testing.T, dir string, answer func(*http.Request) *providertest.Step) (*fleet, *brokertest.Broker) {
	t.Helper()
	b := brokertest.StartIn(t, dir, "127.0.0.1:0")
	t.Cleanup(b.Stop)
	return withServer(t, answer, b.NC, b.NC, map[string]string{"NATS_URL": b.Server.URL()}), b
}

// withServer is newFleet with the connections of an agent and of one who may
// read all streams.
func withServer(t *testing.T, answer func(*http.Request) *providertest.Step, agent, reader *nats.Conn, env map[string]string) *fleet {
	t.Helper()
	f := &fleet{t: t, agents: map[string]*fetchworker.Client{}, upstream: played(t, answer), env: map[string]string{
		"FMP_API_KEY": aKey, "FMP_REQUESTS_PER_MINUTE": "0", "FETCH_HTTP_ADDR": "off",
	}}
	f.env["FMP_BASE_URL"] = f.upstream.URL() + "/api/v3"
	maps.Copy(f.env, env)
	var err error
	if f.js, err = broker.JetStream(reader); err != nil {
		t.Fatal(err)
	}
	f.nc = agent
	f.answers = dlqtest.Record(t, agent)
	t.Cleanup(f.answers.Stop)
	return f
}

func played(t *testing.T, answer func(*http.Request) *providertest.Step) *providertest.Server {
	t.Helper()
	upstream, err := providertest.Listen()
	if err != nil {
		t.Fatal(err)
	}
	upstream.Fallback = answer
	t.Cleanup(upstream.Close)
	return upstream
}

// spawn starts a program and does not wait for it.
func (f *fleet) spawn(name string, more ...string) *process {
	f.t.Helper()
	env := maps.Clone(f.env)
	var args []string
	if name == "replayer" {
		args = []string{"run"}
		maps.Copy(env, f.replayEnv)
	}
	for i := 0; i < len(more); i += 2 {
		env[more[i]] = more[i+1]
	}
	f.started++
	path := program(name)
	if name == "worker" && f.workerPath != "" {
		path = f.workerPath
	}
	return f.run(fmt.Sprint(name, " ", f.started), path, env, args...)
}

// run starts a process in the cgroup that programs have.
func (f *fleet) run(name, path string, env map[string]string, args ...string) *process {
	f.t.Helper()
	if f.cgroup != "" { // it is in there before it takes any memory
		args = append([]string{"-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, f.cgroup, path}, args...)
		path = "/bin/sh"
	}
	return launch(f.t, name, path, env, args...)
}

// worker starts a worker and waits until it serves.
func (f *fleet) worker(more ...string) *process {
	f.t.Helper()
	p := f.spawn("worker", more...)
	p.says(f.t, `"serving"`)
	return p
}

// replayer starts a replayer and waits until it runs.
func (f *fleet) replayer() *process {
	f.t.Helper()
	p := f.spawn("replayer")
	p.says(f.t, `"replayer runs"`)
	return p
}

// agent is the client of an agent.
func (f *fleet) agent(name string) (*fetchworker.Client, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.agents[name]; c != nil {
		return c, nil
	}
	c, err := fetchworker.NewClient(f.nc, name)
	if err != nil {
		return nil, err
	}
	f.agents[name] = c
	f.t.Cleanup(c.Close)
	return c, nil
}

// ask submits a request for a symbol, under that symbol as id, and notes that
// it was accepted. It may be called from any goroutine.
func (f *fleet) ask(r fetchworker.Request, symbol string) error {
	r.ID, r.Params = symbol, params(r.Provider, symbol)
	return f.submit(r)
}

// submit is ask for a request that is whole.
func (f *fleet) submit(r fetchworker.Request) error {
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	agent, err := f.agent(r.Agent)
	if err != nil {
		return err
	}
	receipt, err := agent.Submit(ctx, r)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.accepted = append(f.accepted, receipt.Identity)
	f.mu.Unlock()
	return nil
}

func params(provider, symbol string) json.RawMessage {
	if provider == "polygon" {
		return fmt.Appendf(nil, `{"symbol":%q,"from":"2026-02-09","to":"2026-02-13"}`, symbol)
	}
	return fmt.Appendf(nil, `{"symbol":%q}`, symbol)
}

// quote asks for a quote of a symbol on behalf of an agent.
func (f *fleet) quote(agent, symbol string) fetchworker.Identity {
	f.t.Helper()
	r := fetchworker.Request{Provider: "fmp", Operation: "quote", Agent: agent}
	if err := f.ask(r, symbol); err != nil {
		f.t.Fatal(err)
	}
	r.ID = symbol
	return r.Identity()
}

// final waits for the final answer of a request.
func (f *fleet) final(id fetchworker.Identity, within time.Duration) fetchworker.Answer {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), within)
	defer cancel()
	agent, err := f.agent(id.Agent)
	if err != nil {
		f.t.Fatal(err)
	}
	a, err := agent.Wait(ctx, id)
	if err != nil {
		f.t.Fatalf("%s has no final answer within %v: %v", id, within, err)
	}
	return a
}

// settled waits until nothing waits anywhere, and then checks what must hold:
// every accepted request has ended, and has ended once.
func (f *fleet) settled(within time.Duration) {
	f.t.Helper()
	until(f.t, within, "all queues are empty", func() bool { return f.nothingWaits() })
	dlqtest.Check{Accepted: f.accepted, Retries: 3, Empty: true}.Run(f.t, f.js)
	for _, id := range f.accepted {
		finals := 0
		for _, a := range f.answers.Answers(id) {
			if a.Final {
				finals++
			}
		}
		if finals > 1 {
			f.t.Errorf("%s was given %d final answers", id, finals)
		}
	}
}

// statuses counts how the accepted requests ended, failures by their code.
func (f *fleet) statuses() map[string]int {
	f.t.Helper()
	counted := map[string]int{}
	for _, id := range f.accepted {
		a := f.final(id, 10*time.Second)
		if a.Problem != nil {
			counted[string(a.Problem.Code())]++
		} else {
			counted[string(a.Status)]++
		}
	}
	return counted
}

// count is how many messages a stream holds; -1 while the server is away.
func (f *fleet) count(stream string) int {
	ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Second)
	defer cancel()
	s, err := f.js.Stream(ctx, stream)
	if err != nil {
		return -1
	}
	return int(s.CachedInfo().State.Msgs)
}

// nothingWaits reports whether no request is queued, parked or due, nor anything in
// more streams. It looks along the flow of work and once around its loop, since a
// message on its way from one queue to the next is in both for a moment, and never
// in none.
func (f *fleet) nothingWaits(more ...string) bool {
	for _, stream := range append(more, fetchworker.StreamRequests, wire.StreamDLQ, wire.StreamReplay, wire.StreamDLQ) {
		if f.count(stream) != 0 {
			return false
		}
	}
	return true
}

// calls are the calls that arrived for a symbol.
func (f *fleet) calls(symbol string) []providertest.Call {
	var some []providertest.Call
	for _, c := range f.upstream.Calls() {
		if path.Base(c.Target) == symbol {
			some = append(some, c)
		}
	}
	return some
}

// called waits until calls for the symbol have arrived.
func (f *fleet) called(symbol string, times int) {
	f.t.Helper()
	until(f.t, 30*time.Second, fmt.Sprint(times, " calls for ", symbol), func() bool { return len(f.calls(symbol)) >= times })
}

// a quote as the provider has it, with spaces that nobody may tidy up.
const aQuote = "[ {\"symbol\" : \"AAPL\",\n\t\"price\": 272.1900, \"name\": \"Äpfel\"} ]\n"

// well answers every call with a quote, a little late.
func well(latency time.Duration) func(*http.Request) *providertest.Step {
	return func(*http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, aQuote)
		step.Latency = latency
		return &step
	}
}
