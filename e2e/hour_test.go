package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// hour selects the operator's hour: "short" goes through everything once, a
// minute and a half; "full" again and again for an hour, "20m" for so long.
var hour = os.Getenv("FETCH_HOUR")

// TestAnOperatorsHour does to a running fleet what operators and machines do,
// while three agents ask on. Nothing is lost, nothing called twice, nobody waits
// who asks an untouched provider, and after each step /readyz and the doctor say
// the truth.
func TestAnOperatorsHour(t *testing.T) {
	lasts := time.Hour
	switch hour {
	case "":
		t.Skip("minutes: make operator-hour, or FETCH_HOUR=short")
	case "short":
		lasts = 0
	case "full":
	default:
		var err error
		if lasts, err = time.ParseDuration(hour); err != nil {
			t.Fatalf("FETCH_HOUR is short, full, or a length such as 20m: %v", err)
		}
	}
	h := newShift(t)
	for begun, round := time.Now(), 1; ; round++ {
		t.Logf("round %d, after %v", round, time.Since(begun).Round(time.Second))
		for _, step := range []struct {
			name string
			do   func()
		}{
			{"limits lowered and raised", h.limitsChange},
			{"a pause", h.aPause},
			{"consumers deleted", h.consumersGo},
			{"a stream deleted", h.aStreamGoes},
			{"the bucket deleted", h.theBucketGoes},
			{"a store full", h.aStoreFills},
			{"the disk full", h.theDiskFills},
			{"the server frozen", h.theServerFreezes},
			{"the server killed", h.theServerDies},
			{"a worker killed", h.aWorkerDies},
		} {
			h.steps = append(h.steps, hourStep{time.Now(), step.name})
			step.do()
		}
		if time.Since(begun) > lasts {
			break
		}
	}
	h.ends()
}

// shift is a fleet on a server of its own process, and agents that ask.
type shift struct {
	*fleet
	server *natsServer
	data   string // where the server keeps it
	noDisk error  // it is not a disk of its own
	worker *process
	ready  string

	mu     sync.Mutex
	spoilt []window // when everybody waited for the server, or could not know better
	slow   []string
	stop   context.CancelFunc
	agents sync.WaitGroup
	killed []time.Time
	steps  []hourStep // when each began
}

type hourStep struct {
	at   time.Time
	what string
}

// told is when a call began, and in which step.
func (h *shift) told(calls []providertest.Call) string {
	var all []string
	for _, c := range calls {
		step := hourStep{what: "before the first step"}
		for _, s := range h.steps {
			if s.at.Before(c.At) {
				step = s
			}
		}
		all = append(all, fmt.Sprintf("at %s, %v into %s", c.At.Format("15:04:05.000"), c.At.Sub(step.at).Round(time.Millisecond), step.what))
	}
	return strings.Join(all, "; ")
}

type window struct{ from, to time.Time }

