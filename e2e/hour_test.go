package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
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
	own    string // the name that only its calls tell
	all    []*process
	ready  string

	mu     sync.Mutex
	spoilt []window // when everybody waited for the server, or could not know better
	slow   []string
	stop   context.CancelFunc
	agents sync.WaitGroup
	deaths map[string]window // of workers, by their own names: from the signal until it was gone
	away   []window          // when the server could store nothing
	steps  []hourStep        // when each began
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
		all = append(all, fmt.Sprintf("%s at %s, %v into %s", workerOf(c), c.At.Format("15:04:05.000"), c.At.Sub(step.at).Round(time.Millisecond), step.what))
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
	// A register that is lost counts as full for its longest window, and here one
	// is lost each minute: under a limit by the minute nobody would ever be called.
	catalogue := filepath.Join(t.TempDir(), "catalog.yaml")
	if err := os.WriteFile(catalogue, []byte("providers:\n  fmp:\n    limits: 100/s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &shift{server: server, data: data, noDisk: noDisk, deaths: map[string]window{}}
	h.fleet = withServer(t, playedBoth, nc, nc, map[string]string{
		"NATS_URL": url, "FETCH_CATALOG": catalogue, "USER": "ann", "POLYGON_REQUESTS_PER_MINUTE": "0",
	})
	h.env["POLYGON_BASE_URL"] = h.upstream.URL()
	delete(h.env, "FMP_REQUESTS_PER_MINUTE")
	h.start()
	h.spawned()
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
	h.worker, h.own = h.spawned("FETCH_HTTP_ADDR", "127.0.0.1:0")
	h.ready = "http://" + field(h.t, h.worker.says(h.t, `"serving"`), "http") + "/readyz"
}

// spawned starts a worker whose calls tell its own name, by the key that it has.
// (Under an address of its own its calls would be others than those of the rest
// of the fleet.)
func (h *shift) spawned(more ...string) (p *process, own string) {
	own = fmt.Sprint("worker-", h.started+1)
	p = h.fleet.worker(append(more, "FMP_API_KEY", own+"-"+aKey, "POLYGON_API_KEY", own+"-"+aKey)...)
	h.all = append(h.all, p)
	return p, own
}

// logged are the lines that workers have logged of a request.
func (h *shift) logged(id fetchworker.Identity) (lines string) {
	for _, p := range h.all {
		for line := range strings.Lines(p.log.tail(1 << 30)) {
			if strings.Contains(line, `"request_id":"`+id.ID+`"`) {
				lines += "\n  " + p.name + " " + strings.TrimSpace(line)
			}
		}
	}
	return lines
}

// workerOf is the worker that made a call.
func workerOf(c providertest.Call) string {
	return regexp.MustCompile(`worker-\d+`).FindString(c.RawTarget + fmt.Sprint(c.Header))
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

// nothingStored notes that the server can store nothing while do is done.
func (h *shift) nothingStored(do func()) {
	from := time.Now()
	do()
	h.away = append(h.away, window{from, time.Now()})
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
	h.does("replayer", "limit", "fmp", "100/s", "--reason", "they do not")
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
		h.nothingStored(func() {
			size(0)
			h.unready(10*time.Second, fetchworker.StreamResults)
			if code, words := h.run("replayer", "doctor"); code == 0 {
				h.t.Errorf("a store is full, and the doctor says %s", words)
			}
			size(4 << 30)
		})
		h.well("a store full")
	})
}

func (h *shift) theServerFreezes() {
	h.everybody(func() {
		h.nothingStored(func() {
			h.server.signal(h.t, syscall.SIGSTOP)
			until(h.t, 30*time.Second, "/readyz says that the server is away", func() bool { status, _ := get(h.t, h.ready); return status == http.StatusServiceUnavailable })
			time.Sleep(5 * time.Second)
			h.server.signal(h.t, syscall.SIGCONT)
		})
		h.well("the server frozen")
	})
}

func (h *shift) theServerDies() {
	h.everybody(func() {
		h.nothingStored(func() {
			h.server.kill()
			until(h.t, 30*time.Second, "/readyz says that the server is away", func() bool { status, _ := get(h.t, h.ready); return status == http.StatusServiceUnavailable })
			h.server.start(h.t)
		})
		h.well("the server killed")
	})
}