func newShift(t *testing.T) *shift {
	t.Helper()
	config := filepath.Join(t.TempDir(), "plain.conf")
	if err := os.WriteFile(config, []byte("server_name: plain\nlisten: 127.0.0.1:0\njetstream { sync_interval: always, max_file_store: 20GB }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	port := brokertest.FreePort(t)
	data, noDisk := mountDisk(t, "1g")
	server := &natsServer{name: "plain", port: port, args: []string{serverRole, config, strconv.Itoa(port), "0", "", data}}
	server.start(t)
	url := "nats://127.0.0.1:" + strconv.Itoa(port)
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	h := &shift{server: server, data: data, noDisk: noDisk}
	h.fleet = withServer(t, playedBoth, nc, nc, map[string]string{
		"NATS_URL": url, "FMP_REQUESTS_PER_MINUTE": "6000", "USER": "ann",
	})
	h.env["POLYGON_API_KEY"], h.env["POLYGON_BASE_URL"], h.env["POLYGON_REQUESTS_PER_MINUTE"] = aKey, h.upstream.URL(), "0"
	h.start()
	h.fleet.worker()
	h.replayer()
	ctx, stop := context.WithCancel(t.Context())
	h.stop = stop
	h.agents.Go(func() { h.asks(ctx, "alice", "fmp", "quote") })
	h.agents.Go(func() { h.asks(ctx, "bob", "fmp", "quote") })
	h.agents.Go(func() { h.asks(ctx, "carol", "polygon", "previous_close") })
	t.Cleanup(func() { stop(); h.agents.Wait() })
	return h
}

// start starts the worker whose readiness is looked at.
func (h *shift) start() {
	h.worker = h.fleet.worker("FETCH_HTTP_ADDR", "127.0.0.1:0")
	h.ready = "http://" + field(h.t, h.worker.says(h.t, `"serving"`), "http") + "/readyz"
}

// asks is an agent's day: a request, its answer, and on.
func (h *shift) asks(ctx context.Context, agent, provider, operation string) {
	client, err := h.agent(agent)
	if err != nil {
		h.t.Error(err)
		return
	}
	for n := 0; ctx.Err() == nil; n++ {
		id := fmt.Sprint(agent, "-", n)
		r := fetchworker.Request{Provider: provider, Operation: operation, Agent: agent, ID: id, Params: fmt.Appendf(nil, `{"symbol":%q}`, strings.ToUpper(id))}
		h.fleet.mu.Lock()
		h.accepted = append(h.accepted, r.Identity())
		h.fleet.mu.Unlock()
		asked := time.Now()
		answering := make(chan struct{})
		h.agents.Go(func() {
			defer close(answering)
			patient, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
			defer done()
			a, err := client.Fetch(patient, r)
			took := time.Since(asked)
			h.mu.Lock()
			defer h.mu.Unlock()
			if err != nil || a.Status != fetchworker.StatusOK {
				h.slow = append(h.slow, fmt.Sprintf("%s: %v, %s", r.Identity(), err, a.Status))
			}
			if provider == "polygon" && took > 2*time.Second && !h.excused(asked, asked.Add(took)) {
				h.slow = append(h.slow, fmt.Sprintf("%s took %v from %s", r.Identity(), took.Round(time.Millisecond), asked.Format(time.TimeOnly)))
			}
		})
		select {
		case <-answering:
		case <-time.After(250 * time.Millisecond): //nolint:forbidigo // beside a context
		case <-ctx.Done():
		}
		if pause := 250*time.Millisecond - time.Since(asked); pause > 0 {
			time.Sleep(pause)
		}
	}
}

// excused reports whether a time overlaps one in which everybody had to wait.
func (h *shift) excused(from, to time.Time) bool {
	return slices.ContainsFunc(h.spoilt, func(w window) bool {
		return from.Before(w.to.Add(time.Second)) && (w.to.IsZero() || to.After(w.from))
	})
}

// everybody waits while do is done.
func (h *shift) everybody(do func()) {
	h.mu.Lock()
	h.spoilt = append(h.spoilt, window{time.Now(), time.Now().Add(time.Hour)})
	i := len(h.spoilt) - 1
	h.mu.Unlock()
	do()
	h.mu.Lock()
	h.spoilt[i].to = time.Now()
	h.mu.Unlock()
}

// run runs a command and returns its exit code and words.
func (h *shift) run(name string, args ...string) (code int, words string) {
	h.t.Helper()
	p := launch(h.t, name+" "+args[0], program(name), h.env, args...)
	code = p.ended(h.t, time.Minute)
	return code, p.log.tail(30)
}

func (h *shift) does(name string, args ...string) {
	h.t.Helper()
	if code, words := h.run(name, args...); code != 0 {
		h.t.Errorf("%s %v: exit code %d, %s", name, args, code, words)
	}
}

// unready waits until /readyz says that something is missing, by its name.
func (h *shift) unready(within time.Duration, name string) {
	h.t.Helper()
	begun := time.Now()
	until(h.t, within, "/readyz names "+name, func() bool {
		status, text := get(h.t, h.ready)
		return status == http.StatusServiceUnavailable && strings.Contains(text, name)
	})
	h.t.Logf("  named after %v", time.Since(begun).Round(100*time.Millisecond))
}

// well waits until /readyz and the doctor say that all is well, and it is:
// what is asked now is answered.
func (h *shift) well(what string) {
	h.t.Helper()
	begun := time.Now()
	until(h.t, time.Minute, what+": /readyz is well again", func() bool { status, _ := get(h.t, h.ready); return status == http.StatusOK })
	ready := time.Since(begun)
	var words string
	deadline := time.Now().Add(time.Minute)
	for code := -1; code != 0; {
		if code, words = h.run("replayer", "doctor"); code != 0 && time.Now().After(deadline) {
			h.t.Errorf("%s: the doctor says after a minute: %s", what, words)
			break
		}
	}
	h.t.Logf("%s: ready after %v, the doctor content after %v", what, ready.Round(100*time.Millisecond), time.Since(begun).Round(100*time.Millisecond))
}

func (h *shift) limitsChange() {
	h.does("replayer", "limit", "fmp", "30/min", "--reason", "somebody else needs them")
	time.Sleep(10 * time.Second)
	h.does("replayer", "limit", "fmp", "6000/min", "--reason", "they do not")
	h.well("limits lowered and raised")
}

func (h *shift) aPause() {
	h.does("replayer", "pause", "fmp", "--for", "1h", "--reason", "maintenance")
	time.Sleep(10 * time.Second)
	h.does("replayer", "resume", "fmp", "--reason", "over")
	h.well("a pause")
}

func (h *shift) consumersGo() {
	for _, stream := range []string{fetchworker.StreamRequests, wire.StreamReplay, wire.StreamDLQ} {
		s, err := h.js.Stream(h.t.Context(), stream)
		if err != nil {
			h.t.Fatal(err)
		}
		names := s.ConsumerNames(h.t.Context())
		for name := range names.Name() {
			if !strings.HasPrefix(name, "polygon") {
				if err := h.js.DeleteConsumer(h.t.Context(), stream, name); err != nil {
					h.t.Error(err)
				}
			}
		}
	}
	h.well("consumers deleted")
}

func (h *shift) aStreamGoes() {
	if err := h.js.DeleteStream(h.t.Context(), fetchworker.StreamEvents); err != nil {
		h.t.Fatal(err)
	}
	h.unready(10*time.Second, fetchworker.StreamEvents)
	h.does("worker", "apply")
	h.well("a stream deleted")
}

func (h *shift) theBucketGoes() {
	h.everybody(func() {
		if err := h.js.DeleteStream(h.t.Context(), "KV_"+wire.BucketProviders); err != nil {
			h.t.Fatal(err)
		}
		h.unready(10*time.Second, wire.BucketProviders)
		h.does("worker", "apply")
		h.well("the bucket deleted")
	})
}

func (h *shift) aStoreFills() {
	size := func(bytes int64) {
		s, err := h.js.Stream(h.t.Context(), fetchworker.StreamResults)
		if err != nil {
			h.t.Fatal(err)
		}
		config := s.CachedInfo().Config
		if config.MaxBytes = bytes; bytes == 0 {
			config.MaxBytes = int64(s.CachedInfo().State.Bytes)
		}
		if _, err := h.js.UpdateStream(h.t.Context(), config); err != nil {
			h.t.Fatal(err)
		}
	}
	h.everybody(func() {
		size(0)
		h.unready(10*time.Second, fetchworker.StreamResults)
		if code, words := h.run("replayer", "doctor"); code == 0 {
			h.t.Errorf("a store is full, and the doctor says %s", words)
		}
		size(4 << 30)
		h.well("a store full")
	})
}

func (h *shift) theServerFreezes() {
	h.everybody(func() {
		h.server.signal(h.t, syscall.SIGSTOP)
		until(h.t, 30*time.Second, "/readyz says that the server is away", func() bool { status, _ := get(h.t, h.ready); return status == http.StatusServiceUnavailable })
		time.Sleep(5 * time.Second)
		h.server.signal(h.t, syscall.SIGCONT)
		h.well("the server frozen")
	})
}

func (h *shift) theServerDies() {
	h.everybody(func() {
		h.server.kill()
		until(h.t, 30*time.Second, "/readyz says that the server is away", func() bool { status, _ := get(h.t, h.ready); return status == http.StatusServiceUnavailable })
		h.server.start(h.t)
		h.well("the server killed")
	})
}

func (h *shift) aWorkerDies() {
	h.everybody(func() { // its requests in hand move on within 12 s
		h.killed = append(h.killed, time.Now())
		h.worker.kill()
		h.start()
		time.Sleep(12 * time.Second)
	})
	h.well("a worker killed")
}

// ends lets the agents go home, and counts.
func (h *shift) ends() {
	h.stop()
	h.agents.Wait()
	h.settled(2 * time.Minute)
	twice := 0
	for _, id := range h.accepted {
		calls := h.calls(strings.ToUpper(id.ID))
		if id.Provider == "polygon" {
			calls = h.closes(strings.ToUpper(id.ID))
		}
		switch {
		case len(calls) == 1:
		case len(calls) == 2 && slices.ContainsFunc(h.killed, func(at time.Time) bool { return at.Sub(calls[0].At).Abs() < time.Second }):
			twice++ // it was under way when its worker was killed: nobody knows what came
		default:
			h.t.Errorf("%s: %d calls: %s", id, len(calls), h.told(calls))
		}
	}
	for _, line := range h.slow {
		h.t.Error(line)
	}
	h.t.Logf("%d requests: %v; %d calls were under way when their worker was killed", len(h.accepted), h.statuses(), twice)
}

// closes are the calls for the previous close of a symbol.
func (h *shift) closes(symbol string) (some []providertest.Call) {
	for _, c := range h.upstream.Calls() {
		if strings.Contains(c.Target, "/"+symbol+"/") {
			some = append(some, c)
		}
	}
	return some
}

// playedBoth answers quotes, and closes of another provider.
func playedBoth(r *http.Request) *providertest.Step {
	step := *well(20 * time.Millisecond)(r)
	if strings.HasPrefix(r.URL.Path, "/v2/") {
		step = providertest.JSON(http.StatusOK, `{"status":"OK","results":[{"c":1}],"resultsCount":1}`)
	}
	return &step
}