func (h *shift) aWorkerDies() {
	h.everybody(func() { // its requests in hand move on within 12 s
		signalled := time.Now()
		h.worker.kill()
		h.deaths[h.own] = window{signalled, time.Now()}
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
		if len(calls) == 1 {
			continue
		}
		stored := h.stored(id)
		why := mayBeTwice(calls, stored, h.deaths, h.away)
		if why != "" {
			h.t.Errorf("%s: %d calls: %s; its answer was stored at %s; %s%s", id, len(calls), h.told(calls), stored.Format("15:04:05.000"), why, h.logged(id))
			continue
		}
		twice++
		h.t.Logf("%s was under way when its worker was killed: %s; its answer was stored at %s", id, h.told(calls), stored.Format("15:04:05.000"))
	}
	for _, line := range h.slow {
		h.t.Error(line)
	}
	h.t.Logf("%d requests: %v; %d calls were under way when their worker was killed", len(h.accepted), h.statuses(), twice)
}

// stored is when the final answer of a request was stored.
func (h *shift) stored(id fetchworker.Identity) time.Time {
	h.t.Helper()
	s, err := h.js.Stream(h.t.Context(), fetchworker.StreamResults)
	if err != nil {
		h.t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(h.t.Context(), fetchworker.ResultSubject(id))
	if err != nil {
		h.t.Fatal(err)
	}
	return m.Time
}

const (
	// inHand is how long a worker may have an answer that it has not stored, and
	// inHandAfter how long when the server could store nothing before.
	inHand, inHandAfter = 2 * time.Second, 5 * time.Second
)

// mayBeTwice is empty where nobody can know of a first call when a second is
// made, and else says why that was known: the worker that made the first was
// killed after it had begun and before an answer was stored, for which there had
// been no time.
func mayBeTwice(calls []providertest.Call, stored time.Time, deaths map[string]window, away []window) string {
	if len(calls) != 2 {
		return "one call is all that a request may cost, and two where a worker died over the first"
	}
	first, second := calls[0].At, calls[1].At
	death, died := deaths[workerOf(calls[0])]
	switch {
	case !died:
		return "the worker that made the first was never killed"
	case first.After(death.to):
		return "a dead worker called"
	case second.Before(death.from):
		return "the worker that made the first was killed only after the second"
	case stored.Before(death.from):
		return "the answer was stored before the worker that made the first was killed"
	}
	able, most := first, inHand
	for _, w := range away {
		if w.from.Before(death.from) && w.to.After(first) && w.to.After(able) {
			able, most = w.to, inHandAfter
		}
	}
	if had := death.from.Sub(able); had > most {
		return fmt.Sprintf("the worker that made the first had %v to store its answer before it was killed", had.Round(time.Millisecond))
	}
	return ""
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

// TestWhatMayBeCalledTwice: only what was under way when its worker was killed,
// and had no time to be stored.
func TestWhatMayBeCalledTwice(t *testing.T) {
	begin := time.Date(2026, 2, 13, 21, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	call := func(worker string, ms int) providertest.Call {
		return providertest.Call{At: at(ms), RawTarget: "/api/v3/quote/AAPL?apikey=" + worker + "-key"}
	}
	span := func(from, to int) window { return window{at(from), at(to)} }
	for name, c := range map[string]struct {
		calls  []providertest.Call
		stored int
		died   window // worker-1
		away   []window
		twice  bool
	}{
		"killed over it": {calls: []providertest.Call{call("worker-1", 0), call("worker-2", 10_000)}, stored: 10_050, died: span(20, 25), twice: true},
		"killed over it, three calls": {
			calls:  []providertest.Call{call("worker-1", 0), call("worker-2", 10_000), call("worker-3", 20_000)},
			stored: 20_050, died: span(20, 25),
		},
		"killed long after it":                {calls: []providertest.Call{call("worker-1", 0), call("worker-2", 10_000)}, stored: 10_050, died: span(2100, 2105)},
		"another was killed":                  {calls: []providertest.Call{call("worker-2", 0), call("worker-3", 10_000)}, stored: 10_050, died: span(20, 25)},
		"by the same twice":                   {calls: []providertest.Call{call("worker-2", 0), call("worker-2", 10_000)}, stored: 10_050, died: span(20, 25)},
		"killed before it":                    {calls: []providertest.Call{call("worker-1", 30), call("worker-2", 10_000)}, stored: 10_050, died: span(20, 25)},
		"killed after the second":             {calls: []providertest.Call{call("worker-1", 0), call("worker-2", 10)}, stored: 50, died: span(20, 25)},
		"killed after it was stored":          {calls: []providertest.Call{call("worker-1", 0), call("worker-2", 10_000)}, stored: 15, died: span(20, 25)},
		"killed when it could not be stored":  {calls: []providertest.Call{call("worker-1", 0), call("worker-2", 20_000)}, stored: 20_050, died: span(9000, 9005), away: []window{span(-5000, 8000)}, twice: true},
		"killed when the server was away":     {calls: []providertest.Call{call("worker-1", 0), call("worker-2", 20_000)}, stored: 20_050, died: span(7000, 7005), away: []window{span(10, 8000)}, twice: true},
		"killed long after it could be":       {calls: []providertest.Call{call("worker-1", 0), call("worker-2", 20_000)}, stored: 20_050, died: span(13_100, 13_105), away: []window{span(10, 8000)}},
		"the server had been away before":     {calls: []providertest.Call{call("worker-1", 0), call("worker-2", 20_000)}, stored: 20_050, died: span(2100, 2105), away: []window{span(-8000, -10)}},
		"the server was away after the death": {calls: []providertest.Call{call("worker-1", 0), call("worker-2", 20_000)}, stored: 20_050, died: span(2100, 2105), away: []window{span(2200, 8000)}},
		"called once":                         {calls: []providertest.Call{call("worker-1", 0)}, stored: 50, died: span(20, 25)},
		"never called":                        {stored: 50, died: span(20, 25)},
	} {
		deaths := map[string]window{"worker-1": c.died}
		if why := mayBeTwice(c.calls, at(c.stored), deaths, c.away); (why == "") != c.twice {
			t.Errorf("%s: %q", name, why)
		}
	}
}
